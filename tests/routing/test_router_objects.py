"""The router's Kubernetes objects."""

from __future__ import annotations

import json
import re
from typing import Any

import kubernetes_validate
import pytest

from shoal.render.bootstrap import CLIENT_CONNECTION_SECONDS, CLIENT_IDLE_SECONDS
from shoal.render.router import RouterOwner, RouterSettings, make_router

SETTINGS = RouterSettings(image="envoyproxy/envoy@sha256:0", xds_address="shoal.shoal-system.svc:18000")
OWNERS = (RouterOwner("b", "2"), RouterOwner("a", "1"))


def find(kind: str, settings: RouterSettings = SETTINGS) -> dict[str, Any]:
    return next(o for o in make_router("team", settings, OWNERS) if o["kind"] == kind)


def pod(settings: RouterSettings = SETTINGS) -> dict[str, Any]:
    spec: dict[str, Any] = find("Deployment", settings)["spec"]["template"]["spec"]
    return spec


def bootstrap(settings: RouterSettings = SETTINGS) -> dict[str, Any]:
    arguments = pod(settings)["containers"][0]["args"]
    parsed: dict[str, Any] = json.loads(arguments[arguments.index("--config-yaml") + 1])
    return parsed


def test_the_api_server_would_take_them() -> None:
    objects = make_router("team", SETTINGS, OWNERS)
    assert [o["kind"] for o in objects] == ["Deployment", "Service", "PodDisruptionBudget"]
    for one in objects:
        kubernetes_validate.validate(one, "1.37", strict=True)


def test_they_go_with_the_last_of_their_owners() -> None:
    for one in make_router("team", SETTINGS, OWNERS):
        owners = one["metadata"]["ownerReferences"]
        assert [(owner["name"], owner["uid"]) for owner in owners] == [("a", "1"), ("b", "2")]
        assert not any(owner.get("controller") or owner.get("blockOwnerDeletion") for owner in owners)


def test_owners_do_not_roll_the_pods() -> None:
    one, two = (make_router("team", SETTINGS, owners)[0]["spec"] for owners in (OWNERS, OWNERS[:1]))
    assert one == two


def test_the_pod_is_restricted() -> None:
    spec = pod()
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert "volumes" not in spec
    assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


@pytest.mark.parametrize("wished", [0, 1, 30, 120, 3600])
def test_a_deleted_router_serves_until_its_clients_have_left(wished: int) -> None:
    spec = pod(RouterSettings(image="i", xds_address="x:1", drain_seconds=wished))
    sleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep >= max(wished, CLIENT_CONNECTION_SECONDS + CLIENT_IDLE_SECONDS)
    assert spec["terminationGracePeriodSeconds"] > sleep


def test_the_kubelet_knows_all_variables() -> None:
    [container] = pod()["containers"]
    used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
    assert used == {variable["name"] for variable in container["env"]} == {"POD_IP", "POD_NAME"}


def test_the_memory_limit_bounds_the_heap() -> None:
    monitor = bootstrap(RouterSettings(image="i", xds_address="x:1", memory_mib=100))["overload_manager"]
    assert monitor["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"] == 80 << 20


@pytest.mark.parametrize(
    ("address", "host", "kind"),
    [
        ("shoal.shoal-system.svc:18000", "shoal.shoal-system.svc", "STRICT_DNS"),
        ("10.0.0.1:18000", "10.0.0.1", "STATIC"),
        ("[fd00::1]:18000", "fd00::1", "STATIC"),
    ],
)
def test_the_operator_is_found_by_name_or_address(address: str, host: str, kind: str) -> None:
    clusters = bootstrap(RouterSettings(image="i", xds_address=address))["static_resources"]["clusters"]
    [xds] = [cluster for cluster in clusters if cluster["name"] == "shoal-xds"]
    endpoint = xds["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert (xds["type"], endpoint) == (kind, {"address": host, "port_value": 18000})
