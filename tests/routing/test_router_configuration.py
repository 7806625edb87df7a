"""How configuration reaches a real Envoy, and what it does when that does not work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from routers import NAMESPACE, Router, wait_until

from shoal.render.envoy import RouterResources, ServiceRoute, make_resources
from shoal.routing.ads import AdsServer
from shoal.routing.metrics import AdsMetrics
from shoal.routing.snapshot import InvalidResourcesError


def with_cluster(resources: RouterResources, **fields: Any) -> RouterResources:
    return replace(resources, clusters=tuple({**cluster, **fields} for cluster in resources.clusters))


async def test_a_router_is_not_ready_before_its_first_configuration(tmp_path: Path) -> None:
    router = Router(tmp_path)
    try:
        await router.start(wait=False)
        await wait_until(lambda: router.ads.stats.streams == {NAMESPACE: 1})
        assert router.ads.stats.responses == 0
        assert not await router.is_ready()
        router.ads.publish("another", make_resources("another", ()))
        assert not await router.is_ready()
        router.ads.publish(NAMESPACE, make_resources(NAMESPACE, ()))
        await wait_until(router.is_ready)
    finally:
        await router.stop()


async def test_the_last_configuration_is_kept_while_the_operator_is_away(router: Router) -> None:
    engine, newcomer = await router.add_engine(), await router.add_engine()
    await router.route(engine.endpoint())
    address = f"{router.ads.address.rpartition(':')[0]}:{router.ads.port}"
    await router.ads.stop()
    assert (await router.get()).engine == engine.address

    router.ads = AdsServer(address)
    await router.ads.start()
    await wait_until(lambda: router.ads.stats.streams == {NAMESPACE: 1})
    assert (await router.get()).engine == engine.address  # an operator that knows nothing yet takes nothing away

    await router.route(newcomer.endpoint())
    assert (await router.get()).engine == newcomer.address


async def test_unchanged_resources_are_not_sent_again(router: Router) -> None:
    engine = await router.add_engine()
    await router.route(engine.endpoint())
    sent = router.ads.stats.responses
    await router.publish(ServiceRoute("chat", (engine.endpoint(),), ttft_ms=500))
    assert router.ads.stats.responses == sent
    await router.publish(ServiceRoute("chat", (engine.endpoint(7),), ttft_ms=500))
    assert router.ads.stats.responses == sent + 1  # endpoints alone


async def test_what_envoy_refuses_is_reported_once_and_changes_nothing(router: Router) -> None:
    engine = await router.add_engine()
    await router.route(engine.endpoint())
    good = make_resources(NAMESPACE, (ServiceRoute("chat", (engine.endpoint(),)),))
    router.ads.publish(NAMESPACE, with_cluster(good, health_checks=[{"timeout": "1s"}]))
    await wait_until(lambda: router.ads.stats.rejections > 0)
    assert "HealthCheck" in router.ads.stats.rejected[NAMESPACE]
    assert (await router.get()).status == 200

    another = await router.add_engine()
    router.ads.publish(NAMESPACE, make_resources(NAMESPACE, (ServiceRoute("chat", (another.endpoint(),)),)))

    async def has_moved() -> bool:
        answer = await router.get()
        return answer.status == 200 and answer.engine == another.address

    await wait_until(has_moved)
    assert router.ads.stats.rejections == 1
    assert router.ads.stats.rejected == {}


async def test_what_is_no_resource_at_all_is_never_published(router: Router) -> None:
    engine = await router.add_engine()
    await router.route(engine.endpoint())
    good = make_resources(NAMESPACE, (ServiceRoute("chat", (engine.endpoint(),)),))
    with pytest.raises(InvalidResourcesError, match="chat"):
        router.ads.publish(NAMESPACE, with_cluster(good, no_such_field=1))
    assert (await router.get()).status == 200


async def test_two_routers_of_a_namespace_get_the_same(tmp_path: Path, router: Router) -> None:
    engine = await router.add_engine()
    second = Router(tmp_path / "second")
    (tmp_path / "second").mkdir()
    try:
        second.ads, first_ads = router.ads, second.ads
        await first_ads.stop()
        await second.start_envoy()
        await wait_until(second.is_ready)
        assert router.ads.stats.streams == {NAMESPACE: 2}
        router.ads.publish(NAMESPACE, make_resources(NAMESPACE, (ServiceRoute("chat", (engine.endpoint(),)),)))
        await wait_until(lambda: router.ads.stats.current == {NAMESPACE: 2})
        registry = CollectorRegistry()
        registry.register(AdsMetrics(router.ads))
        assert registry.get_sample_value("shoal_xds_routers", {"namespace": NAMESPACE}) == 2
        assert registry.get_sample_value("shoal_xds_routers_current", {"namespace": NAMESPACE}) == 2
        assert registry.get_sample_value("shoal_xds_rejections_total") == 0
        for envoy in (router, second):
            assert (await envoy.get()).engine == engine.address
    finally:
        await second.stop()


async def test_a_new_weight_leaves_open_streams_alone(router: Router) -> None:
    engine, other = await router.add_engine(), await router.add_engine()
    await router.route(engine.endpoint())
    async with router.stream() as stream:
        for weight in (900, 500, 100):
            await router.route(engine.endpoint(weight), other.endpoint())
        engine.gate.set()
        assert await stream.read() == b"last"
