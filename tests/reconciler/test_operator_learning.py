"""What a service learned is kept in a ModelProfile of its own: written, used again, never anybody else's, collected."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from operators import H100, Site, condition
from test_operator_live import router_address, traffic

from shoal.api.load import parse_object
from shoal.api.model_service import ModelService
from shoal.domain.configuration import Configuration
from shoal.domain.live import Evidence, Learned, Lesson, Tally, Target
from shoal.domain.profile import LengthMix, ModelFacts, ProfileRow, StepModel
from shoal.domain.service import EngineFacts, Objective, Service, ServiceKey, Workload
from shoal.reconciler.apply import Writer
from shoal.reconciler.clock import steady
from shoal.reconciler.cluster import Cluster, load_configuration
from shoal.reconciler.items import Item, make_item
from shoal.reconciler.keeper import KEEP_SECONDS, Keeper
from shoal.reconciler.kinds import MODEL_SERVICE, Custom
from shoal.reconciler.leader import Guard
from shoal.reconciler.lessons import Lessons
from shoal.reconciler.store import Store
from shoal.render.learned import make_learned_profiles

pytestmark = pytest.mark.cluster

MODEL = "Qwen/Qwen2.5-1.5B-Instruct"
MIX = LengthMix(512, 128, 1024, 256)
ROW = ProfileRow(1, 1, 256, 2048, 400_000.0, MIX, steps=StepModel(3.0, 0.01, 1e-6))
PROFILES = "/apis/shoal.dev/v1alpha1/namespaces/{}/modelprofiles"


def make_learned(requests: float = 5000.0) -> Learned:
    lesson = Lesson(Configuration(H100), Evidence(requests, 12.0), ROW)
    return Learned(MODEL, "0.33.0", Target(95, 1000.0, 50.0), lesson, Tally(requests, highest_rate=12.0))


def make_wish(site: Site, body: dict[str, Any]) -> Service:
    return Service(
        key=ServiceKey(site.namespace, body["metadata"]["name"]),
        uid=body["metadata"]["uid"],
        generation=1,
        created_at=0.0,
        model=MODEL,
        facts=ModelFacts(1.5e9, 3e9, 28_672, 32_768),
        max_context_tokens=8192,
        objective=Objective(95, 1000, 50),
        workload=Workload(1.0, MIX),
        engine=EngineFacts("vllm", "0.33.0"),
        pools=(site.pool,),
    )


def profiles_of(site: Site) -> list[dict[str, Any]]:
    return site.list("shoal.dev/v1alpha1", "modelprofiles")


class Known(Lessons):
    """Lessons that were given."""

    def __init__(self, *learned: Learned) -> None:
        self.learned = learned

    def of(self, service: Item[Custom]) -> tuple[Learned, ...]:
        return self.learned


@pytest.fixture
def operator_access(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    kubeconfig = site.cluster.service_account_kubeconfig(site.operator_namespace, "shoal-operator")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return site


async def keep_all(site: Site, body: dict[str, Any], steps: list[tuple[float, Learned]]) -> tuple[list[str], int]:
    """Keep these lessons at these times, under the chart's permissions; what was wrong, and the number of writes."""
    guard, now, known = Guard(), [0.0], Known()
    guard.renewed(steady())
    cluster = Cluster(await load_configuration(), guard)
    store = Store(steady)
    keeper = Keeper(Writer(cluster, store), store, known, lambda: now[0])
    item, resource = make_item(MODEL_SERVICE, body), parse_object(ModelService, without_status(body))
    try:
        wrong = []
        for at, learned in steps:
            now[0], known.learned = at, (learned,)
            wrong.append(await keeper.keep(item, resource, make_wish(site, body)))
        return wrong, cluster.writes
    finally:
        await cluster.close()


def without_status(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "status"}


def test_it_is_written_rarely_and_only_when_it_changed(operator_access: Site) -> None:
    site = operator_access
    body = site.apply_service("chat")
    steps = [
        (0.0, make_learned(5000)),
        (KEEP_SECONDS + 1, make_learned(5200)),  # 4 % more: not worth a write
        (KEEP_SECONDS + 2, make_learned(9000)),
        (KEEP_SECONDS + 3, make_learned(20_000)),  # too soon
        (2 * KEEP_SECONDS + 3, make_learned(20_000)),
    ]
    wrong, writes = asyncio.run(keep_all(site, body, steps))
    assert set(wrong) == {""}
    assert writes == 3
    (profile,) = profiles_of(site)
    assert profile["spec"]["source"] == "Learned"
    assert profile["spec"]["rows"][0]["evidence"]["requests"] == 20_000
    assert [owner["uid"] for owner in profile["metadata"]["ownerReferences"]] == [body["metadata"]["uid"]]
    managers = {entry["manager"] for entry in profile["metadata"]["managedFields"]}
    assert managers == {"shoal"}

    site.cluster.request("DELETE", site.service_path("chat"))
    site.eventually(lambda: not profiles_of(site), "the profile is left", timeout=60)


def test_an_object_of_somebody_else_is_never_touched(operator_access: Site) -> None:
    site = operator_access
    body = site.apply_service("chat")
    (ours,) = make_learned_profiles(
        parse_object(ModelService, without_status(body)), make_wish(site, body), [make_learned()]
    )
    name = ours["metadata"]["name"]
    theirs = site.apply("ModelProfile", name, {**ours["spec"], "source": "Measured"}, namespace=site.namespace)
    wrong, writes = asyncio.run(keep_all(site, body, [(0.0, make_learned())]))
    assert writes == 0
    assert name in wrong[0]
    assert site.cluster.request("GET", f"{PROFILES.format(site.namespace)}/{name}")["spec"] == theirs["spec"]
    site.cluster.request("DELETE", f"{PROFILES.format(site.namespace)}/{name}")


def test_what_was_kept_is_used_again_by_its_service_alone(site: Site) -> None:
    """A new operator plans from it at once; another service of the namespace does not; deleting it begins anew."""
    body = site.apply_service("chat")
    site.apply_service("other")
    profiles = make_learned_profiles(
        parse_object(ModelService, without_status(body)), make_wish(site, body), [make_learned()]
    )
    site.cluster.apply(profiles)
    site.start(SHOAL_PLANNING_INTERVAL_SECONDS="1")

    def is_profiled(reason: str) -> Any:
        return lambda found: condition(found, "Profiled").get("reason") == reason

    status = site.wait_for_status("chat", is_profiled("Learned"))["status"]
    message = condition(status, "Profiled")["message"]
    assert "learned from 5,000 requests at up to 12 req/s per engine" in message
    site.wait_for_status("other", is_profiled("Estimated"))

    name = profiles[0]["metadata"]["name"]
    site.cluster.request("DELETE", f"{PROFILES.format(site.namespace)}/{name}")
    site.wait_for_status("chat", is_profiled("Estimated"))


@pytest.mark.long
def test_a_service_learns_from_its_traffic(live_site: Site) -> None:
    """From an estimate to Learned with real engines' pages, and still so after the operator's restart."""
    site = live_site
    operator = site.start(SHOAL_ROUTER_IMAGE="envoy:1.40", SHOAL_PLANNING_INTERVAL_SECONDS="1")
    site.apply_service("chat", limits={"maxGPUs": 1})
    site.wait_for_status("chat", lambda found: found.get("readyReplicas") == 1, timeout=90)
    assert condition(site.service("chat")["status"], "Profiled")["reason"] == "Estimated"
    url = f"{router_address(site)}/chat"
    with traffic(url, "chat", clients=6):
        (profile,) = site.eventually(lambda: profiles_of(site), "nothing was learned", timeout=240)
        status = site.wait_for_status(
            "chat", lambda found: condition(found, "Profiled").get("reason") == "Learned", timeout=180
        )["status"]
    assert profile["spec"]["rows"][0]["evidence"]["requests"] > 0
    (entry,) = status["learning"]
    assert entry["itlPredicted"] > 0
    assert entry["itlObserved"] > 0
    assert "Traceback" not in operator.text()
