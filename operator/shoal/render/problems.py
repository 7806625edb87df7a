"""Wishes that cannot be planned or made into pods, whatever the traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shoal.api.engine_class import EngineClass
from shoal.api.model_service import ModelService
from shoal.render.arguments import NO_PARSER
from shoal.render.reasons import ProblemReason
from shoal.render.recipe import source_kind


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in plain words with the way out.

    `needs_spec_change`: only the owner can help, by changing the ModelService (condition Stalled).
    """

    reason: ProblemReason
    message: str
    needs_spec_change: bool = False


def find_problems(service: ModelService, engine: EngineClass) -> tuple[Problem, ...]:
    """What the EngineClass does not allow this ModelService."""
    return tuple(problem for check in _CHECKS for problem in check(service, engine))


def _source_not_allowed(service: ModelService, engine: EngineClass) -> Iterator[Problem]:
    allowed, wanted = engine.spec.allowed_sources, source_kind(service)
    if allowed is not None and wanted not in allowed:
        yield Problem(
            ProblemReason.SOURCE_NOT_ALLOWED,
            f"EngineClass {engine.metadata.name} does not allow model source {wanted}: "
            f"change model.source to {' or '.join(allowed)}, or use another class",
            needs_spec_change=True,
        )


def _argument_not_allowed(service: ModelService, engine: EngineClass) -> Iterator[Problem]:
    allowed, choice = engine.spec.allowed_args, service.spec.engine
    if allowed is None or choice is None:
        return
    wanted = {"toolCallParser": choice.tool_call_parser, "reasoningParser": choice.reasoning_parser}
    for field, value in wanted.items():
        if value not in (None, NO_PARSER) and field not in allowed:
            yield Problem(
                ProblemReason.ARGUMENT_NOT_ALLOWED,
                f"EngineClass {engine.metadata.name} does not allow engine.{field}: remove it, or use another class",
                needs_spec_change=True,
            )


_CHECKS: tuple[Callable[[ModelService, EngineClass], Iterator[Problem]], ...] = (
    _source_not_allowed,
    _argument_not_allowed,
)
