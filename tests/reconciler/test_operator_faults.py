"""Faults between operator and API server: gaps in watches, errors in streams, refusals, two leaders."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from operators import Site
from proxy import Proxy

pytestmark = pytest.mark.cluster

LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/shoal-operator"


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    with Proxy(site.cluster.admin_kubeconfig_path).running() as running:
        yield running


def test_delete_in_a_watch_gap_is_noticed(site: Site, proxy: Proxy) -> None:
    """Every DELETED event is lost; the resync finds what has vanished, and makes it again."""
    site.start(server=proxy.url, SHOAL_RESYNC_SECONDS="2")
    site.apply_service("chat")
    (variant,) = site.eventually(lambda: site.variants("chat"), "no Deployment")
    site.eventually(lambda: site.variants("chat")[0]["spec"]["replicas"] == 1, "not scaled")
    proxy.script.watch_line = lambda path, line: None if b'"type":"DELETED"' in line else line
    site.cluster.request(
        "DELETE", f"/apis/apps/v1/namespaces/{site.namespace}/deployments/{variant['metadata']['name']}"
    )
    site.eventually(
        lambda: [v for v in site.variants("chat") if v["metadata"]["uid"] != variant["metadata"]["uid"]],
        "the lost deletion was not noticed",
    )


def test_created_again_under_the_same_name(site: Site, proxy: Proxy) -> None:
    """Deleted and created again while the events of the deletion are lost: the new object is served as a new one."""
    site.start(server=proxy.url, SHOAL_RESYNC_SECONDS="2")
    site.apply_service("chat")
    site.eventually(lambda: site.variants("chat"), "no Deployment")
    proxy.script.watch_line = lambda path, line: None if b'"type":"DELETED"' in line else line
    site.cluster.request("DELETE", site.service_path("chat"))
    uid = site.apply_service("chat", priority=5)["metadata"]["uid"]
    site.eventually(
        lambda: [v for v in site.variants("chat") if v["metadata"]["ownerReferences"][0]["uid"] == uid],
        "the new object is not served",
        timeout=60,
    )


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"injected"}}',
        b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}',
        b'{"type":"MODIFIED","object":',
        b'{"type":"MODIFIED","object":{"metadata":{"name":"x"}}}',
    ],
    ids=["error-500", "gone-410", "malformed", "no-object"],
)
def test_errors_in_the_stream_end_nothing(site: Site, proxy: Proxy, line: bytes) -> None:
    """kopf ends for some of these; the process goes on, and what happened meanwhile is seen."""
    operator = site.start(server=proxy.url, SHOAL_RESYNC_SECONDS="5")
    site.apply_service("chat")
    site.eventually(lambda: site.variants("chat"), "no Deployment")
    hits = []

    def inject(path: str, original: bytes) -> bytes:
        if len(hits) < 5:
            hits.append(path)
            return line
        return original

    proxy.script.watch_line = inject
    site.apply_service("one", priority=1)
    site.apply_service("two", priority=2)
    site.eventually(lambda: site.variants("one") and site.variants("two"), "nothing is seen any more", timeout=60)
    assert hits
    assert operator.is_running


@pytest.mark.parametrize("status", [409, 422, 403, 429, 500])
def test_each_refused_write_is_tried_again(site: Site, proxy: Proxy, status: int) -> None:
    """Every write is refused at first: the end is the same, and no failure is hidden."""
    operator = site.start(server=proxy.url)
    site.eventually(lambda: "leading" in operator.text(), "not leading")
    refused: set[tuple[str, str]] = set()

    def refuse_once(write) -> int | None:  # type: ignore[no-untyped-def]
        key = (write.method, write.path)
        if key in refused:
            return None
        refused.add(key)
        return status

    proxy.script.before = refuse_once
    site.apply_service("chat")
    site.eventually(lambda: [v for v in site.variants("chat") if v["spec"]["replicas"] == 1], "never made", timeout=60)
    site.wait_for_status("chat", lambda found: bool(found.get("plan")), timeout=60)
    assert len(refused) >= 4
    assert operator.is_running
    assert "Traceback" not in operator.text()


def test_the_api_server_is_away_for_a_while(site: Site, proxy: Proxy) -> None:
    operator = site.start(server=proxy.url, SHOAL_RESYNC_SECONDS="2")
    site.apply_service("chat")
    site.eventually(lambda: site.variants("chat"), "no Deployment")
    proxy.closed = True
    site.apply_service("later")
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        assert operator.is_running
        time.sleep(0.2)
    proxy.closed = False
    site.eventually(lambda: site.variants("later"), "it does not recover", timeout=60)


@pytest.mark.long
def test_a_stopped_leader_writes_nothing_when_it_wakes(site: Site, proxy: Proxy) -> None:
    """SIGSTOP past the lease: the other takes over; SIGCONT: not one write comes from the old one."""
    old = site.start(identity="old", server=proxy.url)
    holder = lambda: site.cluster.request("GET", LEASE.format(site.operator_namespace))["spec"].get("holderIdentity")  # noqa: E731
    site.eventually(lambda: "leading" in old.text(), "not leading")
    new = site.start(identity="new")
    site.apply_service("before")
    site.eventually(lambda: site.variants("before"), "no Deployment")

    old.signal(signal.SIGSTOP)
    site.eventually(lambda: holder() == "new", "nobody took over", timeout=40)
    site.apply_service("chat")
    site.eventually(lambda: site.variants("chat"), "the new leader does not work")
    written = len(proxy.writes)
    # Work for the one that sleeps: it would scale and report if it believed to lead.
    site.apply_service("before", mode="Manual", manual={"replicas": 2})
    old.signal(signal.SIGCONT)
    site.eventually(lambda: "no longer leading" in old.text(), "it does not notice")
    site.eventually(lambda: [v["spec"]["replicas"] for v in site.variants("before")] == [2], "not scaled")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        assert len(proxy.writes) == written, proxy.writes[written:]
        time.sleep(0.2)
    assert holder() == "new"
    assert new.is_running
    assert old.is_running


def test_the_lease_is_given_back(site: Site) -> None:
    """A leader that ends in order lets the next one start at once."""
    first = site.start(identity="first")
    site.eventually(lambda: "leading" in first.text(), "not leading")
    second = site.start(identity="second")
    site.eventually(lambda: "starting as" in second.text(), "not started")
    assert first.stop() == 0
    lease = site.cluster.request("GET", LEASE.format(site.operator_namespace))
    assert lease["spec"].get("holderIdentity") in (None, "", "second")
    site.eventually(lambda: "leading" in second.text(), "nobody took over")
