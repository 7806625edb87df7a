"""A ProfileRun -> what is to be measured, by the rules that hold for a ModelService of the same model. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.api import defaults
from shoal.api.engine_class import EngineClass
from shoal.api.gpu_pool import GPUPool
from shoal.api.profile_run import MeasuredConfiguration, ProfileRun
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.profile import ModelFacts, Profile
from shoal.planner.memory import GIB, missing_bytes
from shoal.reconciler.wishes import choose_pools, find_admission, find_class_problems, make_pool, make_service
from shoal.render.errors import RenderError
from shoal.render.measurement import (
    MeasurementObjects,
    ProfilerSettings,
    as_service,
    budget_seconds,
    make_configuration,
    make_measurement,
)
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason
from shoal.render.recipe import Recipe
from shoal.render.run_profile import ProfileSubject
from shoal.render.run_status import Outcome


@dataclass(frozen=True, slots=True)
class RunWish:
    """A ProfileRun that can be measured. `quota`: GPUs the pool allows its namespace (None: unbounded)."""

    run: ProfileRun
    pool: GPUPool
    engine: EngineClass
    facts: ModelFacts
    max_context_tokens: int
    configurations: tuple[Configuration, ...]
    quota: int | None

    @property
    def subject(self) -> ProfileSubject:
        """What is measured."""
        return ProfileSubject(self.run, self.pool, self.engine, self.facts)

    @property
    def budget_seconds(self) -> float:
        """Seconds of measuring for each configuration."""
        return budget_seconds(self.run, len(self.configurations))

    def render(self, configuration: Configuration, settings: ProfilerSettings) -> MeasurementObjects:
        """The objects that measure one configuration. Raises RenderError when it cannot run there."""
        placement = Placement(self.run.spec.pool, configuration)
        recipe = Recipe(as_service(self.run), self.pool, self.engine, placement, self.max_context_tokens, self.facts)
        if (missing := self._missing_bytes(configuration)) > 0:
            raise RenderError(
                f"the weights and one context of {self.max_context_tokens} tokens need {missing / GIB:.1f} GiB more "
                "than a GPU has: use more GPUs per engine, fewer engines per GPU, or a smaller model.maxContextTokens"
            )
        return make_measurement(self.run, recipe, settings, self.budget_seconds)

    def _missing_bytes(self, configuration: Configuration) -> float:
        return missing_bytes(
            make_pool(self.pool, None, {}, {}),
            self.facts,
            self.max_context_tokens,
            tensor_parallel=configuration.tensor_parallel,
            engines_per_gpu=configuration.engines_per_gpu,
        )


def read_wish(
    run: ProfileRun,
    *,
    pools: Mapping[str, GPUPool],
    engine: EngineClass | None,
    labels: Mapping[str, str] | None,
    profiles: Sequence[Profile],
    settings: ProfilerSettings | None,
) -> RunWish | tuple[Problem, ...]:
    """What a run asks for, or why it cannot be measured. `labels`: of its namespace; `profiles`: the nearest first."""
    service = as_service(run)
    choice = choose_pools(service, pools, labels)
    wrong = (*find_class_problems(service, engine), *choice.problems)
    if engine is None or wrong:
        return wrong
    if settings is None:
        text = "the operator was not told which image measures: set SHOAL_PROFILER_IMAGE (the chart does)"
        return (Problem(ProblemReason.NO_PROFILER_IMAGE, text),)
    wish = make_service(service, engine, choice, profiles, created_at=0.0)
    if wish.facts is None:
        text = f"nothing is known of the size of {wish.model}: give model.parameters, as in 7.6B"
        return (Problem(ProblemReason.MODEL_SIZE_UNKNOWN, text, needs_spec_change=True),)
    pool = pools[run.spec.pool]
    configurations = _list_configurations(run, pool, wish.facts, wish.max_context_tokens)
    if not configurations:
        text = f"{wish.model} fits into no number of GPUs of pool {run.spec.pool}: choose a pool with larger ones"
        return (Problem(ProblemReason.DOES_NOT_FIT, text, needs_spec_change=True),)
    admission = find_admission(pool, labels)
    return RunWish(
        run=run,
        pool=pool,
        engine=engine,
        facts=wish.facts,
        max_context_tokens=wish.max_context_tokens,
        configurations=configurations,
        quota=admission.gpu_quota if admission else None,
    )


def find_unrenderable(wish: RunWish, settings: ProfilerSettings) -> dict[Configuration, Outcome]:
    """Configurations that cannot run in this pool, whatever is free."""
    found = {}
    for configuration in wish.configurations:
        try:
            wish.render(configuration, settings)
        except RenderError as error:
            found[configuration] = Outcome(configuration, "Failed", message=str(error))
    return found


def _list_configurations(
    run: ProfileRun, pool: GPUPool, facts: ModelFacts, max_context_tokens: int
) -> tuple[Configuration, ...]:
    """Those that were named, each once; else one engine on as few GPUs as hold it."""
    if run.spec.configurations:
        named = (make_configuration(pool.spec.accelerator, each) for each in run.spec.configurations)
        return tuple(dict.fromkeys(named))
    for degree in defaults.TENSOR_PARALLEL:
        missing = missing_bytes(
            make_pool(pool, None, {}, {}), facts, max_context_tokens, tensor_parallel=degree, engines_per_gpu=1
        )
        if missing <= 0:
            wanted = MeasuredConfiguration(tensor_parallel=degree)
            return (make_configuration(pool.spec.accelerator, wanted),)
    return ()
