"""Why a configuration may not be used in a pool: an ordered list of small checks, the first that speaks counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shoal.domain.configuration import Configuration
from shoal.domain.live import Lesson
from shoal.domain.pool import ClaimKind, Pool
from shoal.domain.profile import LengthMix, Link, ModelFacts
from shoal.domain.reasons import Rejection
from shoal.domain.service import EngineFacts, Objective, Parallelism, RequiredProfile
from shoal.planner.memory import GIB, missing_bytes, usable_bytes
from shoal.planner.rows import RowChoice


@dataclass(frozen=True, slots=True)
class Needs:
    """What a service asks of any pool.

    `kept`: configurations that run, are decided or asked for by hand; estimates may go on with them.
    """

    model: str
    facts: ModelFacts | None
    max_context_tokens: int
    objective: Objective
    lengths: LengthMix
    engine: EngineFacts
    parallelism: Parallelism
    required: RequiredProfile
    routed_per_engine: bool
    kept: tuple[Configuration, ...] = ()
    lessons: tuple[Lesson, ...] = ()  # of the service's own traffic

    def lesson(self, configuration: Configuration) -> Lesson | None:
        """What was learned of a configuration."""
        return next((lesson for lesson in self.lessons if lesson.configuration == configuration), None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration in one pool, with the profile row for it (None: nobody profiled it).

    `island` is the largest number of GPUs that share a fast link; `smallest` the least tensor parallelism that fits;
    `profiled` whether any configuration of this pool was.
    """

    needs: Needs
    pool: Pool
    island: int
    configuration: Configuration
    choice: RowChoice | None
    facts: ModelFacts | None
    smallest: int | None = None
    profiled: bool = False


Verdict = tuple[Rejection, str] | None


def _narrowed_by_spec(candidate: Candidate) -> Verdict:
    c, allowed = candidate.configuration, candidate.needs.parallelism
    if c.tensor_parallel not in allowed.tensor:
        return Rejection.NARROWED, f"parallelism.tensor allows only {_listed(allowed.tensor)}"
    if c.engines_per_gpu not in allowed.engines_per_gpu:
        return Rejection.NARROWED, f"parallelism.enginesPerGPU allows only {_listed(allowed.engines_per_gpu)}"
    return None


def _needs_envoy(candidate: Candidate) -> Verdict:
    if candidate.configuration.engines_per_gpu > 1 and not candidate.needs.routed_per_engine:
        return Rejection.NEEDS_ENVOY, "engines that share a pod need routing: Envoy"
    return None


def _cannot_share_device(candidate: Candidate) -> Verdict:
    if candidate.configuration.engines_per_gpu > 1 and candidate.pool.claim is ClaimKind.EXTENDED:
        return Rejection.CANNOT_SHARE_DEVICE, "containers cannot share an extended resource: claim the pool by DRA"
    return None


def _link_too_slow(candidate: Candidate) -> Verdict:
    if candidate.configuration.tensor_parallel == 1 or candidate.pool.link is Link.NVLINK:
        return None
    choice = candidate.choice
    profiled = choice is not None and choice.is_trusted and choice.profile.link is Link.PCIE
    if candidate.pool.link is Link.PCIE and profiled:
        return None
    return Rejection.LINK_TOO_SLOW, f"tensor parallelism needs NVLink; the pool's link is {candidate.pool.link}"


def _island_too_small(candidate: Candidate) -> Verdict:
    need = candidate.configuration.tensor_parallel
    if need <= candidate.island:
        return None
    return Rejection.ISLAND_TOO_SMALL, f"needs {need} linked GPUs; at most {candidate.island} share a node or island"


def does_not_fit(candidate: Candidate) -> Verdict:
    """Weights, one request of the longest context, and what an engine needs besides, against the memory of a GPU."""
    c, facts, needs = candidate.configuration, candidate.facts, candidate.needs
    if facts is None:
        return None
    lacking = missing_bytes(
        candidate.pool,
        facts,
        needs.max_context_tokens,
        tensor_parallel=c.tensor_parallel,
        engines_per_gpu=c.engines_per_gpu,
    )
    if lacking <= 0:
        return None
    usable = usable_bytes(candidate.pool)
    return (
        Rejection.DOES_NOT_FIT,
        f"weights and one context of {needs.max_context_tokens} tokens need {(usable + lacking) / GIB:.1f} GiB of each "
        f"GPU; {usable / GIB:.1f} GiB are usable",
    )


def _estimate_may_not_share(candidate: Candidate) -> Verdict:
    c, choice = candidate.configuration, candidate.choice
    if c.engines_per_gpu == 1 or (choice is not None and choice.is_trusted):
        return None
    if choice is None and c in candidate.needs.kept:
        return None
    how = "with" if candidate.pool.mps else "without"
    return Rejection.ESTIMATE_MAY_NOT_SHARE, f"engines share a GPU only where that was measured, here {how} MPS"


def _measured_profile_required(candidate: Candidate) -> Verdict:
    if candidate.choice is None and candidate.needs.required is RequiredProfile.MEASURED:
        return Rejection.NOT_MEASURED, "profile.require is Measured and no measured profile fits"
    return None


def _size_unknown(candidate: Candidate) -> Verdict:
    if candidate.choice is None and candidate.facts is None:
        return Rejection.NOT_MEASURED, "the size of the model is unknown: give model.parameters"
    return None


def _not_measured(candidate: Candidate) -> Verdict:
    if candidate.choice is not None or candidate.configuration in candidate.needs.kept:
        return None
    if candidate.profiled:
        return Rejection.NOT_MEASURED, "not profiled, while other configurations of this pool are"
    if candidate.configuration.tensor_parallel != candidate.smallest:
        return Rejection.NOT_MEASURED, f"without a profile only TP{candidate.smallest}, the smallest that fits, is used"
    return None


CHECKS: tuple[Callable[[Candidate], Verdict], ...] = (
    _narrowed_by_spec,
    _needs_envoy,
    _cannot_share_device,
    _link_too_slow,
    _island_too_small,
    does_not_fit,
    _measured_profile_required,
    _size_unknown,
    _estimate_may_not_share,
    _not_measured,
)
_ABOUT_PROFILES = 4  # the last so many checks ask only what is known of a candidate, not whether it could run


def first_objection(candidate: Candidate) -> Verdict:
    """The first check that refuses this candidate, with its message; None: it may be used."""
    return next((verdict for verdict in (check(candidate) for check in CHECKS) if verdict is not None), None)


def is_possible(candidate: Candidate) -> bool:
    """Whether nothing but a missing profile stands against the candidate."""
    return all(check(candidate) is None for check in CHECKS[:-_ABOUT_PROFILES])


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values)
