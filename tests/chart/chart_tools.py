"""The chart, rendered; and the values that the tests render it with."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from e2e.tools import helm_binary

Object = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "shoal"
NAMESPACE = "shoal-system"
DIGEST = "sha256:" + "0" * 64

DEFAULTS: Object = {}
ALL_ON: Object = {
    "images": {
        "registry": "registry.example:5000/team",
        "pullSecrets": ["registry"],
        "operator": {"digest": DIGEST},
        "gpuAgent": {"digest": DIGEST},
        "profiler": {"digest": DIGEST},
        "envoy": {"digest": DIGEST},
    },
    "operator": {
        "replicas": 3,
        "paused": True,
        "logFormat": "text",
        "maxConcurrentMoves": 4,
        "maxCapacityLossPercent": 50,
        "energyPricePerKWh": 0.25,
        "watchNamespaces": ["team-a", "team-b"],
        "prometheusURL": "http://prometheus.monitoring.svc:9090",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "control", "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": "platform",
        "podAnnotations": {"example.org/note": "x"},
    },
    "xds": {"address": "10.0.0.9:18000", "clusterIP": "10.0.0.9"},
    "metrics": {"podMonitor": True},
    "taints": {"enabled": True},
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    },
    "engineClass": {
        "image": {"digest": DIGEST},
        "env": {"HF_HUB_OFFLINE": "1", "COUNT": 3, "FLAG": True},
        "spec": {"drainSeconds": 60, "resources": {"cpu": 2, "memory": "8Gi"}},
    },
    "gpuAgent": {"runtimeClassName": "nvidia", "priorityClassName": "platform"},
}
ALL_OFF: Object = {
    "crds": {"install": False},
    "metrics": {"service": False},
    "admissionPolicies": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "rbac": {"aggregate": False},
    "engineClass": {"create": False},
    "gpuAgent": {"enabled": False},
}
SETTINGS = {"defaults": DEFAULTS, "all-on": ALL_ON, "all-off": ALL_OFF}


LEARNED: Object = {
    "apiVersion": "shoal.dev/v1alpha1",
    "kind": "ModelProfile",
    "metadata": {
        "name": "chat-learned",
        "labels": {"app.kubernetes.io/managed-by": "shoal"},
        "ownerReferences": [
            {"apiVersion": "shoal.dev/v1alpha1", "kind": "ModelService", "name": "chat", "uid": "1", "controller": True}
        ],
    },
    "spec": {
        "model": {
            "name": "acme/m",
            "parameterCount": 1e9,
            "weightsBytes": 2e9,
            "kvBytesPerToken": 1000,
            "maxContextTokens": 4096,
        },
        "accelerator": "NVIDIA-L40S",
        "engine": {"name": "vllm", "version": "0.33.0"},
        "source": "Learned",
        "rows": [
            {
                "tensorParallel": 1,
                "enginesPerGPU": 1,
                "maxNumSeqs": 256,
                "maxNumBatchedTokens": 2048,
                "kvCacheTokens": 10000,
                "inputTokens": {"mean": 100},
                "outputTokens": {"mean": 50},
                "steps": {"alphaMs": 5, "betaMsPerToken": 0.1, "gammaMsPerKVToken": 0.0001},
                "evidence": {"requests": 200, "highestRate": 3.0, "percentile": 95},
            }
        ],
    },
}
"""A ModelProfile as the operator keeps it."""


def helm(*arguments: str, values: Object | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; values go in through standard input."""
    command = [str(helm_binary()), *arguments]
    if values is not None:
        command += ["--values", "-"]
    return subprocess.run(
        command, input=json.dumps(values) if values is not None else None, capture_output=True, text=True, check=False
    )


@functools.cache
def _render(values: str) -> str:
    extra = ("--api-versions", "monitoring.coreos.com/v1/PodMonitor")
    done = helm("template", "shoal", str(CHART), "--namespace", NAMESPACE, *extra, values=json.loads(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def render_text(values: Object) -> str:
    return _render(json.dumps(values, sort_keys=True))


def render(values: Object) -> list[Object]:
    """Every object of the rendered chart."""
    return [item for item in yaml.safe_load_all(render_text(values)) if item]


def find(items: list[Object], kind: str, name: str) -> Object:
    [found] = [item for item in items if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def pod_templates(items: list[Object]) -> dict[str, Object]:
    """Pod templates by the name of their Deployment or DaemonSet."""
    return {
        item["metadata"]["name"]: item["spec"]["template"]
        for item in items
        if item["kind"] in ("Deployment", "DaemonSet")
    }
