"""Valid objects of every kind with every field of spec set, and ways to change them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml

from shoal.api.crds import DEFINITIONS, make_crd

Object = dict[str, Any]
Verdicts = Callable[[Sequence[Object]], list[str | None]]
DELETE = object()

_FULL = """
apiVersion: shoal.dev/v1alpha1
kind: ModelService
metadata: {name: chat}
spec:
  model:
    name: Qwen/Qwen2.5-7B-Instruct
    revision: a09a35458c702b33eeacc393d103063234e8bc28
    servedName: chat
    maxContextTokens: 8192
    parameters: 7.6B
    source: {huggingFace: {tokenSecretName: hf-token}}
  engine: {class: default, toolCallParser: hermes, reasoningParser: none}
  pools: [h100, l40s]
  slo: {percentile: 95, ttftMilliseconds: 500, itlMilliseconds: 40}
  workload: {requestsPerSecond: 40, inputTokens: {mean: 200, p95: 600}, outputTokens: {mean: 100, p95: 300}}
  limits: {minReplicas: 1, maxGPUs: 8}
  standby: {stepFactor: 2, maxMissPercent: 5}
  parallelism: {tensor: [1, 2], enginesPerGPU: [1, 2, 4]}
  profile: {require: Any}
  priority: 10
  routing: Envoy
  mode: Manual
  manual: {replicas: 3, pool: h100, tensorParallel: 1, enginesPerGPU: 1}
---
apiVersion: shoal.dev/v1alpha1
kind: GPUPool
metadata: {name: h100}
spec:
  accelerator: NVIDIA-H100-80GB-HBM3
  memory: {perGPU: 80Gi, reserve: 2Gi, unified: false}
  claim: {dra: {deviceClassName: gpu.nvidia.com, driver: gpu.nvidia.com}}
  nodes:
    labels: {node.kubernetes.io/instance-type: p5.48xlarge}
    tolerations: [{key: nvidia.com/gpu, operator: Equal, value: present, effect: NoSchedule}]
    runtimeClassName: nvidia
  maxGPUs: 64
  pricePerGPUHour: "3.10"
  link: NVLink
  islandSize: 8
  sharing: MPS
  namespaces: [{selector: {matchLabels: {team: ml}}, gpuQuota: 8, maxPriority: 100}]
  thermal: {derate: true, taint: NoSchedule}
  datasheet: {memoryBandwidthGBs: 3350, denseTFLOPs16Bit: 989}
---
apiVersion: shoal.dev/v1alpha1
kind: EngineClass
metadata: {name: default}
spec:
  engine: vllm
  image: registry.example/vllm/vllm-openai:v0.30.1
  imagePullPolicy: IfNotPresent
  imagePullSecrets: [registry]
  version: 0.30.1
  command: [vllm, serve]
  extraArgs: [--enable-prefix-caching, --block-size=16]
  env: [{name: HF_HUB_OFFLINE, value: "1"}]
  allowedArgs: [toolCallParser, reasoningParser]
  allowedSources: [HuggingFace, PersistentVolumeClaim, OCIImage]
  apiServerCount: 2
  maxApiServerCount: 4
  resources: {cpu: 4, memory: 16Gi, shm: 2Gi}
  cache: {emptyDir: {sizeLimit: 100Gi}}
  runAsUser: 2000
  startupSeconds: 900
  drainSeconds: 120
  shutdownSeconds: 5
  priorityClassName: serving
  spread: Node
---
apiVersion: shoal.dev/v1alpha1
kind: ModelProfile
metadata: {name: qwen-h100}
spec:
  model:
    name: Qwen/Qwen2.5-7B-Instruct
    parameterCount: 7615616512
    weightsBytes: 15231233024
    kvBytesPerToken: 57344
    maxContextTokens: 32768
  accelerator: NVIDIA-H100-80GB-HBM3
  engine: {name: vllm, version: 0.30.1}
  link: NVLink
  clockMHz: 1755
  source: Measured
  rows:
    - tensorParallel: 1
      enginesPerGPU: 1
      maxNumSeqs: 256
      maxNumBatchedTokens: 2048
      kvCacheTokens: 900000
      inputTokens: {mean: 200, p95: 600}
      outputTokens: {mean: 100, p95: 300}
      overloadRate: 21.5
      points:
        - requestsPerSecond: 4
          ttftMilliseconds: {mean: 25.5, p50: 22, p90: 31, p95: 40, p99: 75}
          itlMilliseconds: {mean: 7.1, p50: 7, p90: 7.5, p95: 8, p99: 9}
          watts: 450
        - requestsPerSecond: 12
          ttftMilliseconds: {mean: 40}
          itlMilliseconds: {mean: 11}
      steps:
        alphaMs: 5.8
        betaMsPerToken: 0.012
        gammaMsPerKVToken: 0.00001
        floorSmallMs: 7
        floorLargeMs: 14
        apiTokensPerSecond: 16000
  provenance:
    tool: shoal profile
    version: 0.1.0
    gpuName: NVIDIA H100 80GB HBM3
    driver: "580.65"
    date: 2026-05-04T12:00:00Z
    host: 16 cores per engine
    command: shoal profile --pool h100
    notes: none
    sourceURL: https://example.org/run
---
apiVersion: shoal.dev/v1alpha1
kind: ProfileRun
metadata: {name: qwen}
spec:
  model:
    name: Qwen/Qwen2.5-7B-Instruct
    revision: a09a35458c702b33eeacc393d103063234e8bc28
    maxContextTokens: 8192
    parameters: 7.6B
    source: {huggingFace: {tokenSecretName: hf-token}}
  engine: {class: default}
  pool: h100
  configurations:
    - {tensorParallel: 1, enginesPerGPU: 2, maxNumSeqs: 256, maxNumBatchedTokens: 8192}
    - {tensorParallel: 2}
  lengths: {inputTokens: 512, outputTokens: 128, distribution: Lognormal}
  slo: {percentile: 95, ttftMilliseconds: 500, itlMilliseconds: 40}
  budgetMinutes: 30
  profileName: qwen-h100
"""


class _StringDates(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - pyyaml's own attribute
        first: [pair for pair in pairs if "timestamp" not in pair[0]]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


FULL: dict[str, Object] = {document["kind"]: document for document in yaml.load_all(_FULL, _StringDates)}
SHORTEST: dict[str, Object] = {
    "ModelService": {"model": {"name": "Qwen/Qwen2.5-7B-Instruct"}, "slo": {"ttftMilliseconds": 500}},
    "GPUPool": {
        "accelerator": "NVIDIA-L40S",
        "memory": {"perGPU": "48Gi"},
        "claim": {"extendedResource": "nvidia.com/gpu"},
        "pricePerGPUHour": "1.05",
    },
    "EngineClass": {"image": "vllm/vllm-openai:v0.30.1", "version": "0.30.1"},
    "ProfileRun": {"model": {"name": "Qwen/Qwen2.5-7B-Instruct"}, "pool": "h100"},
}
CRDS: dict[str, Object] = {definition.kind: make_crd(definition) for definition in DEFINITIONS}
PLURALS: dict[str, str] = {definition.kind: definition.plural for definition in DEFINITIONS}


def schema_of(kind: str) -> Object:
    schema: Object = CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def full(kind: str) -> Object:
    return copy.deepcopy(FULL[kind])


def shortest(kind: str) -> Object:
    found = full(kind)
    found["spec"] = copy.deepcopy(SHORTEST[kind])
    return found


def changed(source: Object, *changes: tuple[str, Any]) -> Object:
    """A copy with these paths (`spec.rows.0.points`) set, or deleted."""
    result = copy.deepcopy(source)
    for path, value in changes:
        *parents, last = path.split(".")
        node: Any = result
        for step in parents:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        key: Any = int(last) if isinstance(node, list) else last
        if value is DELETE:
            del node[key]
        else:
            node[key] = value
    return result


def leaves(schema: Object, path: str) -> Iterable[tuple[str, Object]]:
    """Every field below a schema node, objects and lists included, by the path of its first item."""
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, child
        yield from leaves(child, here)
        items = child.get("items", {})
        if items:
            yield f"{here}.0", items
            yield from leaves(items, f"{here}.0")


def at(source: Object, path: str) -> Any:
    """What stands at a path; DELETE when nothing does."""
    node: Any = source
    for step in path.split("."):
        if isinstance(node, list) and step.isdigit() and int(step) < len(node):
            node = node[int(step)]
        elif isinstance(node, dict) and step in node:
            node = node[step]
        else:
            return DELETE
    return node
