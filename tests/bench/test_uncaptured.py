"""The other form of step times: its arithmetic, and that a fit finds it where it is true."""

from __future__ import annotations

import numpy as np
import pytest

from bench.gpu_session.uncaptured import Terms, fit_terms, gap_of
from shoal.domain.profile import StepModel
from shoal.profiler.fit import Observation

TRUE = Terms(alpha=2.0, beta=0.003, gamma=1e-5, small=0.5, fixed=5.0, per_token=0.001, each=0.05)
DATASHEET = StepModel(3.0, 0.002, 2e-5, 0.0, 0.0)


def seen(name: str, running: float, prompts: list[float], context: float = 600.0) -> Observation:
    """Steps with so many sequences, and these prompt tokens in turn."""
    one = Observation(name, 1.0, 0.01, np.full(len(prompts), running), np.array(prompts), context)
    return Observation(name, gap_of(TRUE, one), 0.01, one.decoding, one.prompts, context)


@pytest.mark.parametrize(
    ("running", "prompts", "gap"),
    [
        (100.0, [0.0], 2.0 + (0.003 + 1e-5 * 600) * 100),
        (100.0, [400.0], 2.9 + 0.003 * 400 + 0.5),  # 500 tokens: in a captured graph
        (100.0, [1000.0], 2.9 + 0.003 * 1000 + 5.0 + 0.05 * 100),
        (100.0, [0.0, 1000.0], (2.9 + 15.9) / 2),
    ],
)
def test_gap(running: float, prompts: list[float], gap: float) -> None:
    assert seen("x", running, prompts).gap_ms == pytest.approx(gap)


def test_a_server_that_hands_out_tokens_slowly_holds_the_step() -> None:
    slow = Terms(2.0, 0.0, 0.0, 0.0, 0.0, per_token=0.1, each=0.0)
    assert gap_of(slow, seen("x", 100.0, [0.0])) == pytest.approx(10.0)


def test_foretells_a_point_it_did_not_see() -> None:
    points = [
        seen("idle", 1.0, [0.0]),
        seen("low", 20.0, [0.0, 0.0, 0.0, 600.0]),
        seen("middle", 80.0, [0.0, 700.0]),
        seen("full", 200.0, [900.0]),
        seen("prefill", 20.0, [2000.0], 1400.0),
        seen("decode", 200.0, [0.0, 40.0], 200.0),
    ]
    unseen = seen("overload", 240.0, [1200.0, 0.0, 1200.0])
    assert gap_of(fit_terms(points, DATASHEET, DATASHEET), unseen) == pytest.approx(unseen.gap_ms, rel=0.05)
