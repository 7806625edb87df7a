"""A ProfileRun -> the Job that measures one configuration: engines as a variant has them, the profiler beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from shoal.api import defaults
from shoal.api.base import API_VERSION
from shoal.api.measurement import PROGRESS_PORT, RESULT_PATH, RESULT_VARIABLE, MeasurementPlan, message_bytes
from shoal.api.model_service import ModelService, Objectives
from shoal.api.profile_run import LENGTHS_INPUT, LENGTHS_OUTPUT, MeasuredConfiguration, ProfileRun
from shoal.domain.configuration import Configuration
from shoal.render.claims import make_claim_spec, runs_mps
from shoal.render.containers import make_container
from shoal.render.errors import RenderError
from shoal.render.names import (
    ANNOTATION_CONFIGURATION,
    COMPONENT_PROFILER,
    LABEL_COMPONENT,
    LABEL_PROFILE_RUN,
    common_labels,
    engine_port,
    measurement_name,
    short_hash,
)
from shoal.render.pod import make_pod_spec
from shoal.render.recipe import Recipe, compute_identity, dump_placement, served_name

Object = dict[str, Any]

PROFILER: Final = "profiler"  # name of the container
ARRIVAL_SECONDS: Final = 600  # to find a node and pull the images
OVERHEAD_SECONDS: Final = 180  # of the profiler beside its budget: its start, the last step, the fit
_GRACE_SECONDS: Final = 20
_RETRIES: Final = 1  # of a pod that was lost with its node
_NO_OBJECTIVE: Final = Objectives(ttft_milliseconds=600_000)


@dataclass(frozen=True, slots=True)
class ProfilerSettings:
    """The profiler's image and resources.

    Points whose requests were sent later than `most_lag_ms` (p99) do not count: then the clients were measured. However
    small the budget, every step counts for `shortest_seconds`.
    """

    image: str
    most_lag_ms: float = 5.0
    shortest_seconds: float = 4.0
    cpu: str = "2"
    memory: str = "2Gi"


@dataclass(frozen=True, slots=True)
class MeasurementObjects:
    """The claim template is made first, the Job last; both are made once and never changed."""

    name: str
    job: Object
    claim_template: Object | None


def as_service(run: ProfileRun) -> ModelService:
    """The ModelService whose engines are measured: its rules (sources, arguments, pools) are those of the run."""
    spec = run.spec
    wish = {
        "model": spec.model.model_dump(exclude_none=True),
        "slo": (spec.slo or _NO_OBJECTIVE).model_dump(exclude_none=True),
        "pools": (spec.pool,),
        **({"engine": {"class_": spec.engine.class_}} if spec.engine and spec.engine.class_ else {}),
    }
    return ModelService.model_validate({"metadata": run.metadata.model_dump(), "spec": wish})


def make_configuration(accelerator: str, wanted: MeasuredConfiguration) -> Configuration:
    """With every default filled in."""
    return Configuration(
        accelerator=accelerator,
        tensor_parallel=wanted.tensor_parallel or 1,
        engines_per_gpu=wanted.engines_per_gpu or 1,
        max_num_seqs=wanted.max_num_seqs or defaults.MAX_NUM_SEQS,
        max_num_batched_tokens=wanted.max_num_batched_tokens or defaults.MAX_NUM_BATCHED_TOKENS,
    )


def budget_seconds(run: ProfileRun, configurations: int) -> float:
    """Seconds of measuring for each configuration."""
    return 60.0 * (run.spec.budget_minutes or defaults.BUDGET_MINUTES) / configurations


def lengths_text(run: ProfileRun) -> str:
    """`gamma:512,128`."""
    lengths = run.spec.lengths
    shape = (lengths and lengths.distribution) or defaults.LENGTH_DISTRIBUTION
    inputs, outputs = (lengths.input_tokens, lengths.output_tokens) if lengths else (LENGTHS_INPUT, LENGTHS_OUTPUT)
    return f"{shape.lower()}:{inputs:g},{outputs:g}"


def objective_text(run: ProfileRun) -> str:
    """`ttft=500,itl=40,p=95`; empty without an objective."""
    slo = run.spec.slo
    if slo is None:
        return ""
    parts = {"ttft": slo.ttft_milliseconds, "itl": slo.itl_milliseconds, "p": slo.percentile or defaults.PERCENTILE}
    return ",".join(f"{name}={value:g}" for name, value in parts.items() if value is not None)


def make_measurement(run: ProfileRun, recipe: Recipe, settings: ProfilerSettings, budget: float) -> MeasurementObjects:
    """Render one configuration; `recipe` is of `as_service(run)`. Raises RenderError when it cannot run there."""
    claim = recipe.pool.spec.claim
    if claim.dra is None and recipe.configuration.engines_per_replica > 1:
        raise RenderError(f"pool {run.spec.pool} is claimed by extended resource: engines cannot share its GPUs")
    metadata = _metadata(run, recipe)
    template = None
    if claim.dra is not None:
        spec = {
            "metadata": {"labels": metadata["labels"]},
            "spec": make_claim_spec(recipe.pool, claim.dra, recipe.configuration),
        }
        template = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": metadata,
            "spec": spec,
        }
    return MeasurementObjects(metadata["name"], _job(run, recipe, settings, budget, metadata), template)


def _metadata(run: ProfileRun, recipe: Recipe) -> Object:
    """Named by what is measured: a changed run, class or pool never takes an older Job for its own."""
    content = {"run": run.spec.to_dict(), "uid": run.metadata.uid, "engines": compute_identity(recipe)}
    digest = short_hash(content)
    return {
        "name": measurement_name(run.metadata.name, digest),
        "namespace": run.metadata.namespace,
        "labels": _labels(run),
        "annotations": {ANNOTATION_CONFIGURATION: dump_placement(recipe.placement)},
        "ownerReferences": [make_run_reference(run)],
    }


def make_run_reference(run: ProfileRun) -> Object:
    """Makes the ProfileRun the controller of an object: it goes with its owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ProfileRun",
        "name": run.metadata.name,
        "uid": run.metadata.uid,
        "controller": True,
    }


def _labels(run: ProfileRun) -> dict[str, str]:
    return {**common_labels(), LABEL_COMPONENT: COMPONENT_PROFILER, LABEL_PROFILE_RUN: run.metadata.name}


def _job(run: ProfileRun, recipe: Recipe, settings: ProfilerSettings, budget: float, metadata: Object) -> Object:
    startup = recipe.configuration.engines_per_replica * (
        recipe.engine.spec.startup_seconds or defaults.STARTUP_SECONDS
    )
    template = metadata["name"] if recipe.pool.spec.claim.dra is not None else None
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": _RETRIES,
            # Whoever watches or not: its GPUs are given back.
            "activeDeadlineSeconds": (1 + _RETRIES) * int(ARRIVAL_SECONDS + startup + budget + OVERHEAD_SECONDS),
            "podReplacementPolicy": "Failed",  # never two pods, which would hold twice the GPUs
            "template": {
                "metadata": {"labels": metadata["labels"]},
                "spec": _pod(run, recipe, settings, budget, template),
            },
        },
    }


def _pod(
    run: ProfileRun, recipe: Recipe, settings: ProfilerSettings, budget: float, claim_template: str | None
) -> Object:
    spec = make_pod_spec(recipe, claim_template)
    spec.pop("topologySpreadConstraints", None)
    return {
        **spec,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "initContainers": list(_engines(recipe)),
        "containers": [_profiler(run, recipe, settings, budget)],
        "volumes": [*spec["volumes"], {"name": PROFILER, "emptyDir": {"sizeLimit": "1Gi"}}],
    }


def _engines(recipe: Recipe) -> Iterator[Object]:
    """All engines as native sidecars, with the arguments of a variant's. There is nobody to drain for."""
    for index in range(recipe.configuration.engines_per_replica):
        container = make_container(recipe, index)
        del container["lifecycle"]
        yield {**container, "restartPolicy": "Always"}


def _profiler(run: ProfileRun, recipe: Recipe, settings: ProfilerSettings, budget: float) -> Object:
    configuration = recipe.configuration
    engines = configuration.engines_per_replica
    plan = MeasurementPlan(
        urls=tuple(f"http://$(POD_IP):{engine_port(index)}" for index in range(engines)),
        model=served_name(recipe.service),
        lengths=lengths_text(run),
        objective=objective_text(run),
        tensor_parallel=configuration.tensor_parallel,
        engines_per_gpu=configuration.engines_per_gpu,
        max_num_seqs=configuration.max_num_seqs,
        max_num_batched_tokens=configuration.max_num_batched_tokens,
        longest=recipe.max_context_tokens,
        budget_seconds=budget,
        most_lag_ms=settings.most_lag_ms,
        message_bytes=message_bytes(engines + 1),
        shortest_seconds=settings.shortest_seconds,
        subject=run.spec.model.name,
        accelerator=configuration.accelerator,
        parameters=recipe.facts.parameters if recipe.facts is not None else None,
        mps=runs_mps(recipe.pool, configuration),
    )
    return {
        "name": PROFILER,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [json.dumps(plan.to_dict(), sort_keys=True)],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            {"name": "HOME", "value": "/tmp"},
            {"name": RESULT_VARIABLE, "value": RESULT_PATH},
        ],
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": settings.cpu, "memory": settings.memory},
            "limits": {"memory": settings.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": RESULT_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": PROFILER, "mountPath": "/tmp"}],
    }
