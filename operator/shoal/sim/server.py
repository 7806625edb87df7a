"""`python -m shoal.sim.server`: a simulated vLLM server, driven by a profile in place of a GPU."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import uvloop
from aiohttp import web

from shoal.sim.arguments import ServerArguments, parse_arguments
from shoal.sim.engine import Engine, QueueFullError
from shoal.sim.engine_metrics import EngineMetrics
from shoal.sim.faults import ActiveFault, Fault
from shoal.sim.gpu_clock import GPUClocks
from shoal.sim.live import Answer, LiveEngine
from shoal.sim.profile_files import read_profiles
from shoal.sim.protocol import Ask, Catalogue, RefusedError, Reply, read_ask
from shoal.sim.settings import SimSettings
from shoal.sim.steps import Speed
from shoal.sim.truth import NoTruthError, Truth, find_truth

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLOCK_SECONDS = 1.0  # how often the GPU state is read
LARGEST_BODY = 64 * 2**20
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RETRY_AFTER_SECONDS = 1


class SimServer:
    """The HTTP side of one engine."""

    def __init__(self, arguments: ServerArguments, settings: SimSettings, truth: Truth) -> None:
        self._arguments = arguments
        self._settings = settings
        self._truth = truth
        self._catalogue = Catalogue(arguments.served_names, truth.max_model_len, truth.lengths.output_mean)
        self._created = int(time.time())
        loop = asyncio.get_running_loop()
        metrics = EngineMetrics(
            model_name=arguments.served_names[0], max_model_len=truth.max_model_len, created_at=time.time()
        )
        self.live = LiveEngine(
            Engine(truth.steps, truth.limits), metrics, stream_seconds=settings.stream_seconds, loop=loop
        )
        self._faults: dict[Fault, float] = {}
        self._clock_ratio = 1.0
        self._draining = False
        if settings.first_fault:
            self._set_faults([ActiveFault.parse(settings.first_fault)])

    def make_app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[self._misbehave])
        app.router.add_get("/health", self._health)
        app.router.add_get("/ping", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self._settings.faults_allowed:
            app.router.add_post("/sim/faults", self._post_faults)
        return app

    async def watch_clock(self) -> None:
        """Follow the clocks of the GPUs, for ever."""
        if self._settings.gpu_state_file is None:
            return
        clocks = GPUClocks(self._settings.gpu_state_file, self._settings.gpu_uuids, self._truth.clock_mhz)
        while True:
            self._clock_ratio = clocks.refresh()
            self._set_speed()
            await asyncio.sleep(CLOCK_SECONDS)

    async def drain(self, limit_seconds: float) -> None:
        """Let requests end for so long, then cut them off. New ones have nowhere to arrive."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.live.wait_until_empty(), limit_seconds)
        self.live.break_off()

    def _set_speed(self) -> None:
        self.live.set_speed(Speed(self._clock_ratio, self._faults.get(Fault.SLOW, 1.0)))

    def _set_faults(self, faults: Sequence[ActiveFault]) -> None:
        self._faults = {active.fault: active.value for active in faults}
        if Fault.CRASH in self._faults:
            print("simulated crash", file=sys.stderr, flush=True)
            os._exit(1)
        self._set_speed()

    @web.middleware
    async def _misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if Fault.HANG in self._faults and not request.path.startswith("/sim/"):
            await asyncio.Event().wait()
        try:
            return await handler(request)
        except RefusedError as refused:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if refused.status == 429 else None
            return web.json_response(refused.body, status=refused.status, headers=headers)

    async def _post_faults(self, request: web.Request) -> web.Response:
        try:
            faults = [ActiveFault.parse(text) for text in (await request.json())["faults"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            choices = ", ".join(Fault)
            message = f'expected {{"faults": ["NAME" or "NAME=VALUE", ...]}} with names of {choices}: {error}'
            raise RefusedError(400, "BadRequestError", message) from error
        self._set_faults(faults)
        return web.json_response({"faults": {str(fault): value for fault, value in self._faults.items()}})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": self._truth.engine_version, "simulated": True, "truth": self._truth.label})

    async def _models(self, _request: web.Request) -> web.Response:
        models = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "vllm",
                "root": self._arguments.model,
                "parent": None,
                "max_model_len": self._truth.max_model_len,
            }
            for name in self._arguments.served_names
        ]
        return web.json_response({"object": "list", "data": models})

    async def _metrics(self, _request: web.Request) -> web.Response:
        if Fault.METRICS_DOWN in self._faults:
            return web.Response(status=503)
        text = self.live.render_metrics(broken=Fault.METRICS_NAN in self._faults)
        return web.Response(body=text.encode(), headers={"Content-Type": METRICS_TYPE})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        ask = read_ask(await request.read(), self._catalogue, chat=chat)
        if Fault.ERRORS in self._faults:
            raise RefusedError(500, "InternalServerError", "EngineCore encountered an issue (simulated).")
        if Fault.EMPTY_STREAM in self._faults:
            return web.Response(headers={"Content-Type": "text/event-stream"})
        answer = self._ask(ask)
        try:
            response = await (self._stream if ask.stream else self._collect)(request, answer, ask)
        except (asyncio.CancelledError, ConnectionError):
            self.live.drop(answer)
            raise
        if self._draining:
            response.force_close()
        return response

    def _ask(self, ask: Ask) -> Answer:
        try:
            return self.live.ask(
                ask.prompt_tokens,
                ask.output_tokens,
                reason=ask.reason,
                max_tokens=ask.max_tokens,
                streaming=ask.stream,
            )
        except QueueFullError:
            raise RefusedError(
                429, "TooManyRequests", f"The queue of this engine is full ({self._truth.limits.max_waiting} waiting)."
            ) from None

    async def _collect(self, request: web.Request, answer: Answer, ask: Ask) -> web.StreamResponse:
        if not await answer.more():
            _hang_up(request)
        return web.json_response(Reply(ask, int(time.time())).whole())

    async def _stream(self, request: web.Request, answer: Answer, ask: Ask) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        reply = Reply(ask, int(time.time()))
        taken = 0
        while taken < ask.output_tokens:
            fresh = await answer.more()
            if not fresh:
                _hang_up(request)
                break
            taken += fresh
            await response.write(reply.chunk(fresh))
        return response


def _hang_up(request: web.Request) -> None:
    """Cut the connection in the middle of an answer, as a server that is killed does."""
    if request.transport is not None:
        request.transport.abort()


async def serve(arguments: ServerArguments, settings: SimSettings, truth: Truth) -> None:
    """Listen until SIGTERM or SIGINT, then drain for `--shutdown-timeout` seconds."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = SimServer(arguments, settings, truth)
    runner = web.AppRunner(server.make_app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, arguments.host, arguments.port, backlog=1024)
    await site.start()
    print(f"Simulated vLLM ({truth.label}) listens on {arguments.host or '*'}:{arguments.port}", flush=True)
    clock = loop.create_task(server.watch_clock())
    await stopped.wait()
    await site.stop()
    await server.drain(arguments.shutdown_timeout)
    clock.cancel()
    await runner.cleanup()


def main() -> int:
    """Load as long as a real engine would, then serve. Status 2: bad arguments; 1: cannot start."""
    began = time.monotonic()
    arguments = parse_arguments(sys.argv[1:])
    try:
        settings = SimSettings.read(os.environ)
        profiles = read_profiles(settings.profile_dir, arguments.model) if settings.profile_dir else ()
        truth = find_truth(profiles, arguments, settings)
    except (NoTruthError, ValueError, OSError) as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    time.sleep(max(0.0, settings.startup_seconds - (time.monotonic() - began)))
    uvloop.run(serve(arguments, settings, truth))
    return 0


if __name__ == "__main__":
    sys.exit(main())
