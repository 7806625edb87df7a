"""The ADS protocol against a model of Envoy: whatever is published when, and however answers are delayed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.render.envoy import ROUTE_CONFIG, EngineEndpoint, ServiceRoute, make_resources
from shoal.routing.snapshot import CLUSTERS, ENDPOINTS, ROUTES, Snapshot, make_published
from shoal.routing.stream import Rejection, Stream

NAMES = ("a", "b", "c")


def snapshot_of(*names: str, weight: int = 1000) -> Snapshot:
    routes = (ServiceRoute(name, (EngineEndpoint("127.0.0.1", 8000, weight),)) for name in names)
    return make_published(make_resources("team", tuple(routes))).snapshot


def unpack(message: AnyMessage, into: Cluster | ClusterLoadAssignment | RouteConfiguration) -> None:
    assert message.Unpack(into)


@dataclass
class ModelEnvoy:
    """As Envoy behaves on an ADS stream: clusters first, then endpoints of all of them, then routes."""

    stream: Stream = field(default_factory=Stream)
    clusters: set[str] = field(default_factory=set)
    endpoints: dict[str, bytes] = field(default_factory=dict)
    routed: set[str] = field(default_factory=set)
    inbox: deque[DiscoveryResponse] = field(default_factory=deque)
    outbox: deque[DiscoveryRequest] = field(default_factory=deque)
    nonces: dict[str, str] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ask(CLUSTERS, [])

    def send(self) -> None:
        """The server takes in one request."""
        if self.outbox:
            rejection = self.stream.receive(self.outbox.popleft())
            if rejection is not None:
                self.rejections.append(rejection)

    def fetch(self, snapshot: Snapshot) -> None:
        """The server sends what it has to."""
        self.inbox.extend(self.stream.make_responses(snapshot))

    def take(self, *, refuse: bool = False) -> None:
        """Envoy takes in one response."""
        if not self.inbox:
            return
        response = self.inbox.popleft()
        self.nonces[response.type_url] = response.nonce
        if refuse:
            self._ask(response.type_url, self._names(response.type_url), error="no")
            return
        {CLUSTERS: self._take_clusters, ENDPOINTS: self._take_endpoints, ROUTES: self._take_routes}[response.type_url](
            response
        )

    def settle(self, snapshot: Snapshot) -> None:
        """Until nobody has anything more to say."""
        for _ in range(100):
            self.fetch(snapshot)
            if not self.inbox and not self.outbox:
                return
            self.take()
            self.send()
        raise AssertionError("they never stop talking")

    def _take_clusters(self, response: DiscoveryResponse) -> None:
        names = set()
        for resource in response.resources:
            cluster = Cluster()
            unpack(resource, cluster)
            names.add(cluster.name)
        assert self.routed <= names, "a cluster went before its route"
        changed, is_first = names != self.clusters, ROUTES not in self.nonces
        self.clusters = names
        self.endpoints = {name: value for name, value in self.endpoints.items() if name in names}
        self._ask(CLUSTERS, [])
        if changed:
            self._ask(ENDPOINTS, self._names(ENDPOINTS))
        if is_first:
            self.nonces[ROUTES] = ""
            self._ask(ROUTES, [ROUTE_CONFIG])

    def _take_endpoints(self, response: DiscoveryResponse) -> None:
        for resource in response.resources:
            endpoints = ClusterLoadAssignment()
            unpack(resource, endpoints)
            if endpoints.cluster_name in self.clusters:
                self.endpoints[endpoints.cluster_name] = resource.value
        self._ask(ENDPOINTS, self._names(ENDPOINTS))

    def _take_routes(self, response: DiscoveryResponse) -> None:
        [resource] = response.resources
        routes = RouteConfiguration()
        unpack(resource, routes)
        self.routed = {route.route.cluster for route in routes.virtual_hosts[0].routes if route.HasField("route")}
        assert self.routed <= self.clusters, "a route came before its cluster"
        assert self.routed <= self.endpoints.keys(), "a route came before its endpoints"
        self._ask(ROUTES, [ROUTE_CONFIG])

    def _names(self, type_url: str) -> list[str]:
        if type_url == ROUTES:
            return [ROUTE_CONFIG]
        return sorted(self.clusters) if type_url == ENDPOINTS else []

    def _ask(self, type_url: str, names: list[str], error: str | None = None) -> None:
        request = DiscoveryRequest(
            type_url=type_url, resource_names=names, response_nonce=self.nonces.get(type_url, "")
        )
        request.node.id, request.node.cluster = "team/router", "team"
        if error:
            request.error_detail.message = error
        self.outbox.append(request)


def assert_agrees(envoy: ModelEnvoy, snapshot: Snapshot) -> None:
    assert envoy.clusters == set(snapshot.clusters)
    assert envoy.routed == set(snapshot.clusters)
    assert envoy.endpoints == {name: message.value for name, message in snapshot.endpoints.items()}
    assert envoy.stream.is_current(snapshot)


Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 2 ** (len(NAMES) + 1) - 1)),
        st.tuples(st.sampled_from(["send", "fetch", "take"]), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_make_before_break_whatever_the_order(script: list[Step]) -> None:
    """The model asserts the order at each message; in the end both agree and fall silent."""
    snapshot, envoy = snapshot_of(), ModelEnvoy()
    for action, number in script:
        if action == "publish":
            names = [name for bit, name in enumerate(NAMES) if number >> bit & 1]
            snapshot = snapshot_of(*names, weight=1 + (number >> len(NAMES)))
        elif action == "send":
            envoy.send()
        elif action == "fetch":
            envoy.fetch(snapshot)
        else:
            envoy.take()
    envoy.settle(snapshot)
    assert_agrees(envoy, snapshot)


def test_what_stays_is_not_checked_again() -> None:
    """Checking 200 services takes 0.4 s: too long for every change of a weight."""
    services = [ServiceRoute(name, (EngineEndpoint("127.0.0.1", 8000),)) for name in NAMES]
    before = make_published(make_resources("team", tuple(services)))
    services[1] = ServiceRoute("b", (EngineEndpoint("127.0.0.1", 8000, weight=5),))
    after = make_published(make_resources("team", tuple(services)), before)
    assert after == make_published(after.resources)
    kept = [name for name in NAMES if after.snapshot.endpoints[name] is before.snapshot.endpoints[name]]
    assert kept == ["a", "c"]
    assert all(after.snapshot.clusters[name] is before.snapshot.clusters[name] for name in NAMES)


def test_only_what_changed_is_sent() -> None:
    envoy = ModelEnvoy()
    envoy.settle(snapshot_of("a", "b"))
    envoy.fetch(snapshot_of("a", "b", weight=5))
    assert [response.type_url for response in envoy.inbox] == [ENDPOINTS]


def test_equal_content_has_equal_versions_in_every_replica() -> None:
    first, second = ModelEnvoy(), ModelEnvoy()
    for envoy in (first, second):
        envoy.send()
        envoy.fetch(snapshot_of("b", "a"))
    assert first.inbox[0].version_info == second.inbox[0].version_info


def test_what_was_refused_is_not_sent_again_but_what_follows_is() -> None:
    envoy = ModelEnvoy()
    envoy.settle(snapshot_of("a"))
    refused = snapshot_of("a", weight=5)
    envoy.fetch(refused)
    envoy.take(refuse=True)
    envoy.send()
    assert [rejection.message for rejection in envoy.rejections] == ["no"]
    envoy.fetch(refused)
    assert not envoy.inbox
    assert not envoy.stream.is_current(refused)
    better = snapshot_of("a", weight=6)
    envoy.settle(better)
    assert_agrees(envoy, better)


def test_refused_clusters_do_not_hold_up_the_other_services() -> None:
    envoy = ModelEnvoy()
    envoy.settle(snapshot_of("a"))
    envoy.fetch(snapshot_of("a", "b"))
    while envoy.inbox and envoy.inbox[0].type_url == CLUSTERS:
        envoy.take(refuse=True)
    envoy.send()
    envoy.fetch(snapshot_of("a", "b", weight=5))
    assert {response.type_url for response in envoy.inbox} >= {ENDPOINTS, ROUTES}


def test_an_old_nonce_and_an_unknown_type_are_passed_over() -> None:
    envoy = ModelEnvoy()
    envoy.settle(snapshot_of("a"))
    old = DiscoveryRequest(type_url=CLUSTERS, response_nonce="nothing like it")
    old.error_detail.message = "about something long gone"
    assert envoy.stream.receive(old) is None
    assert envoy.stream.receive(DiscoveryRequest(type_url="type.googleapis.com/strange", response_nonce="")) is None
    envoy.fetch(snapshot_of("a"))
    assert not envoy.inbox
