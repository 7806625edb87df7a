"""One ADS stream, state of the world: what an Envoy has asked for and confirmed, and what it should be sent next.

No I/O. The order is make before break: clusters, their endpoints, then routes to them; clusters that no route of the
new configuration needs are taken away only when the routes have been confirmed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from shoal.routing.snapshot import CLUSTERS, ENDPOINTS, ROUTES, Packed, Snapshot, compute_version

ORDER = (CLUSTERS, ENDPOINTS, ROUTES)


@dataclass(slots=True)
class Subscription:
    """One type on one stream. No `names`: all of them."""

    names: frozenset[str] = frozenset()
    unanswered: bool = True  # asked for something that nothing was sent for yet
    sent: str = ""  # version
    nonce: str = ""
    confirmed: str = ""  # version
    rejected: str = ""  # version; not sent again

    @property
    def settled(self) -> bool:
        """Envoy has said yes or no to what was sent last."""
        return self.sent in (self.confirmed, self.rejected)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Envoy keeps the last good configuration and says why."""

    type_url: str
    version: str
    message: str


@dataclass(slots=True)
class Stream:
    """State of one stream. `namespace` is empty until the first request."""

    namespace: str = ""
    node: str = ""
    _subscriptions: dict[str, Subscription] = field(default_factory=dict)
    _clusters_sent: Packed = field(default_factory=dict)
    _nonces: int = 0

    def receive(self, request: DiscoveryRequest) -> Rejection | None:
        """Take in a subscription, a confirmation or a rejection; the latter is returned."""
        if not self.namespace:
            self.namespace, self.node = request.node.cluster, request.node.id
        if request.type_url not in ORDER:
            return None
        subscription = self._subscriptions.setdefault(request.type_url, Subscription())
        if request.response_nonce != subscription.nonce:
            return None  # about an older response; Envoy answers the newer one, too
        names = frozenset(request.resource_names) - {"*"}
        subscription.unanswered |= names != subscription.names
        subscription.names = names
        if not subscription.nonce:
            return None
        if request.HasField("error_detail"):
            subscription.rejected = subscription.sent
            return Rejection(request.type_url, subscription.sent, request.error_detail.message)
        subscription.confirmed = subscription.sent
        return None

    def make_responses(self, snapshot: Snapshot) -> Iterator[DiscoveryResponse]:
        """What to send now. What has to wait for a confirmation comes with a later call."""
        for type_url in ORDER:
            subscription = self._subscriptions.get(type_url)
            if subscription is None or (type_url == ROUTES and not self._are_clusters_ready(snapshot)):
                continue
            wanted = self._select(type_url, subscription, snapshot)
            version = compute_version(wanted)
            if subscription.unanswered or version != subscription.sent:
                yield self._respond(type_url, subscription, wanted, version)

    def is_current(self, snapshot: Snapshot) -> bool:
        """Whether Envoy has confirmed all of this, and nothing more is to be sent."""
        return all(self._is_confirmed(type_url, snapshot) for type_url in ORDER)

    def _is_confirmed(self, type_url: str, snapshot: Snapshot) -> bool:
        subscription = self._subscriptions.get(type_url)
        if subscription is None:  # without clusters nobody asks for endpoints
            return type_url == ENDPOINTS and not snapshot.endpoints
        version = compute_version(self._select(type_url, subscription, snapshot))
        is_complete = type_url != ENDPOINTS or snapshot.endpoints.keys() <= subscription.names
        return is_complete and not subscription.unanswered and version == subscription.sent == subscription.confirmed

    def _are_clusters_ready(self, snapshot: Snapshot) -> bool:
        """Whether routes may be sent: Envoy has the clusters and has been told their endpoints."""
        clusters = self._subscriptions.get(CLUSTERS, Subscription())
        endpoints = self._subscriptions.get(ENDPOINTS, Subscription())
        if clusters.unanswered or not clusters.settled:
            return False
        if clusters.sent == clusters.rejected:
            return True  # the other services' routes must not wait for the one at fault
        return (snapshot.clusters.keys() <= endpoints.names and endpoints.settled) or not snapshot.clusters

    def _select(self, type_url: str, subscription: Subscription, snapshot: Snapshot) -> Packed:
        if type_url == CLUSTERS:
            return {**self._still_routed(snapshot), **snapshot.clusters}
        resources = snapshot.endpoints if type_url == ENDPOINTS else snapshot.routes
        return {name: resources[name] for name in subscription.names if name in resources}

    def _still_routed(self, snapshot: Snapshot) -> Packed:
        """Clusters that the routes Envoy has may still name."""
        routes = self._subscriptions.get(ROUTES)
        if routes is None or not routes.sent or routes.confirmed == compute_version(snapshot.routes):
            return {}
        return self._clusters_sent

    def _respond(self, type_url: str, subscription: Subscription, wanted: Packed, version: str) -> DiscoveryResponse:
        self._nonces += 1
        subscription.nonce = str(self._nonces)
        subscription.sent = version
        subscription.unanswered = False
        if type_url == CLUSTERS:
            self._clusters_sent = wanted
        resources = [wanted[name] for name in sorted(wanted)]
        return DiscoveryResponse(version_info=version, resources=resources, type_url=type_url, nonce=subscription.nonce)
