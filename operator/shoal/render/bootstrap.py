"""The bootstrap of a router pod: its listeners, the answers it gives itself, and where its configuration comes from.

Every pod binds its own address, so the listeners are here (the kubelet puts the address in for `$(POD_IP)`), and only
what follows the ModelServices comes over xDS. The xDS resources of all pods of a namespace are then the same.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Final

from shoal.render import envoy, names

STATS_PORT: Final = 9442
XDS_CLUSTER: Final = "shoal-xds"
ADMIN_CLUSTER: Final = "shoal-admin"
CLIENT_IDLE_SECONDS: Final = 20  # idle keep-alive connections; with the next, less than a router's drain time
CLIENT_CONNECTION_SECONDS: Final = 30  # then the next answer says `Connection: close`

_STREAM_IDLE: Final = "3600s"  # an answer that is not streamed is silent for as long as it is generated
_HCM: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Final = "envoy.extensions.filters.http.router.v3.Router"
_LUA: Final = "envoy.extensions.filters.http.lua.v3.Lua"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_FIXED_HEAP: Final = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"
_STDOUT_LOG: Final = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"


def make_bootstrap(namespace: str, *, xds_host: str, xds_port: int, max_heap_bytes: int) -> dict[str, Any]:
    """The bootstrap with `$(POD_IP)` and `$(POD_NAME)` left for the kubelet to fill in."""
    return {
        "node": {"id": f"{namespace}/$(POD_NAME)", "cluster": namespace},
        "admin": {"address": {"pipe": {"path": _ADMIN_PIPE}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
            # 0: wait. A router that has not heard of any ModelService yet must not be taken for ready.
            "cds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        "static_resources": {
            "listeners": [_make_data_listener(namespace), _make_stats_listener()],
            "clusters": [_make_xds_cluster(xds_host, xds_port), _make_admin_cluster()],
        },
        "overload_manager": _make_overload_manager(max_heap_bytes),
        "watchdogs": {name: {"kill_timeout": "60s"} for name in ("main_thread_watchdog", "worker_watchdog")},
    }


_ADMIN_PIPE: Final = "@shoal-admin-$(POD_NAME)"  # abstract: reachable inside the pod only, and needs no file system


def _typed(message: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/{message}", **fields}


def _make_listener(name: str, port: int, hcm: dict[str, Any]) -> dict[str, Any]:
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": _typed(_HCM, **hcm)}
    return {
        "name": name,
        "address": {"socket_address": {"address": "$(POD_IP)", "port_value": port}},
        "filter_chains": [{"filters": [manager]}],
    }


def _make_data_listener(namespace: str) -> dict[str, Any]:
    hcm = {
        "stat_prefix": "services",
        "rds": {
            "route_config_name": envoy.ROUTE_CONFIG,
            "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        "http_filters": [_make_retry_after(), _make_router()],
        "local_reply_config": {"mappers": _make_error_answers(namespace)},
        "access_log": [_make_error_log()],
        "common_http_protocol_options": {
            "idle_timeout": f"{CLIENT_IDLE_SECONDS}s",
            "max_connection_duration": f"{CLIENT_CONNECTION_SECONDS}s",
        },
        "http1_safe_max_connection_duration": True,
        "stream_idle_timeout": _STREAM_IDLE,
        "request_headers_timeout": "10s",
        "normalize_path": True,
        "merge_slashes": True,
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": True,
    }
    return _make_listener("services", names.ROUTER_PORT, hcm)


def _make_router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": _typed(_ROUTER, suppress_envoy_headers=True),
    }


def _hint(namespace: str, service: str) -> str:
    return f"see `kubectl describe modelservice {service} -n {namespace}`"


def _make_retry_after() -> dict[str, Any]:
    """Tells clients when to come again, whoever refused: the last engine that was asked, or the router itself."""
    return {
        "name": "envoy.filters.http.lua",
        "typed_config": _typed(_LUA, default_source_code={"inline_string": _LUA_CODE}),
    }


_LUA_CODE: Final = """\
function envoy_on_response(handle)
  local status = handle:headers():get(":status")
  if status == "429" or status == "503" then
    handle:headers():replace("retry-after", "1")
  end
end
"""


def _make_body(message: str, kind: str, status: int) -> dict[str, Any]:
    """An error as OpenAI clients read it."""
    return {"json_format": {"error": {"message": message, "type": kind, "code": status}}}


def _make_error_answers(namespace: str) -> list[dict[str, Any]]:
    """Answers the router makes itself. Its response flags say why; `%ROUTE_NAME%` is the ModelService."""
    answers = (
        (["UH", "NC"], f"no engine of this ModelService can take requests now: {_hint(namespace, '%ROUTE_NAME%')}"),
        (["UF", "UC", "UR", "LR"], f"the engine failed before it answered: {_hint(namespace, '%ROUTE_NAME%')}"),
    )
    return [
        {
            "filter": {"response_flag_filter": {"flags": flags}},
            "body_format_override": _make_body(message, "unavailable", 503),
        }
        for flags, message in answers
    ]


def _make_error_log() -> dict[str, Any]:
    """One JSON line on stdout for each request that failed. Neither prompts nor answers are in it."""
    fields = {
        "time": "%START_TIME%",
        "service": "%ROUTE_NAME%",
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "engine": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "milliseconds": "%DURATION%",
    }
    threshold = {"op": "GE", "value": {"default_value": 500, "runtime_key": "shoal.error_log.status"}}
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": {"status_code_filter": {"comparison": threshold}},
        "typed_config": _typed(_STDOUT_LOG, log_format={"json_format": fields}),
    }


def _make_stats_listener() -> dict[str, Any]:
    """Lets the kubelet and the operator read two paths of the admin interface, and nobody do anything else."""
    get = {"name": ":method", "string_match": {"exact": "GET"}}
    routes = [
        {"match": {"path": path, "headers": [get]}, "route": {"cluster": ADMIN_CLUSTER}}
        for path in ("/stats/prometheus", "/ready")
    ]
    hcm = {
        "stat_prefix": "stats",
        "route_config": {
            "name": "stats",
            "virtual_hosts": [{"name": "stats", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [_make_router()],
        "request_headers_timeout": "10s",
    }
    return _make_listener("stats", STATS_PORT, hcm)


def _make_xds_cluster(host: str, port: int) -> dict[str, Any]:
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC" if _is_address(host) else "STRICT_DNS",
        "connect_timeout": "2s",
        "load_assignment": _make_assignment(XDS_CLUSTER, {"socket_address": {"address": host, "port_value": port}}),
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: _typed(
                _HTTP_OPTIONS,
                explicit_http_config={
                    # Notices an operator that vanished without a word (its node died) within a minute.
                    "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
                },
            )
        },
    }


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _make_admin_cluster() -> dict[str, Any]:
    return {
        "name": ADMIN_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": _make_assignment(ADMIN_CLUSTER, {"pipe": {"path": _ADMIN_PIPE}}),
    }


def _make_assignment(name: str, address: dict[str, Any]) -> dict[str, Any]:
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def _make_overload_manager(max_heap_bytes: int) -> dict[str, Any]:
    """Refuse requests (503) shortly before the memory limit would have the whole router killed."""
    heap = "envoy.resource_monitors.fixed_heap"
    actions = (("envoy.overload_actions.shrink_heap", 0.9), ("envoy.overload_actions.stop_accepting_requests", 0.95))
    return {
        "refresh_interval": "0.5s",
        "resource_monitors": [{"name": heap, "typed_config": _typed(_FIXED_HEAP, max_heap_size_bytes=max_heap_bytes)}],
        "actions": [{"name": name, "triggers": [{"name": heap, "threshold": {"value": at}}]} for name, at in actions],
    }
