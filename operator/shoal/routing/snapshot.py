"""What one namespace's routers shall have: the resources checked against Envoy's own message types, and versioned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration

# Messages that stand inside the above as `Any`: importing them makes their types known to the parser.
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2 as _  # noqa: F401
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as __  # noqa: F401
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict, ParseError

from shoal.render.envoy import RouterResources

CLUSTERS: Final = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTES: Final = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

Packed = Mapping[str, AnyMessage]  # by name
Resources = Sequence[dict[str, Any]]


class InvalidResourcesError(ValueError):
    """Resources that Envoy's message types do not allow; what was published before stays."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Checked resources of one namespace."""

    clusters: Packed
    endpoints: Packed
    routes: Packed


@dataclass(frozen=True, slots=True)
class Published:
    """Resources as they were given, and as they are sent."""

    resources: RouterResources
    snapshot: Snapshot


def make_published(resources: RouterResources, before: Published | None = None) -> Published:
    """Check and pack; what stands in `before` as it is now need not be checked again. Raises InvalidResourcesError."""
    old = before.resources if before else RouterResources((), (), ())
    sent = before.snapshot if before else Snapshot({}, {}, {})
    snapshot = Snapshot(
        clusters=_pack_all(Cluster, "name", resources.clusters, old.clusters, sent.clusters),
        endpoints=_pack_all(ClusterLoadAssignment, "cluster_name", resources.endpoints, old.endpoints, sent.endpoints),
        routes=_pack_all(RouteConfiguration, "name", resources.routes, old.routes, sent.routes),
    )
    return Published(resources, snapshot)


def compute_version(resources: Packed) -> str:
    """A hash of the content: equal resources have equal versions, in every operator replica and after a restart."""
    digest = hashlib.sha256()
    for name in sorted(resources):
        digest.update(resources[name].value)
    return digest.hexdigest()[:16]


def _pack_all(
    message: Callable[[], Any], key: str, resources: Resources, old: Resources, sent: Packed
) -> dict[str, AnyMessage]:
    known = {resource[key]: resource for resource in old}
    packed = {}
    for resource in resources:
        name = resource[key]
        packed[name] = sent[name] if known.get(name) == resource else _pack(message(), name, resource)
    return packed


def _pack(message: Any, name: str, resource: dict[str, Any]) -> AnyMessage:
    try:
        ParseDict(resource, message)
    except ParseError as error:
        raise InvalidResourcesError(f"{name}: {error}") from error
    packed = AnyMessage()
    packed.Pack(message, deterministic=True)
    return packed
