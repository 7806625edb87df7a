"""kopf as event source: an operator of nothing but `on.event` handlers, in a thread and an event loop of its own.

In its own loop because kopf, when it ends, cancels every task that was started after it, ours included
(docs/decisions/0050).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import kopf

from shoal.reconciler.clock import steady
from shoal.reconciler.cluster import Place, load_configuration
from shoal.reconciler.items import Item, Kind, make_item

logger = logging.getLogger(__name__)

Deliver = Callable[[Kind[Any], str | None, Item[Any]], None]
"""Takes (kind, event type, object); type is None for objects of the first list."""

Places = Mapping[Kind[Any], Place]

_LONGEST_PAUSE_SECONDS = 30.0
_STABLE_SECONDS = 60.0  # kopf that ran this long is started again without a pause


class _Backoffs(Collection[float]):
    """Endless: a list that fails for a while (429, 5xx, 403) must not end the whole operator."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1.0, 2.0, 5.0)
        while True:
            yield 10.0

    def __len__(self) -> int:
        return 1_000_000

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float)


class _NoDiffs(kopf.DiffBaseStorage):
    """kopf would copy every object to find out what changed; nothing here asks for that."""

    def build(self, *, body: Any, extra_fields: Iterable[Any] | None = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> None:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        return None


class Watcher:
    """Runs kopf, and again when it ends; delivers trimmed objects into the loop that `run` was called in."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._stop: Callable[[], None] | None = None
        self.restarts = 0
        self.events = 0

    async def run(self, places: Callable[[], Places]) -> None:
        """Watch until cancelled. `places` is asked at every start: kinds come and go with their CRDs."""
        pause = 0.5
        while True:
            began = steady()
            error = await self._run_once(places())
            self.restarts += 1
            if steady() - began > _STABLE_SECONDS:
                pause = 0.5
            logger.warning("the watches ended (%s): starting them again in %.1f s", error or "asked to", pause)
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)

    def restart(self) -> None:
        """End the present watches; `run` starts new ones."""
        if self._stop:
            self._stop()

    async def _run_once(self, places: Places) -> BaseException | None:
        """Run one kopf operator in a thread until it ends or we are cancelled; return why it ended."""
        ours = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = ours.create_future()
        theirs = asyncio.new_event_loop()

        def finish(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def body() -> None:
            error: BaseException | None = None
            try:
                with asyncio.Runner(loop_factory=lambda: theirs) as runner:
                    runner.run(self._operate(ours, places))
            except BaseException as raised:
                error = raised
            if not ours.is_closed():
                ours.call_soon_threadsafe(finish, error)

        thread = threading.Thread(target=body, name="kopf", daemon=True)
        thread.start()
        try:
            return await asyncio.shield(ended)
        finally:
            self.restart()
            self._stop = None

    async def _operate(self, ours: asyncio.AbstractEventLoop, places: Places) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        # What ended kopf is raised here; its other tasks would each tell the same with a stack.
        loop.set_exception_handler(lambda _, context: logger.debug("kopf: %s", context.get("message")))
        assert task is not None
        self._stop = lambda: _call_soon(loop, task.cancel)
        await kopf.operator(
            registry=self._make_registry(ours, places),
            settings=make_settings(places),
            standalone=True,
            clusterwide=True,
        )

    def _make_registry(self, ours: asyncio.AbstractEventLoop, places: Places) -> Any:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_login)
        for kind, place in places.items():
            handler = self._make_handler(ours, kind)
            kopf.on.event(place.group, place.version, place.plural, registry=registry, id=place.plural)(handler)
        return registry

    def _make_handler(self, ours: asyncio.AbstractEventLoop, kind: Kind[Any]) -> Callable[..., Any]:
        async def handle(event: Mapping[str, Any], **_: Any) -> None:
            self.events += 1
            try:
                item = make_item(kind, event["object"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                logger.warning("a %s that cannot be understood was left out: %r", kind, error)
                return
            _call_soon(ours, self._deliver, kind, event["type"], item)

        return handle


def make_settings(places: Places) -> kopf.OperatorSettings:
    """kopf without anything that writes, and with bounded waits."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.request_timeout = 60.0
    settings.networking.connect_timeout = 5.0
    settings.watching.server_timeout = 290  # the API server refuses "290.0"
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 1.0
    for kind, place in places.items():
        if kind.selector:
            settings.watching.label_selectors[place.group, place.version, place.plural] = kind.selector
    return settings


async def _login(**_: Any) -> kopf.ConnectionInfo:
    """Give kopf the credentials that the operator uses."""
    found = await load_configuration()
    token = await found.get_api_key_with_prefix("BearerToken")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        token=token.split(" ", 1)[-1] if token else None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> None:
    """Call in another thread's loop; one that has ended needs no calls."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        logger.debug("a call came after its event loop had ended")
