"""What a ProfileRun leaves out: the rules are those of `shoal profile --plan` (tests/profiler/test_decisions.py)."""

from __future__ import annotations

import pytest

from shoal.domain.configuration import Configuration
from shoal.reconciler.run_skips import skip_needless
from shoal.render.run_status import Outcome


def of(tensor: int = 1, engines: int = 1, batch: int = 64) -> Configuration:
    return Configuration("H100", tensor, engines, batch)


def measured(configuration: Configuration, rate: float, gap: float = 5.0, running: float = 64.0) -> Outcome:
    return Outcome(configuration, "Measured", 9, rate, "", gap, running)


@pytest.mark.parametrize(
    ("asked", "before", "words"),
    [
        (of(batch=256), [measured(of(), 10, running=20)], "a larger batch limit changes nothing"),
        (of(batch=256), [measured(of(), 10)], None),
        (of(4), [measured(of(), 10), measured(of(2), 18)], "2 GPUs per engine carried 9/s per GPU, 1 10/s"),
        (of(4), [measured(of(), 10), measured(of(2), 18, gap=3.0)], None),
        (of(1, 4), [measured(of(), 10), measured(of(1, 2), 10)], "2 engines on a GPU carried 10/s per GPU"),
        (of(1, 4), [measured(of(), 10), measured(of(1, 2), 14)], None),
        (of(1, 4), [measured(of(), 10), Outcome(of(1, 2), "Failed")], None),
        (of(1, 4), [measured(of(), 10), Outcome(of(1, 2), "Measuring", rate=10)], None),
    ],
)
@pytest.mark.parametrize("mps", [True, False])
def test_what_those_before_tell(asked: Configuration, before: list[Outcome], words: str | None, mps: bool) -> None:
    outcome = skip_needless(asked, before, mps=mps)
    if words is None:
        assert outcome is None
    else:
        assert outcome is not None
        assert outcome.state == "Skipped"
        assert outcome.is_final
        assert words in outcome.message
