"""The ADS (xDS) server that all routers are configured by: one bidirectional gRPC stream for each Envoy.

Any operator replica may serve any router. A namespace that nothing was published for yet is sent nothing, so its
routers keep what they have; never an empty set because the operator has just started.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from shoal.render.envoy import RouterResources
from shoal.routing.snapshot import Published, make_published
from shoal.routing.stream import Stream

_log = logging.getLogger(__name__)

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a coin toss
    ("grpc.keepalive_time_ms", 30_000),  # a router that vanished without a word is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # Envoy pings, too
)


@dataclass(frozen=True, slots=True)
class AdsStats:
    """Counters since the start, and by namespace what is connected now.

    `streams` routers, of which `current` have confirmed everything published last; `rejected` is why the namespace's
    routers refused the last configuration.
    """

    streams: Mapping[str, int]
    current: Mapping[str, int]
    responses: int
    rejections: int
    rejected: Mapping[str, str]


@dataclass(eq=False, slots=True)
class _Connection:
    stream: Stream = field(default_factory=Stream)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Serves snapshots. All methods belong to the event loop that `start` was called in."""

    def __init__(self, address: str) -> None:
        """`address` is `host:port`; port 0 takes a free one, see `port`."""
        self.address = address
        self._server: grpc.aio.Server | None = None
        self._published: dict[str, Published] = {}
        self._connections: set[_Connection] = set()
        self._responses = 0
        self._rejections = 0
        self._rejected: dict[str, str] = {}
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises RuntimeError when the address cannot be had."""
        self._server = grpc.aio.server(options=_OPTIONS)
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """End all streams. The routers keep what they have."""
        for connection in self._connections:
            connection.closed = True
            connection.wake.set()
        if self._server is not None:
            await self._server.stop(grace=1)

    def publish(self, namespace: str, resources: RouterResources) -> None:
        """Make this the configuration of a namespace. Raises InvalidResourcesError, and then keeps the last one."""
        before = self._published.get(namespace)
        if before is not None and before.resources == resources:
            return
        self._published[namespace] = make_published(resources, before)
        self._rejected.pop(namespace, None)
        for connection in self._connections:
            if connection.stream.namespace == namespace:
                connection.wake.set()

    def forget(self, namespace: str) -> None:
        """The namespace has no routed ModelService any more. Its routers, if any are left, keep what they have."""
        self._published.pop(namespace, None)
        self._rejected.pop(namespace, None)

    @property
    def stats(self) -> AdsStats:
        """What the operator's own metrics and conditions are made of."""
        streams = [connection.stream for connection in self._connections if connection.stream.namespace]
        current = [stream for stream in streams if self._is_current(stream)]
        return AdsStats(
            streams=dict(Counter(stream.namespace for stream in streams)),
            current=dict(Counter(stream.namespace for stream in current)),
            responses=self._responses,
            rejections=self._rejections,
            rejected=dict(self._rejected),
        )

    def _is_current(self, stream: Stream) -> bool:
        published = self._published.get(stream.namespace)
        return published is not None and stream.is_current(published.snapshot)

    async def StreamAggregatedResources(  # noqa: N802 - the name is Envoy's
        self,
        requests: AsyncIterator[DiscoveryRequest],
        context: grpc.aio.ServicerContext[DiscoveryRequest, DiscoveryResponse],
    ) -> AsyncIterator[DiscoveryResponse]:
        """One router."""
        connection = _Connection()
        self._connections.add(connection)
        reader = asyncio.create_task(self._read(requests, connection))
        try:
            while not connection.closed:
                await connection.wake.wait()
                connection.wake.clear()
                published = self._published.get(connection.stream.namespace)
                if published is None:
                    continue
                for response in connection.stream.make_responses(published.snapshot):
                    self._responses += 1
                    yield response
        finally:
            self._connections.discard(connection)
            reader.cancel()

    async def _read(self, requests: AsyncIterator[DiscoveryRequest], connection: _Connection) -> None:
        try:
            async for request in requests:
                self._take(request, connection)
        finally:
            connection.closed = True
            connection.wake.set()

    def _take(self, request: DiscoveryRequest, connection: _Connection) -> None:
        stream = connection.stream
        rejection = stream.receive(request)
        if rejection is not None:
            kind = rejection.type_url.rsplit(".", 1)[-1]
            _log.error("router %s refused %s %s: %s", stream.node, kind, rejection.version, rejection.message)
            self._rejections += 1
            self._rejected[stream.namespace] = f"{kind}: {rejection.message}"
        connection.wake.set()
