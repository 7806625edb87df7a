"""Fetches a router's configuration as Envoy does, so that the operator has the work of serving it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.ads_pb2_grpc import AggregatedDiscoveryServiceStub
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from shoal.render.envoy import ROUTE_CONFIG
from shoal.routing.snapshot import CLUSTERS, ENDPOINTS, ROUTES

_AGAIN_SECONDS = 2.0


async def follow_configuration(address: str, namespace: str, pod: str) -> None:
    """Subscribe over ADS and confirm whatever comes, for ever; come back when the operator was away."""
    node = Node(id=f"{namespace}/{pod}", cluster=namespace)
    while True:
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                subscriptions = Subscriptions(node)
                async for response in AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources(
                    subscriptions.requests()
                ):
                    subscriptions.take(response)
        except grpc.aio.AioRpcError:
            pass
        await asyncio.sleep(_AGAIN_SECONDS)


@dataclass(slots=True)
class Subscriptions:
    """What one router asks for: all clusters, their endpoints, its routes."""

    node: Node
    _queue: asyncio.Queue[DiscoveryRequest] = field(default_factory=asyncio.Queue)
    _names: dict[str, list[str]] = field(default_factory=lambda: {CLUSTERS: [], ROUTES: [ROUTE_CONFIG]})
    _seen: dict[str, tuple[str, str]] = field(default_factory=dict)  # type -> version, nonce

    async def requests(self) -> AsyncIterator[DiscoveryRequest]:
        """Requests in the order they are to be sent, for ever."""
        for type_url in list(self._names):
            yield self._make_request(type_url)
        while True:
            yield await self._queue.get()

    def take(self, response: DiscoveryResponse) -> None:
        """Confirm a response; new clusters need their endpoints."""
        self._seen[response.type_url] = (response.version_info, response.nonce)
        self._queue.put_nowait(self._make_request(response.type_url))
        if response.type_url == CLUSTERS:
            names = sorted(Cluster.FromString(resource.value).name for resource in response.resources)
            if names != self._names.get(ENDPOINTS):
                self._names[ENDPOINTS] = names
                self._queue.put_nowait(self._make_request(ENDPOINTS))

    def _make_request(self, type_url: str) -> DiscoveryRequest:
        version, nonce = self._seen.get(type_url, ("", ""))
        return DiscoveryRequest(
            node=self.node,
            type_url=type_url,
            resource_names=self._names[type_url],
            version_info=version,
            response_nonce=nonce,
        )
