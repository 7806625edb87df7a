"""Which configurations of a ProfileRun need not be measured, by the rules of `shoal profile --plan`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.domain.configuration import Configuration
from shoal.planner.needless import Finding, Trial, why_needless
from shoal.render.run_status import Outcome


def skip_needless(configuration: Configuration, outcomes: Iterable[Outcome], *, mps: bool) -> Outcome | None:
    """The outcome of a configuration that those before it make needless; None: measure it.

    `mps`: whether engines that share a GPU of the pool do so through it.
    """
    found = [_make_finding(outcome, mps=mps) for outcome in outcomes if outcome.state in ("Measured", "Partial")]
    reason = why_needless(_make_trial(configuration, mps=mps), found)
    return None if reason is None else Outcome(configuration, "Skipped", message=reason)


def _make_trial(configuration: Configuration, *, mps: bool) -> Trial:
    return Trial(configuration, mps=mps and configuration.engines_per_gpu > 1)


def _make_finding(outcome: Outcome, *, mps: bool) -> Finding:
    trial = _make_trial(outcome.configuration, mps=mps)
    return Finding(trial, outcome.rate, floor_ms=outcome.idle_gap_ms, most_running=outcome.most_running)
