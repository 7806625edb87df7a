"""How many replicas of a ModelService may be evicted at once."""

from __future__ import annotations

from typing import Any

from shoal.api.model_service import ModelService
from shoal.render.names import budget_name, service_selector
from shoal.render.variant import make_metadata


def make_budget(service: ModelService) -> dict[str, Any]:
    """The PodDisruptionBudget over all variants: one at a time; pods that do not serve may always go."""
    name = service.metadata.name
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": make_metadata(service, budget_name(name), service_selector(name), {}),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": service_selector(name)},
        },
    }
