"""The router of a namespace: Envoys behind one Service, for all its ModelServices together.

A pod that is deleted goes on serving for its drain time: preStop sleeps, since Envoy drops everything at SIGTERM. It is
out of the Service then, idle connections are closed, busy ones are told to close with their next answer
(`shoal.render.bootstrap`), and streams have that long to end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from shoal.api.base import API_VERSION
from shoal.render import names
from shoal.render.bootstrap import CLIENT_CONNECTION_SECONDS, CLIENT_IDLE_SECONDS, STATS_PORT, make_bootstrap

DRAIN_SECONDS: Final = 120

_SHORTEST_DRAIN: Final = CLIENT_IDLE_SECONDS + CLIENT_CONNECTION_SECONDS + 5
_HEAP_SHARE: Final = 0.8  # of the memory limit; Envoy's stacks, code and buffers of the kernel need the rest
_USER: Final = 101  # of Envoy's image


@dataclass(frozen=True, slots=True, order=True)
class RouterOwner:
    """A ModelService that is routed by Envoy. The router goes with the last one."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """The operator's settings for routers. `xds_address` is `host:port` of the operator as routers dial it.

    `drain_seconds`: how long a deleted router serves on; longer streams are cut. `workers`: Envoy's threads.
    """

    image: str
    xds_address: str
    replicas: int = 2
    pull_policy: str = "IfNotPresent"
    drain_seconds: int = DRAIN_SECONDS
    workers: int = 2
    cpu: str = "250m"
    memory_mib: int = 512


def make_router(namespace: str, settings: RouterSettings, owners: Iterable[RouterOwner]) -> tuple[dict[str, Any], ...]:
    """Deployment, Service and PodDisruptionBudget, owned by every given ModelService."""
    metadata = {
        "name": names.ROUTER,
        "namespace": namespace,
        "labels": _labels(),
        "ownerReferences": [_make_owner(owner) for owner in sorted(owners)],
    }
    return (
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": _make_deployment_spec(namespace, settings),
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": _make_service_spec()},
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata,
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": _labels()},
            },
        },
    )


def _labels() -> dict[str, str]:
    return {**names.common_labels(), names.LABEL_COMPONENT: names.COMPONENT_ROUTER}


def _make_owner(owner: RouterOwner) -> dict[str, Any]:
    """No controller: several may own it. No blockOwnerDeletion: see `make_owner_reference`."""
    return {"apiVersion": API_VERSION, "kind": "ModelService", "name": owner.name, "uid": owner.uid}


def _make_service_spec() -> dict[str, Any]:
    port = {"name": "http", "port": names.ROUTER_PORT, "targetPort": names.ROUTER_PORT, "protocol": "TCP"}
    return {"type": "ClusterIP", "selector": _labels(), "ports": [port]}


def _make_deployment_spec(namespace: str, settings: RouterSettings) -> dict[str, Any]:
    return {
        "replicas": settings.replicas,
        "selector": {"matchLabels": _labels()},
        # The new pod serves before an old one starts to drain.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": _labels()}, "spec": _make_pod_spec(namespace, settings)},
    }


def _make_pod_spec(namespace: str, settings: RouterSettings) -> dict[str, Any]:
    drain = max(settings.drain_seconds, _SHORTEST_DRAIN)
    return {
        "containers": [_make_container(namespace, settings, drain)],
        "terminationGracePeriodSeconds": drain + 5,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _labels()},
            }
        ],
    }


def _make_container(namespace: str, settings: RouterSettings, drain: int) -> dict[str, Any]:
    """No liveness probe: a router listens only when the operator has configured it, and must wait for that as long as
    it takes. One that hangs is ended by Envoy's own watchdog.
    """
    memory = f"{settings.memory_mib}Mi"
    return {
        "name": "envoy",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": _make_arguments(namespace, settings),
        "env": [_from_field("POD_IP", "status.podIP"), _from_field("POD_NAME", "metadata.name")],
        "ports": [
            {"name": "http", "containerPort": names.ROUTER_PORT, "protocol": "TCP"},
            {"name": "stats", "containerPort": STATS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": STATS_PORT, "scheme": "HTTP"},
            "periodSeconds": 2,
            "timeoutSeconds": 2,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": drain}}},
        "resources": {"requests": {"cpu": settings.cpu, "memory": memory}, "limits": {"memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _make_arguments(namespace: str, settings: RouterSettings) -> list[str]:
    """The bootstrap is an argument, because the kubelet fills in variables there but not in ConfigMaps."""
    host, _, port = settings.xds_address.rpartition(":")
    bootstrap = make_bootstrap(
        namespace,
        xds_host=host.strip("[]"),
        xds_port=int(port),
        max_heap_bytes=int(settings.memory_mib * _HEAP_SHARE) << 20,
    )
    return [
        "--config-yaml",
        json.dumps(bootstrap, sort_keys=True),
        "--disable-hot-restart",
        "--concurrency",
        str(settings.workers),
        "--log-level",
        "warning",
    ]


def _from_field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
