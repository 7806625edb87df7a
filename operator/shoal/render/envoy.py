"""What a namespace's routers are told over xDS: clusters, endpoints and routes, as JSON of Envoy's v3 API.

A ModelService is one cluster, one EDS resource and one route, all of its name. What does not change with ModelServices
(listeners, error answers, the admin's guard) is in the bootstrap, `shoal.render.bootstrap`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

ROUTE_CONFIG: Final = "services"  # name of the one RouteConfiguration
LARGEST_WEIGHT: Final = 1000

_CONNECT_TIMEOUT: Final = "2s"
_UPSTREAM_IDLE: Final = "3s"  # uvicorn closes after 5 s idle: a request sent into that close would be lost
_UNLIMITED: Final = 4294967295  # the queue bound is the engine's; Envoy never retries what its own breakers refuse
_RETRIES: Final = 3
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PREVIOUS_HOSTS: Final = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"


@dataclass(frozen=True, slots=True, order=True)
class EngineEndpoint:
    """An engine as the router sees it.

    `weight` is relative, at most `LARGEST_WEIGHT`; a draining engine keeps the requests it has and gets no new ones.
    """

    address: str
    port: int
    weight: int = LARGEST_WEIGHT
    draining: bool = False


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """A ModelService as the router sees it. `ttft_ms` is its objective: retries together may cost a tenth of it."""

    name: str
    engines: tuple[EngineEndpoint, ...] = ()
    ttft_ms: float | None = None


@dataclass(frozen=True, slots=True)
class RouterResources:
    """Everything the routers of one namespace are told, as JSON messages of Envoy's v3 API, sorted by name."""

    clusters: tuple[dict[str, Any], ...]  # envoy.config.cluster.v3.Cluster
    endpoints: tuple[dict[str, Any], ...]  # envoy.config.endpoint.v3.ClusterLoadAssignment
    routes: tuple[dict[str, Any], ...]  # envoy.config.route.v3.RouteConfiguration


def make_resources(namespace: str, routes: tuple[ServiceRoute, ...]) -> RouterResources:
    """Render the routed services of a namespace. Equal services give equal resources, whatever their order."""
    ordered = sorted(routes, key=lambda route: route.name)
    return RouterResources(
        clusters=tuple(_make_cluster(route) for route in ordered),
        endpoints=tuple(_make_endpoints(route) for route in ordered),
        routes=(_make_route_config(namespace, ordered),),
    )


def _typed(message: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{message}", **fields}


def _make_cluster(route: ServiceRoute) -> dict[str, Any]:
    return {
        "name": route.name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _ADS},
        "connect_timeout": _CONNECT_TIMEOUT,
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {
            # Below 50 % healthy Envoy would send to every host, draining ones too: better none than those.
            "healthy_panic_threshold": {"value": 0},
            # By default a health or weight change reaches the workers up to a second late.
            "update_merge_window": "0s",
        },
        # Otherwise an engine that left the endpoints stays in use for as long as it answers /health.
        "ignore_health_on_host_removal": True,
        "circuit_breakers": {"thresholds": [_make_open_breaker()]},
        "health_checks": [_make_health_check()],
        "outlier_detection": _make_outlier_detection(),
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _make_http_options()},
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 30, "keepalive_interval": 10}},
    }


def _make_open_breaker() -> dict[str, Any]:
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"priority": "DEFAULT", **dict.fromkeys(limits, _UNLIMITED)}


def _make_health_check() -> dict[str, Any]:
    """`/health` tells only that an engine is dead: slow answers of a busy one must not count quickly against it."""
    return {
        "timeout": "5s",
        "interval": "5s",
        "no_traffic_interval": "5s",
        "unhealthy_interval": "2s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/health"},
    }


def _make_outlier_detection() -> dict[str, Any]:
    """Leave out an engine that refuses connections or gives gateway errors, never more than half of them.

    A plain 500 may be the client's doing and ejects nobody.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_gateway_failure": 5,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "2s",
        "base_ejection_time": "5s",
        "max_ejection_time": "60s",
        "max_ejection_percent": 50,
    }


def _make_http_options() -> dict[str, Any]:
    return _typed(
        _HTTP_OPTIONS,
        explicit_http_config={"http_protocol_options": {}},
        common_http_protocol_options={"idle_timeout": _UPSTREAM_IDLE},
    )


def _make_endpoints(route: ServiceRoute) -> dict[str, Any]:
    engines = [_make_endpoint(engine) for engine in sorted(route.engines)]
    return {"cluster_name": route.name, "endpoints": [{"lb_endpoints": engines}] if engines else []}


def _make_endpoint(engine: EngineEndpoint) -> dict[str, Any]:
    address = {"address": engine.address, "port_value": engine.port}
    return {
        "endpoint": {"address": {"socket_address": address}},
        "health_status": "DRAINING" if engine.draining else "HEALTHY",
        "load_balancing_weight": min(max(engine.weight, 1), LARGEST_WEIGHT),
    }


def _make_route_config(namespace: str, routes: list[ServiceRoute]) -> dict[str, Any]:
    return {
        "name": ROUTE_CONFIG,
        "virtual_hosts": [
            {
                "name": namespace,
                "domains": ["*"],
                "routes": [*(_make_route(route) for route in routes), _make_unknown_path(namespace)],
            }
        ],
    }


def _make_route(route: ServiceRoute) -> dict[str, Any]:
    return {
        "name": route.name,
        "match": {"prefix": f"/{route.name}/"},
        "route": {
            "cluster": route.name,
            "prefix_rewrite": "/",
            "timeout": "0s",  # a stream lasts as long as it has tokens
            "retry_policy": _make_retry_policy(route.ttft_ms),
        },
    }


def _make_retry_policy(ttft_ms: float | None) -> dict[str, Any]:
    """Try a request that no engine has begun on another engine.

    `reset` is not among the conditions: a request that killed an engine would go on to kill the next ones. The waits
    are at most `interval` before the first retry and thrice that before later ones (Envoy's full jitter, capped).
    """
    interval = 0.025 if ttft_ms is None else min(max(ttft_ms / 1000 / 100, 0.001), 0.025)
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
        "retriable_status_codes": [429, 503],
        "num_retries": _RETRIES,
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": _typed(_PREVIOUS_HOSTS)}
        ],
        "host_selection_retry_max_attempts": 10,
        "retry_back_off": {"base_interval": f"{interval:.3f}s", "max_interval": f"{3 * interval:.3f}s"},
    }


def _make_unknown_path(namespace: str) -> dict[str, Any]:
    message = (
        f"no ModelService at this path: use /<ModelService>/v1/... ; "
        f"`kubectl get modelservices -n {namespace}` lists them"
    )
    body = {"error": {"message": message, "type": "not_found", "code": 404}}
    return {
        "name": "unknown-path",
        "match": {"prefix": "/"},
        "direct_response": {"status": 404, "body": {"inline_string": json.dumps(body) + "\n"}},
        "response_headers_to_add": [
            {
                "header": {"key": "content-type", "value": "application/json"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
    }
