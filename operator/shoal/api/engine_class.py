"""EngineClass: the administrator's object. Which engine runs, in which image, with what around it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shoal.api import defaults
from shoal.api.base import Resource, Rule, Shape, exactly_one, exactly_one_cel
from shoal.api.fields import CPU, Bytes, DNSSubdomain, ImageReference
from shoal.api.lists import atomic, list_map, unique

MAX_NAME_LENGTH = 63
OLDEST_MINOR = 18  # vLLM 0.18: earlier releases have remote-code vulnerabilities and do not drain

MANAGED_ARGUMENTS = (
    "--model",
    "--served-model-name",
    "--revision",
    "--host",
    "--port",
    "--tensor-parallel-size",
    "-tp",
    "--max-model-len",
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--gpu-memory-utilization",
    "--kv-cache-memory-bytes",
    "--shutdown-timeout",
    "--api-server-count",
    "--tool-call-parser",
    "--reasoning-parser",
)
"""Arguments that Shoal gives itself; a second value would make its plan untrue."""

MANAGED_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "POD_IP", "HF_TOKEN")
"""Variables that decide which GPUs an engine sees, where it listens, and as whom it downloads."""

Argument = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _cel_list(items: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{item}'" for item in items) + "]"


def _is_managed(argument: str) -> bool:
    return argument.replace("_", "-").split("=", 1)[0] in MANAGED_ARGUMENTS


class EngineResources(Shape):
    """What one engine gets beside its GPUs."""

    cpu: CPU | None = Field(None, description=f"CPU cores one engine asks for. Default: {defaults.ENGINE_CPU}.")
    memory: Bytes | None = Field(
        None, description=f"Host memory one engine asks for and is limited to. Default: {defaults.ENGINE_MEMORY}."
    )
    shm: Bytes | None = Field(
        None, description=f"Size of /dev/shm of a pod; counts as its memory. Default: {defaults.ENGINE_SHM}."
    )


class EmptyCache(Shape):
    """A directory of the node that lives as long as the pod."""

    size_limit: Bytes | None = Field(
        None, description=f"Bytes it may take; more evicts the pod. Default: {defaults.CACHE_SIZE}."
    )


class ClaimedCache(Shape):
    """A volume that outlives pods."""

    claim_name: DNSSubdomain = Field(
        description="PersistentVolumeClaim with this name in the ModelService's own namespace; pods of several nodes "
        "need access mode ReadWriteMany."
    )


class EngineCache(Shape):
    """Where engines keep downloaded models and compiled kernels."""

    rules: ClassVar = (
        Rule(
            exactly_one_cel("empty_dir", "persistent_volume_claim"),
            "give exactly one of emptyDir and persistentVolumeClaim",
            exactly_one("empty_dir", "persistent_volume_claim"),
        ),
    )

    empty_dir: EmptyCache | None = Field(None, description="A directory of the node, filled again by every pod.")
    persistent_volume_claim: ClaimedCache | None = Field(None, description="A volume that outlives pods.")


class EnvironmentVariable(Shape):
    """One variable of the engine's environment."""

    rules: ClassVar = (
        Rule(
            f"!(self.name in {_cel_list(MANAGED_VARIABLES)})",
            f"Shoal sets {', '.join(MANAGED_VARIABLES)} itself: remove it from env",
            lambda variable: variable.name not in MANAGED_VARIABLES,
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=128, pattern="^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Name of the variable."
    )
    value: Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")] = Field(
        description="Its value. Not for secrets: everyone who may read EngineClasses sees it."
    )


class EngineClassSpec(Shape):
    """The engine, and what is around it."""

    rules: ClassVar = (
        Rule(
            f"!has(self.extraArgs) || self.extraArgs.all(arg, !(arg.split('=')[0].replace('_', '-') in "
            f"{_cel_list(MANAGED_ARGUMENTS)}))",
            "extraArgs may not hold arguments that Shoal gives itself, such as --port or --max-num-seqs",
            lambda spec: not any(_is_managed(argument) for argument in spec.extra_args or ()),
        ),
        Rule(
            f"int(self.version.split('.')[0]) > 0 || int(self.version.split('.')[1]) >= {OLDEST_MINOR}",
            f"version must be 0.{OLDEST_MINOR}.0 or later: earlier engines can be made to run code of strangers, "
            "and do not drain",
            lambda spec: tuple(int(part) for part in spec.version.split(".")[:2]) >= (0, OLDEST_MINOR),
        ),
    )

    engine: Literal["vllm"] | None = Field(None, description="Which engine the image holds. Default: vllm.")
    image: ImageReference = Field(
        description="Image of the engine. Give a digest (name@sha256:...): a tag may change under running services."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When the kubelet pulls the image. Default: IfNotPresent."
    )
    image_pull_secrets: Annotated[tuple[DNSSubdomain, ...], unique(8)] | None = Field(
        None, description="Secrets for pulling, by name; they must exist in each service's namespace."
    )
    version: Annotated[
        str, Field(min_length=4, max_length=32, pattern=r"^[0-9]{1,4}\.[0-9]{1,4}\.[0-9A-Za-z.+-]+$")
    ] = Field(description="Version of the engine in the image, as in 0.30.1. Profiles are looked up by it.")
    command: Annotated[tuple[Argument, ...], atomic(16, min_items=1)] | None = Field(
        None, description="Command that starts the server. Default: that of the image."
    )
    extra_args: Annotated[tuple[Argument, ...], atomic(64)] | None = Field(
        None,
        description="Arguments added to the command as they are. The engine obeys them: some run code or read files.",
    )
    env: Annotated[tuple[EnvironmentVariable, ...], list_map("name", max_items=64)] | None = Field(
        None, description="Variables added to the engine's environment."
    )
    allowed_args: Annotated[tuple[Literal["toolCallParser", "reasoningParser"], ...], unique(2)] | None = Field(
        None, description="What a ModelService may choose in spec.engine. Default: all of these."
    )
    allowed_sources: (
        Annotated[tuple[Literal["HuggingFace", "PersistentVolumeClaim", "OCIImage"], ...], unique(3, min_items=1)]
        | None
    ) = Field(None, description="Where models may be loaded from. Default: all of these.")
    api_server_count: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Server processes in front of one engine; small models on fast GPUs need more than one. "
        f"Default: {defaults.API_SERVER_COUNT}.",
    )
    max_api_server_count: int | None = Field(
        None,
        ge=1,
        le=16,
        description="Server processes that Shoal may give one engine where a profile shows that one cannot stream its "
        "tokens. Each needs a core of resources.cpu. Default: apiServerCount.",
    )
    resources: EngineResources | None = Field(None, description="What one engine gets beside its GPUs.")
    cache: EngineCache | None = Field(
        None, description="Where engines keep downloaded models. Default: a directory of the node for each pod."
    )
    run_as_user: int | None = Field(
        None,
        ge=1,
        le=2_147_483_647,
        description=f"User ID the engine runs as, and group of its volumes. Default: {defaults.RUN_AS_USER}.",
    )
    startup_seconds: int | None = Field(
        None,
        ge=10,
        le=14_400,
        description=f"An engine that is not ready by then is started again. Default: {defaults.STARTUP_SECONDS}.",
    )
    drain_seconds: int | None = Field(
        None,
        ge=5,
        le=14_400,
        description="Longest time an engine may take to finish its requests before it is stopped. "
        f"Default: {defaults.DRAIN_SECONDS}.",
    )
    shutdown_seconds: int | None = Field(
        None,
        ge=1,
        le=600,
        description="Tail after the drain that the engine itself gets to end what is left. "
        f"Default: {defaults.SHUTDOWN_SECONDS}.",
    )
    priority_class_name: DNSSubdomain | None = Field(
        None, description="PriorityClass of engine pods. Default: the cluster's own."
    )
    spread: Literal["None", "Node", "Zone"] | None = Field(
        None, description="Put replicas on different nodes or zones where possible. Default: Node."
    )


class EngineClass(Resource):
    """An engine that ModelServices may use: image, version, resources, and what may be asked of it."""

    rules: ClassVar = (
        Rule(
            f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && !self.metadata.name.contains('.')",
            f"metadata.name may have at most {MAX_NAME_LENGTH} characters and no dot",
            lambda cls: len(cls.metadata.name) <= MAX_NAME_LENGTH and "." not in cls.metadata.name,
        ),
    )

    kind: Literal["EngineClass"] = "EngineClass"
    spec: EngineClassSpec = Field(description="The engine, and what is around it.")
