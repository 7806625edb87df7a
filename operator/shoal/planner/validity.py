"""Where a capacity leaves what was measured or checked: an ordered list of small rules, each a sentence or nothing.

What they say travels in Capacity.notes to the message of the Decision and to `shoal plan`. Ranges are those of
bench/capacity (docs/capacity.md): the step model was fitted on some runs and compared with others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shoal.domain.profile import LengthMix, ProfileRow, Quantiles
from shoal.domain.service import Objective

CHECKED_LENGTHS: Final = 4.0  # times longer or shorter than those of the row: checked with real runs
CHECKED_KV: Final = 2.0  # times less KV cache than the row's
CHECKED_PROMPT: Final = 3000.0  # tokens of a mean prompt, longest one checked
LOOSE_TTFT_MS: Final = 250.0  # from here on a TTFT objective is in effect a limit of throughput
MARGIN_OUTSIDE: Final = 0.7  # of a modelled knee, twice as far away as was checked


@dataclass(frozen=True, slots=True)
class Use:
    """How a row is used. `carried`: another chunk or more API servers than it was measured with."""

    row: ProfileRow
    lengths: LengthMix
    objective: Objective
    kv_cache_tokens: float
    carried: bool


def outside(use: Use) -> float:
    """0 within what was checked, rising to 1 at twice as far away: how much of the margin between to give up.

    Worked: lengths four times the row's: 0; 5.7 times: log2(5.7/4) = 0.5; eight times or more: 1. A row without step
    times gives nothing up: it is scaled so that it never gains.
    """
    if use.row.steps is None:
        return 0.0
    lengths, memory = _stretch(use) / CHECKED_LENGTHS, _memory(use) / CHECKED_KV
    return min(1.0, max(0.0, math.log2(max(lengths, memory))))


def find_notes(use: Use) -> tuple[str, ...]:
    """Everything that is not as it was measured, in words."""
    return tuple(note for note in (rule(use) for rule in RULES) if note is not None)


def _far_lengths(use: Use) -> str | None:
    stretch = _stretch(use)
    if use.row.steps is None:
        if stretch <= 1.25:
            return None
        return f"lengths differ {stretch:.1f}-fold from the profile's, which has no step times: scaled by size"
    if stretch <= CHECKED_LENGTHS:
        return None
    return (
        f"lengths differ {stretch:.1f}-fold from the profile's; the step model is checked to {CHECKED_LENGTHS:g}-fold"
    )


def _long_prompts(use: Use) -> str | None:
    if use.row.steps is None or max(use.row.lengths.input_mean, CHECKED_PROMPT) >= use.lengths.input_mean:
        return None
    return f"prompts of {use.lengths.input_mean:.0f} tokens; TTFT is checked to {CHECKED_PROMPT:.0f}"


def _little_kv_cache(use: Use) -> str | None:
    memory = _memory(use)
    return f"{memory:.1f} times less KV cache than the profile had" if memory > CHECKED_KV else None


def _carried(use: Use) -> str | None:
    return "chunk or API servers not measured: carried there by the step model" if use.carried else None


def _ttft_unknown(use: Use) -> str | None:
    bound = use.objective.ttft_ms
    if bound is None or bound >= LOOSE_TTFT_MS or use.row.points or use.row.steps is not None:
        return None
    return f"a TTFT of {bound:g} ms without any latency measured below saturation"


def _percentile_unknown(use: Use) -> str | None:
    asked = use.objective
    names = [
        name
        for name, bound, values in (
            ("TTFT", asked.ttft_ms, [point.ttft for point in use.row.points]),
            ("ITL", asked.itl_ms, [point.itl for point in use.row.points]),
        )
        if bound is not None and not all(_has(value, asked.percentile) for value in values)
    ]
    return f"p{asked.percentile} of {' and '.join(names)} not measured: taken from the mean" if names else None


RULES: tuple[Callable[[Use], str | None], ...] = (
    _far_lengths,
    _long_prompts,
    _little_kv_cache,
    _carried,
    _ttft_unknown,
    _percentile_unknown,
)


def _stretch(use: Use) -> float:
    one, other = use.row.lengths, use.lengths
    pairs = ((one.input_mean, other.input_mean), (one.output_mean, other.output_mean))
    return max(max(a, b, 1.0) / max(min(a, b), 1.0) for a, b in pairs)


def _memory(use: Use) -> float:
    return use.row.kv_cache_tokens / max(use.kv_cache_tokens, 1.0)


def _has(values: Quantiles, percentile: int) -> bool:
    known = ((50, values.p50), (90, values.p90), (95, values.p95), (99, values.p99))
    return any(at >= percentile and value is not None for at, value in known)
