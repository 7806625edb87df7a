"""What clients meet: a real Envoy, configured by the ADS server, before engines that answer as told."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from routers import NAMESPACE, Router, next_address, wait_until

from shoal.render import bootstrap
from shoal.render.envoy import EngineEndpoint, ServiceRoute, make_resources


async def test_requests_follow_the_weights(router: Router) -> None:
    fast, slow = await router.add_engine(), await router.add_engine()
    await router.route(fast.endpoint(999), slow.endpoint(333))
    for _ in range(80):
        assert (await router.get()).status == 200
    assert fast.hits == pytest.approx(60, abs=2)
    assert slow.hits == 80 - fast.hits


async def test_the_prefix_is_stripped_and_the_rest_of_the_path_kept(router: Router) -> None:
    engine = await router.add_engine()
    await router.route(engine.endpoint())
    answer = await router.get("/chat/v1/chat/completions?a=b")
    assert json.loads(answer.text)["path"] == "/v1/chat/completions"


async def test_a_draining_engine_ends_its_stream_and_gets_nothing_new(router: Router) -> None:
    leaving, staying = await router.add_engine(), await router.add_engine()
    await router.route(leaving.endpoint())
    async with router.stream() as stream:
        await router.route(leaving.endpoint(draining=True), staying.endpoint())
        assert {(await router.get()).engine for _ in range(20)} == {staying.address}
        leaving.gate.set()
        assert await stream.read() == b"last"


async def test_an_engine_that_leaves_the_endpoints_ends_its_stream(router: Router) -> None:
    leaving, staying = await router.add_engine(), await router.add_engine()
    await router.route(leaving.endpoint())
    async with router.stream() as stream:
        await router.route(staying.endpoint())
        assert {(await router.get()).engine for _ in range(10)} == {staying.address}
        leaving.gate.set()
        assert await stream.read() == b"last"


async def test_with_draining_engines_only_nothing_new_is_sent_to_them(router: Router) -> None:
    engines = [await router.add_engine() for _ in range(3)]
    await router.route(*(engine.endpoint(draining=True) for engine in engines))
    assert (await router.get()).status == 503
    assert sum(engine.hits for engine in engines) == 0


@pytest.mark.parametrize("refusal", [429, 503])
async def test_what_one_engine_refuses_another_answers(router: Router, refusal: int) -> None:
    full, free = await router.add_engine(status=refusal), await router.add_engine()
    await router.route(full.endpoint(), free.endpoint())
    answers = [await router.get() for _ in range(20)]
    assert {answer.status for answer in answers} == {200}
    assert full.hits > 0


async def test_a_refused_prompt_goes_to_the_other_engine_whole(router: Router) -> None:
    full, free = await router.add_engine(status=429), await router.add_engine()
    await router.route(full.endpoint(), free.endpoint())
    for _ in range(10):
        url = f"http://{router.address}:8080/chat/v1/completions"
        async with router.http.post(url, data=b"x" * 300_000) as response:
            assert response.status == 200


async def test_a_prompt_too_long_to_be_kept_for_a_retry_is_passed_on_all_the_same(router: Router) -> None:
    engine = await router.add_engine()
    await router.route(engine.endpoint())
    url = f"http://{router.address}:8080/chat/v1/completions"
    async with router.http.post(url, data=io.BytesIO(b"x" * 5_000_000)) as response:
        assert (await response.json())["size"] == 5_000_000


async def test_a_connection_that_is_refused_is_tried_elsewhere(router: Router) -> None:
    dying, staying = await router.add_engine(), await router.add_engine()
    await router.route(dying.endpoint(), staying.endpoint())
    await dying.stop()
    answers = [await router.get() for _ in range(20)]
    assert Counter(answer.status for answer in answers) == {200: 20}


async def test_when_all_engines_are_full_clients_are_told_when_to_come_again(router: Router) -> None:
    engines = [await router.add_engine(status=429) for _ in range(2)]
    await router.route(*(engine.endpoint() for engine in engines))
    answer = await router.get()
    assert answer.status == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.engine in {engine.address for engine in engines}
    assert sum(engine.hits for engine in engines) <= 4


async def test_nothing_is_repeated_once_bytes_have_come(router: Router) -> None:
    engines = [await router.add_engine() for _ in range(2)]
    await router.route(*(engine.endpoint() for engine in engines))
    with pytest.raises(aiohttp.ClientError):
        await router.get("/chat/v1/broken")
    assert sum(engine.hits for engine in engines) == 1


async def test_the_only_engine_is_never_left_out(router: Router) -> None:
    engine = await router.add_engine(status=502)
    await router.route(engine.endpoint())
    for sent in range(1, 21):
        await router.get()
        assert engine.hits == sent


async def test_an_engine_with_gateway_errors_is_left_out_while_others_answer(router: Router) -> None:
    bad, good = await router.add_engine(status=502), await router.add_engine()
    await router.route(bad.endpoint(), good.endpoint())
    statuses = [(await router.get()).status for _ in range(60)]
    assert set(statuses[-20:]) == {200}
    assert bad.hits <= 10


async def test_a_service_without_engines_names_the_place_to_look(router: Router) -> None:
    await router.publish(ServiceRoute("empty"))
    answer = await router.get("/empty/v1/completions")
    assert answer.status == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "1"
    message = json.loads(answer.text)["error"]["message"]
    assert message.endswith(f"see `kubectl describe modelservice empty -n {NAMESPACE}`")


@pytest.mark.parametrize("path", ["/", "/nobody/v1/completions", "/chat", "/chatter/v1/models"])
async def test_an_unknown_path_says_what_to_do(router: Router, path: str) -> None:
    await router.publish(ServiceRoute("chat"))
    answer = await router.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert f"kubectl get modelservices -n {NAMESPACE}" in json.loads(answer.text)["error"]["message"]


async def test_services_come_and_go_without_a_dropped_stream(router: Router) -> None:
    chat, other = await router.add_engine(), await router.add_engine()
    first = ServiceRoute("chat", (chat.endpoint(),))
    second = ServiceRoute("other", (other.endpoint(),))
    await router.publish(first)
    async with router.stream("/chat/v1/stream") as kept:
        await router.publish(first, second)
        async with router.stream("/other/v1/stream") as removed:
            await router.publish(first)
            assert (await router.get("/other/v1/completions")).status == 404
            other.gate.set()
            assert await removed.read() == b"last"
        chat.gate.set()
        assert await kept.read() == b"last"


async def test_what_is_read_back_is_what_clients_sent(router: Router) -> None:
    """Whatever becomes of a request: answered, tried again, refused, unreachable or without any engine."""
    full, free = await router.add_engine(status=429), await router.add_engine()
    await router.route(full.endpoint(), free.endpoint())
    for _ in range(10):
        await router.get()
    assert (await router.counters()).arrived == 10

    free.status = 429
    for _ in range(3):
        assert (await router.get()).status == 429
    counters = await router.counters()
    assert (counters.arrived, counters.refused) == (13, 3)

    await full.stop()
    await free.stop()
    for _ in range(4):
        assert (await router.get()).status == 503
    assert (await router.counters()).arrived == 17

    await router.route()
    for _ in range(5):
        assert (await router.get()).status == 503
    counters = await router.counters()
    assert (counters.arrived, counters.failed) == (22, 9)


async def test_requests_are_counted_when_they_come(router: Router) -> None:
    engine = await router.add_engine()
    await router.route(engine.endpoint())
    async with router.stream():
        assert (await router.counters()).arrived == 1
        engine.gate.set()


async def test_the_admin_interface_stays_closed(router: Router) -> None:
    url = f"http://{router.address}:9442"
    for method, path in (
        ("POST", "/quitquitquit"),
        ("GET", "/config_dump"),
        ("POST", "/stats/prometheus"),
        ("GET", "/stats"),
        ("GET", "/stats/prometheus/../config_dump"),
    ):
        async with router.http.request(method, url + path) as response:
            assert response.status == 404, path
    assert await router.is_ready()


async def test_a_client_is_told_to_reconnect_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a router that is going away has no clients left, and no stream is cut for it."""
    monkeypatch.setattr(bootstrap, "CLIENT_CONNECTION_SECONDS", 1)
    router = Router(tmp_path)
    try:
        await router.start()
        engine = await router.add_engine()
        await router.route(engine.endpoint())
        assert "connection" not in (await router.get()).headers
        async with router.stream() as stream:

            async def is_told() -> bool:
                return (await router.get()).headers.get("Connection") == "close"

            await wait_until(is_told)
            engine.gate.set()
            assert await stream.read() == b"last"
    finally:
        await router.stop()


async def test_an_unreachable_engine_does_not_hold_up_the_others(router: Router) -> None:
    engine = await router.add_engine()
    await router.publish(
        ServiceRoute("chat", (engine.endpoint(), EngineEndpoint(next_address(), 8000))), ServiceRoute("other")
    )

    async def answers() -> bool:
        return (await router.get()).status == 200

    await wait_until(answers)
    assert {(await router.get()).status for _ in range(10)} == {200}


async def test_many_requests_at_once_are_spread_and_answered(router: Router) -> None:
    engines = [await router.add_engine() for _ in range(4)]
    await router.route(*(engine.endpoint() for engine in engines))
    answers = await asyncio.gather(*(router.get() for _ in range(400)))
    assert Counter(answer.status for answer in answers) == {200: 400}
    assert min(engine.hits for engine in engines) > 60


def test_equal_services_render_equally_in_any_order() -> None:
    first = ServiceRoute("a", (EngineEndpoint("127.0.0.1", 1), EngineEndpoint("127.0.0.2", 1)))
    second = ServiceRoute("a", tuple(reversed(first.engines)))
    other = ServiceRoute("b")
    assert make_resources("n", (first, other)) == make_resources("n", (other, second))
