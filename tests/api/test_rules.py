"""Every CEL rule, with an object it accepts and one it refuses: in the API server, and offline in pydantic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from api_samples import CRDS, DELETE, Object, Verdicts, changed, full, schema_of, shortest

from shoal.api.errors import ApiError
from shoal.api.load import KINDS, parse
from shoal.api.schema import walk_rules

Changes = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Case:
    """Changes to a valid object: `accepted` keeps the rule at this path with this message, `refused` breaks it."""

    kind: str
    path: str
    message: str
    accepted: Changes
    refused: Changes

    def __str__(self) -> str:
        return f"{self.kind}{self.path}: {self.message}"[:80]

    def make(self, changes: Changes) -> Object:
        return changed(full(self.kind), *changes)


def _lengths(kind: str, path: str, where: str) -> Case:
    return Case(kind, path, "p95 must be at least", ((f"{where}.p95", 200),), ((f"{where}.p95", 99),))


def _quantiles(name: str) -> Case:
    where = f"spec.rows.0.points.0.{name}"
    return Case(
        "ModelProfile",
        f".spec.rows[].points[].{name}",
        "quantiles must rise",
        ((where, {"mean": 5, "p50": 4, "p99": 4}),),
        ((where, {"mean": 5, "p50": 4, "p99": 3.5}),),
    )


def _label_keys(path: str, where: str) -> Case:
    return Case("GPUPool", path, "a label key", ((where, {"a.b/c_d.e": ""}),), ((where, {"a.b/-c": "d"}),))


MANUAL = (("spec.mode", "Manual"), ("spec.manual", {"replicas": 2}))
CASES = (
    Case(
        "ModelService",
        "",
        "at most 40 characters",
        (("metadata.name", "a" * 40),),
        (("metadata.name", "a" * 41),),
    ),
    Case("ModelService", "", "must start with a letter", (("metadata.name", "a-1"),), (("metadata.name", "1-a"),)),
    Case("ModelService", "", "must start with a letter", (("metadata.name", "a"),), (("metadata.name", "a.b"),)),
    Case("ModelService", ".spec", "works only in mode Manual", (), (("spec.mode", "Auto"),)),
    Case("ModelService", ".spec", "works only in mode Manual", MANUAL, (("spec.mode", DELETE),)),
    Case("ModelService", ".spec", "mode Manual needs", (), (("spec.manual", DELETE),)),
    Case("ModelService", ".spec", "one of pools", (("spec.manual.pool", "l40s"),), (("spec.manual.pool", "a100"),)),
    Case(
        "ModelService",
        ".spec",
        "one engine per pod",
        (("spec.routing", "Service"), ("spec.parallelism.enginesPerGPU", [1, 2])),
        (("spec.routing", "Service"), ("spec.parallelism.enginesPerGPU", [2, 4])),
    ),
    Case(
        "ModelService",
        ".spec",
        "one engine per pod",
        (("spec.routing", "Envoy"), ("spec.manual.enginesPerGPU", 2)),
        (("spec.routing", "Service"), ("spec.manual.enginesPerGPU", 2)),
    ),
    Case(
        "ModelService",
        ".spec",
        "must fit into model.maxContextTokens",
        (("spec.model.maxContextTokens", 300),),
        (("spec.model.maxContextTokens", 299),),
    ),
    Case(
        "ModelService",
        ".spec.model.source",
        "exactly one source",
        (("spec.model.source", {"persistentVolumeClaim": {"claimName": "models", "path": "qwen/7b"}}),),
        (("spec.model.source", {"huggingFace": {}, "ociImage": {"reference": "a/b"}}),),
    ),
    Case(
        "ModelService",
        ".spec.model.source",
        "exactly one source",
        (("spec.model.source", {"ociImage": {"reference": "a/b@sha256:" + "0" * 64}}),),
        (("spec.model.source", {}),),
    ),
    Case(
        "ModelService",
        ".spec.slo",
        "at least one objective",
        (("spec.slo.ttftMilliseconds", DELETE),),
        (("spec.slo", {"percentile": 90}),),
    ),
    Case(
        "ModelService",
        ".spec.slo",
        "at least one objective",
        (("spec.slo.itlMilliseconds", DELETE),),
        (("spec.slo", {}),),
    ),
    _lengths("ModelService", ".spec.workload.inputTokens", "spec.workload.inputTokens"),
    _lengths("ModelService", ".spec.workload.outputTokens", "spec.workload.outputTokens"),
    Case(
        "ModelService",
        ".spec.limits",
        "minReplicas needs",
        (("spec.limits", {"minReplicas": 4, "maxGPUs": 4}),),
        (("spec.limits", {"minReplicas": 5, "maxGPUs": 4}),),
    ),
    Case(
        "ModelService",
        ".spec.parallelism",
        "engines share a GPU only with tensor 1",
        (("spec.parallelism", {"tensor": [2, 4], "enginesPerGPU": [1]}),),
        (("spec.parallelism", {"tensor": [2, 4], "enginesPerGPU": [2]}),),
    ),
    Case(
        "ModelService",
        ".spec.manual",
        "engines share a GPU only with tensorParallel 1",
        (("spec.manual.tensorParallel", 2),),
        (("spec.manual.tensorParallel", 2), ("spec.manual.enginesPerGPU", 2)),
    ),
    Case("GPUPool", "", "at most 63 characters", (("metadata.name", "a" * 63),), (("metadata.name", "a" * 64),)),
    Case("GPUPool", "", "no dot", (("metadata.name", "h100-sxm"),), (("metadata.name", "h100.sxm"),)),
    Case(
        "GPUPool",
        ".spec",
        "without a link",
        (("spec.link", "None"), ("spec.islandSize", 1)),
        (("spec.link", "None"), ("spec.islandSize", 2)),
    ),
    Case(
        "GPUPool",
        ".spec",
        "can be tainted",
        (("spec.claim", {"extendedResource": "nvidia.com/gpu"}), ("spec.thermal.taint", "never")),
        (("spec.claim", {"extendedResource": "nvidia.com/gpu"}), ("spec.thermal.taint", "NoExecute")),
    ),
    Case(
        "GPUPool", ".spec.memory", "at least 1Gi", (("spec.memory", {"perGPU": "1Gi"}),), (("spec.memory.perGPU", 80),)
    ),
    Case(
        "GPUPool", ".spec.memory", "reserve must be", (("spec.memory.reserve", 0),), (("spec.memory.reserve", "80Gi"),)
    ),
    Case(
        "GPUPool",
        ".spec.claim",
        "exactly one of dra",
        (("spec.claim.dra.driver", "gpu.example.org"),),
        (("spec.claim.extendedResource", "nvidia.com/gpu"),),
    ),
    Case(
        "GPUPool",
        ".spec.claim",
        "exactly one of dra",
        (("spec.claim", {"extendedResource": "a/b"}), ("spec.thermal", {})),
        (("spec.claim", {}), ("spec.thermal", {})),
    ),
    _label_keys(".spec.nodes.labels", "spec.nodes.labels"),
    _label_keys(".spec.namespaces[].selector.matchLabels", "spec.namespaces.0.selector.matchLabels"),
    Case(
        "GPUPool",
        ".spec.nodes.labels",
        "a label key",
        (("spec.nodes.labels", {"a" * 63: "b"}),),
        (("spec.nodes.labels", {"a" * 318: "b"}),),
    ),
    Case(
        "GPUPool",
        ".spec.nodes.tolerations[]",
        "takes no value",
        (("spec.nodes.tolerations.0", {"operator": "Exists"}),),
        (("spec.nodes.tolerations.0.operator", "Exists"),),
    ),
    Case(
        "GPUPool",
        ".spec.nodes.tolerations[]",
        "without a key",
        (("spec.nodes.tolerations.0.operator", DELETE),),
        (("spec.nodes.tolerations.0.key", DELETE),),
    ),
    Case("EngineClass", "", "at most 63 characters", (("metadata.name", "a" * 63),), (("metadata.name", "a" * 64),)),
    Case("EngineClass", "", "no dot", (("metadata.name", "v-1"),), (("metadata.name", "v.1"),)),
    Case(
        "EngineClass",
        ".spec",
        "arguments that Shoal gives itself",
        (("spec.extraArgs", ["--portable", "--enforce-eager"]),),
        (("spec.extraArgs", ["--enforce-eager", "--max_num_seqs=4"]),),
    ),
    Case(
        "EngineClass",
        ".spec",
        "arguments that Shoal gives itself",
        (("spec.extraArgs", []),),
        (("spec.extraArgs", ["--port", "80"]),),
    ),
    Case("EngineClass", ".spec", "0.18.0 or later", (("spec.version", "0.18.0"),), (("spec.version", "0.17.9"),)),
    Case("EngineClass", ".spec", "0.18.0 or later", (("spec.version", "1.0.0"),), (("spec.version", "0.9.2.dev1"),)),
    Case(
        "EngineClass",
        ".spec.env[]",
        "Shoal sets",
        (("spec.env", [{"name": "HF_HOME", "value": ""}]),),
        (("spec.env", [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),),
    ),
    Case(
        "EngineClass",
        ".spec.cache",
        "exactly one of emptyDir",
        (("spec.cache", {"persistentVolumeClaim": {"claimName": "cache"}}),),
        (("spec.cache.persistentVolumeClaim", {"claimName": "cache"}),),
    ),
    Case(
        "ModelProfile",
        ".spec.rows[]",
        "share a GPU only",
        (("spec.rows.0.tensorParallel", 2),),
        (("spec.rows.0.tensorParallel", 2), ("spec.rows.0.enginesPerGPU", 2)),
    ),
    Case(
        "ModelProfile",
        ".spec.rows[]",
        "mps is about engines that share a GPU",
        (("spec.rows.0.mps", True), ("spec.rows.0.enginesPerGPU", 2)),
        (("spec.rows.0.mps", True),),
    ),
    Case(
        "ModelProfile",
        ".spec.rows[]",
        "a row needs",
        (("spec.rows.0.points", DELETE), ("spec.rows.0.steps", DELETE)),
        (("spec.rows.0.points", DELETE), ("spec.rows.0.steps", DELETE), ("spec.rows.0.overloadRate", DELETE)),
    ),
    Case(
        "ModelProfile",
        ".spec.rows[]",
        "points must be sorted",
        (("spec.rows.0.points.0.requestsPerSecond", 12),),
        (("spec.rows.0.points.0.requestsPerSecond", 12.5),),
    ),
    _lengths("ModelProfile", ".spec.rows[].inputTokens", "spec.rows.0.inputTokens"),
    _lengths("ModelProfile", ".spec.rows[].outputTokens", "spec.rows.0.outputTokens"),
    _quantiles("ttftMilliseconds"),
    _quantiles("itlMilliseconds"),
    Case("ProfileRun", "", "at most 40 characters", (("metadata.name", "a" * 40),), (("metadata.name", "a" * 41),)),
    Case("ProfileRun", "", "must start with a letter", (("metadata.name", "a-1"),), (("metadata.name", "1-a"),)),
    Case("ProfileRun", ".spec", "at least a minute", (("spec.budgetMinutes", 2),), (("spec.budgetMinutes", 1),)),
    Case(
        "ProfileRun",
        ".spec",
        "must fit into model.maxContextTokens",
        (("spec.model.maxContextTokens", 640),),
        (("spec.model.maxContextTokens", 639),),
    ),
    Case(
        "ProfileRun",
        ".spec.configurations[]",
        "engines share a GPU only with tensorParallel 1",
        (("spec.configurations.0.enginesPerGPU", 1), ("spec.configurations.0.tensorParallel", 2)),
        (("spec.configurations.0.tensorParallel", 2),),
    ),
    Case(
        "ProfileRun",
        ".spec.configurations[]",
        "must be at least maxNumSeqs",
        (("spec.configurations.1.maxNumSeqs", 2048),),
        (("spec.configurations.1.maxNumSeqs", 2049),),
    ),
    Case(
        "ProfileRun",
        ".spec.slo",
        "at least one objective",
        (("spec.slo", {"itlMilliseconds": 30}),),
        (("spec.slo", {"percentile": 90}),),
    ),
    Case(
        "ProfileRun",
        ".spec.model.source",
        "exactly one source",
        (("spec.model.source", {"persistentVolumeClaim": {"claimName": "models"}}),),
        (("spec.model.source.persistentVolumeClaim", {"claimName": "models"}),),
    ),
)


@pytest.mark.parametrize("kind", CRDS)
def test_no_rule_is_without_a_case(kind: str) -> None:
    missing = [
        (path, rule["message"])
        for path, rule in walk_rules(schema_of(kind))
        if not any(c.kind == kind and c.path == path and c.message in rule["message"] for c in CASES)
    ]
    assert not missing


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule_holds_offline(case: Case) -> None:
    parse(KINDS[case.kind], case.make(case.accepted), unknown="forbid")
    with pytest.raises(ApiError, match=case.message):
        parse(KINDS[case.kind], case.make(case.refused), unknown="forbid")


@pytest.mark.cluster
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule_holds_in_the_api_server(case: Case, verdicts: Verdicts) -> None:
    accepted, refused = verdicts([case.make(case.accepted), case.make(case.refused)])
    assert accepted is None
    assert refused is not None
    assert case.message in refused


@pytest.mark.cluster
@pytest.mark.parametrize("kind", CRDS)
def test_samples_are_accepted(kind: str, verdicts: Verdicts) -> None:
    samples = [full(kind)] if kind == "ModelProfile" else [full(kind), shortest(kind)]
    assert verdicts(samples) == [None] * len(samples)
    for sample in samples:
        parse(KINDS[kind], sample, unknown="forbid")
