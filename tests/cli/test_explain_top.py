"""`shoal explain` and `shoal top`: what they make of a status, and against a real API server."""

from __future__ import annotations

import argparse
import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from e2e.devcluster import DevCluster
from shoal.api.load import parse_object
from shoal.api.model_service import ModelService
from shoal.cli import explain, top

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NOW = "2026-01-01T00:00:00Z"
PLACED = {
    "pool": "h100",
    "accelerator": "NVIDIA-H100-80GB-HBM3",
    "tensorParallel": 1,
    "enginesPerGPU": 1,
    "maxNumSeqs": 256,
    "maxNumBatchedTokens": 2048,
}
SERVICE: dict[str, Any] = {
    "apiVersion": "shoal.dev/v1alpha1",
    "kind": "ModelService",
    "metadata": {"name": "chat", "namespace": "team", "generation": 3},
    "spec": {"model": {"name": "Qwen/Qwen2.5-7B-Instruct"}, "slo": {"ttftMilliseconds": 500, "itlMilliseconds": 40}},
}
STATUS: dict[str, Any] = {
    "observedGeneration": 3,
    "url": "http://shoal-router.team.svc:8080/chat/v1",
    "sloSummary": "TTFT 500, ITL 40 ms: met",
    "replicas": 2,
    "readyReplicas": 1,
    "plan": {
        "summary": "2xTP1",
        "variants": [
            {
                **PLACED,
                "name": "chat-0a1b2c3d",
                "replicas": 2,
                "capacityPerReplica": 11.25,
                "capacityPerEngine": 11.25,
                "weight": 1000,
            }
        ],
        "gpus": 2,
        "predicted": {"ttftMilliseconds": 120.5, "itlMilliseconds": 14.25, "utilization": 0.71},
        "costPerHour": "15.00",
        "bindingConstraint": "Demand",
        "reason": "16 req/s need 2 replicas of 11.2 req/s",
    },
    "frontier": [{**PLACED, "capacityPerReplica": 11.25, "capacityPerGPU": 11.25, "source": "Measured"}],
    "rejected": [{"configuration": "h100 TP2", "reason": "costs 15.00 an hour where TP1 costs 7.50"}],
    "conditions": [
        {
            "type": "Ready",
            "status": "False",
            "reason": "Starting",
            "message": "1 of 2 replicas ready",
            "lastTransitionTime": NOW,
            "observedGeneration": 3,
        }
    ],
    "observed": {"requestsPerSecond": 15.9, "ttftMilliseconds": 80.0, "itlMilliseconds": 13.0, "at": NOW},
    "learning": [
        {
            "configuration": "h100 TP1",
            "requests": 12400,
            "creditedRate": 3.9,
            "timeRatio": 1.1,
            "itlPredicted": 21.5,
            "itlObserved": 23.25,
        }
    ],
    "gpus": [
        {
            "pod": "chat-0a1b2c3d-x",
            "node": "gpu-a",
            "uuid": "GPU-1",
            "derating": 0.8,
            "reason": "1188 of 1980 MHz",
            "clockMHz": 1200,
            "powerWatts": 512,
        }
    ],
    "history": [{"at": NOW, "from": "1xTP1", "to": "2xTP1", "why": "demand 16 req/s, capacity 11.2"}],
}


def make_service(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    manifest = copy.deepcopy(SERVICE)
    manifest["metadata"].update(metadata)
    if status is not None:
        manifest["status"] = copy.deepcopy(status)
    return manifest


def show(report: RenderableType) -> str:
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(report)
    return console.export_text()


def explain_text(manifest: dict[str, Any]) -> str:
    return show(explain.make_report(parse_object(ModelService, manifest)))


@pytest.mark.parametrize(
    "told",
    [
        "Plan 2xTP1: 2 GPUs, 15.00 an hour, bound by Demand",
        "16 req/s need 2 replicas of 11.2 req/s",
        "costs 15.00 an hour where TP1 costs 7.50",
        "1 of 2 replicas ready",
        "demand 16 req/s, capacity 11.2",
        "GPU-1",
        "1200 MHz, 512 W",
        "80%",
        "1188 of 1980 MHz",
        "120",
        "15.9",
        "12,400",
        "21.5",
        "23.2",
        "TTFT 500 ms, ITL 40 ms",
        "http://shoal-router.team.svc:8080/chat/v1",
    ],
)
def test_explain_tells_everything_the_status_holds(told: str) -> None:
    assert told in explain_text(make_service(STATUS))


def test_explain_says_that_a_service_has_no_status_yet() -> None:
    assert "is the operator running" in explain_text(make_service())


def test_explain_says_that_the_status_is_about_an_older_generation() -> None:
    assert "about generation 3; the present one is 4" in explain_text(make_service(STATUS, generation=4))


def test_explain_json_has_every_part_even_before_the_first_decision() -> None:
    parts = explain.make_json(make_service())
    assert parts["plan"] is parts["history"] is parts["conditions"] is None
    assert explain.make_json(make_service(STATUS))["plan"] == STATUS["plan"]


def test_top_shows_a_line_for_each_service_and_sums() -> None:
    lines = [top.make_line(make_service(STATUS)), top.make_line(make_service(name="new"))]
    text = show(top.make_table(lines))
    assert "2 services" in text
    assert "15.9" in text
    assert "1/2" in text
    assert "-/-" in text
    assert "Starting" in text


def test_top_of_an_empty_cluster() -> None:
    assert "no ModelServices" in show(top.make_table([]))


def is_established(crd: dict[str, Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def parse(command: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="shoal")
    subparsers = parser.add_subparsers()
    explain.register(subparsers)
    top.register(subparsers)
    return parser.parse_args(command.split())


def run(command: str) -> int:
    args = parse(command)
    result: int = args.run(args)
    return result


def test_a_missing_kubeconfig_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain team/chat --kubeconfig /nowhere") == 1
    assert "--kubeconfig" in capsys.readouterr().err


@pytest.fixture(scope="module")
def kubeconfig(control_plane: DevCluster) -> Path:
    for definition in sorted((Path(__file__).parents[2] / "crds").glob("*.yaml")):
        (crd,) = control_plane.apply(definition.read_text())
        control_plane.wait_for(f"{CRDS}/{crd['metadata']['name']}", is_established)
    control_plane.create_namespace("cli-team")
    manifest = {**SERVICE, "metadata": {"name": "chat", "namespace": "cli-team"}}
    control_plane.apply(manifest)
    path = "/apis/shoal.dev/v1alpha1/namespaces/cli-team/modelservices/chat/status"
    status = {**STATUS, "observedGeneration": 1}
    control_plane.request("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
    control_plane.apply(_make_viewer())
    return control_plane.service_account_kubeconfig("cli-team", "viewer")


@pytest.mark.cluster
def test_explain(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"explain cli-team/chat --kubeconfig {kubeconfig} -o json") == 0
    assert json.loads(capsys.readouterr().out)["plan"]["summary"] == "2xTP1"


@pytest.mark.cluster
def test_explain_takes_the_namespace_of_the_context(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"explain chat --kubeconfig {kubeconfig}") == 0
    assert "cli-team/chat" in capsys.readouterr().out


@pytest.mark.cluster
def test_a_service_that_does_not_exist(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"explain cli-team/nobody --kubeconfig {kubeconfig}") == 1
    assert "there is no ModelService cli-team/nobody" in capsys.readouterr().err


@pytest.mark.cluster
def test_top_of_one_namespace(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"top -n cli-team --kubeconfig {kubeconfig} -o json") == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["name"], line["gpus"], line["requestsPerSecond"]) == ("chat", 2, 15.9)


@pytest.mark.cluster
def test_top_without_the_right_to_see_all(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"top --kubeconfig {kubeconfig}") == 1
    assert "-n NAMESPACE" in capsys.readouterr().err


def _make_viewer() -> list[dict[str, Any]]:
    """A ServiceAccount that may read the ModelServices of its own namespace."""
    rbac, place = "rbac.authorization.k8s.io", {"name": "viewer", "namespace": "cli-team"}
    rule = {"apiGroups": ["shoal.dev"], "resources": ["modelservices"], "verbs": ["get", "list"]}
    subject = {"kind": "ServiceAccount", **place}
    role = {"apiGroup": rbac, "kind": "Role", "name": "viewer"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": place, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": place,
            "subjects": [subject],
            "roleRef": role,
        },
    ]
