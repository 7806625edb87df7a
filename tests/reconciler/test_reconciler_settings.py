"""Settings, errors and the other small parts."""

from __future__ import annotations

import logging

import pytest
from kubernetes.aio.client.exceptions import ApiException
from objects import add_claim, add_pod, make_pool, make_store

from shoal.api.gpu_pool import GPUPool
from shoal.api.load import parse_object
from shoal.domain.pool import Holder, NodeStock, Stock
from shoal.reconciler.clock import make_clock, steady
from shoal.reconciler.errors import to_cluster_error
from shoal.reconciler.health import STUCK_SECONDS, find_illness
from shoal.reconciler.inventory import Inventory, count_orphans
from shoal.reconciler.logs import JsonFormatter
from shoal.reconciler.pool_status import make_pool_status
from shoal.reconciler.settings import SettingsError, read_settings
from shoal.reconciler.workqueue import WorkQueue


def test_defaults() -> None:
    settings = read_settings({"SHOAL_NAMESPACE": "ns", "POD_IP": "127.5.0.1", "POD_NAME": "op-0"})
    assert (settings.namespace, settings.identity, settings.xds_address) == ("ns", "op-0", "127.5.0.1:18000")
    assert (settings.planning_interval, settings.resync_interval, settings.max_concurrent_moves) == (5.0, 60.0, None)
    assert settings.router_image is None
    assert settings.profiler_image is None
    assert settings.json_logs


def test_what_the_chart_sets() -> None:
    settings = read_settings(
        {
            "POD_NAMESPACE": "ns",
            "SHOAL_WATCH_NAMESPACES": "b,a",
            "SHOAL_MAX_CONCURRENT_MOVES": "0",
            "SHOAL_PAUSED": "true",
            "SHOAL_PROMETHEUS_URL": "",
            "SHOAL_LOG_FORMAT": "text",
        }
    )
    assert settings.watch_namespaces == ("a", "b")
    assert (settings.max_concurrent_moves, settings.paused, settings.prometheus_url) == (None, True, None)
    assert not settings.json_logs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOAL_PLANNING_INTERVAL_SECONDS", "often"),
        ("SHOAL_PLANNING_INTERVAL_SECONDS", "0"),
        ("SHOAL_WORKERS", "1.5"),
        ("SHOAL_XDS_PORT", "70000"),
        ("SHOAL_PAUSED", "maybe"),
        ("SHOAL_RESYNC_SECONDS", "nan"),
    ],
)
def test_bad_settings_are_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})


def test_the_clock_ignores_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = make_clock()
    before = clock()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert 0 <= clock() - before < 1
    assert steady() <= steady()


@pytest.mark.parametrize(
    ("body", "reason", "message"),
    [
        ('{"reason": "NotFound", "message": "no such pod"}', "NotFound", "no such pod"),
        ("<html>", "", "Gone"),
        ("[]", "", "Gone"),
        (None, "", "Gone"),
    ],
)
def test_refusals_are_converted(body: str | None, reason: str, message: str) -> None:
    found = to_cluster_error(ApiException(status=404, reason="Gone", body=body))
    assert (found.status, found.reason, found.message) == (404, reason, message)
    assert found.is_not_found


def test_broken_connections_are_transient() -> None:
    for error in (TimeoutError(), OSError("reset"), ValueError("no JSON")):
        assert to_cluster_error(error).is_transient


def test_json_logs() -> None:
    record = logging.LogRecord("shoal", logging.WARNING, "file", 1, "it is %s", ("ü\n",), None)
    assert '"message": "it is ü\\n"' in JsonFormatter().format(record)


async def test_health() -> None:
    queue: WorkQueue[str] = WorkQueue()
    now = steady()
    fine = {"queue": queue, "interval": 60.0, "started_at": now, "leading": True}
    assert find_illness(listed_at=None, **fine) == {}  # type: ignore[arg-type]
    assert find_illness(listed_at=now - STUCK_SECONDS, **fine) == {}  # type: ignore[arg-type]
    assert "list" in find_illness(listed_at=now - STUCK_SECONDS - 100, **fine)  # type: ignore[arg-type]


def test_pool_status() -> None:
    resource = parse_object(GPUPool, make_pool())
    holders = (Holder("Shoal", 3), Holder("ml/train-*", 2), Holder("hot", 1))
    stock = Stock((NodeStock("a", 8, 5),), holders)
    body = make_pool_status(resource, Inventory({"h100": stock}), None, 1000.0)
    assert body["status"]["stock"] == {"existing": 8, "free": 2, "shoal": 3, "others": 2, "hot": 1, "unready": 0}
    again = make_pool_status(resource, Inventory({"h100": stock}), body["status"], 2000.0)
    assert again == body
    unknown = make_pool_status(resource, Inventory({"h100": None}), body["status"], 2000.0)
    assert "stock" not in unknown["status"]
    assert unknown["status"]["conditions"][0]["reason"] == "InventoryUnreadable"


def test_orphan_claims_are_counted() -> None:
    store = make_store()
    ours = {"app.kubernetes.io/managed-by": "shoal", "shoal.dev/model-service": "chat"}
    add_pod(store, "lives")
    for name, pod in (("a", "lives"), ("b", "gone")):
        owner = [{"uid": f"uid-team-{pod}", "controller": True}]
        add_claim(store, name, "node", [0], labels=ours, ownerReferences=owner)
    assert count_orphans(store) == 1
