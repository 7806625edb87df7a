"""The Service in front of the engines of a ModelService with `routing: Service`."""

from __future__ import annotations

from typing import Any

from shoal.api.model_service import ModelService
from shoal.render.names import ENGINE_PORT, SERVICE_PORT, engines_service_name, service_selector
from shoal.render.variant import make_metadata


def make_service(service: ModelService) -> dict[str, Any]:
    """One port, one engine per pod: a Service knows nothing of engines that share a pod."""
    name = service.metadata.name
    port = {"name": "http", "port": SERVICE_PORT, "targetPort": ENGINE_PORT, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": make_metadata(service, engines_service_name(name), service_selector(name), {}),
        "spec": {"type": "ClusterIP", "selector": service_selector(name), "ports": [port]},
    }
