"""Scaling laws of others: worked examples by hand, and bounds that hold whatever they see."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.sim.policies.laws import Behaviour, Brake, HpaLaw, KedaLaw, KpaLaw, Law, Signals, Static

CALM = Signals(now=0.0, desired=4, ready=4, rate=0.0, active=10.0)


def follow(law: Law, seen: Signals, calls: int, *, since: float = 0.0) -> list[int]:
    """The number after each call, when every number is reached at once."""
    numbers = []
    for call in range(calls):
        seen = replace(seen, now=since + call * law.interval_seconds)
        wanted = law.desired(seen)
        seen = replace(seen, desired=wanted, ready=wanted)
        numbers.append(wanted)
    return numbers


def test_static_stays() -> None:
    assert follow(Static(3), CALM, 3) == [3, 3, 3]


def test_the_brake_takes_the_least_of_the_window_up_and_the_greatest_down() -> None:
    brake = Brake(Behaviour(up_window=30, up_pods=100, down_window=60))
    assert [brake.hold(at, 4, wanted) for at, wanted in ((0, 4), (15, 9), (30, 8), (45, 9))] == [4, 4, 8, 8]
    assert [brake.hold(at, 8, 2) for at in (60, 75, 90, 105)] == [8, 8, 8, 2]


def test_the_brake_limits_change_per_period() -> None:
    brake = Brake(Behaviour(up_pods=4, up_share=1.0, up_period=60, down_window=0, down_pods=1, down_share=0))
    assert brake.hold(0, 1, 50) == 5
    assert brake.hold(15, 5, 50) == 5
    assert brake.hold(61, 5, 50) == 10
    assert brake.hold(200, 10, 2) == 9


def test_the_brake_never_turns_a_growth_into_a_shrink() -> None:
    """More than the caller's bound was recommended: what was asked for counts as done, but nothing falls by it."""
    brake = Brake(Behaviour(up_pods=4, up_share=1.0, up_period=60, down_window=180, down_pods=1, down_share=0))
    assert brake.hold(0, 14, 40) == 28
    assert brake.hold(15, 16, 40) == 16
    assert brake.hold(75, 16, 40) == 32


def test_hpa_follows_the_rate_beyond_its_tolerance() -> None:
    law = HpaLaw(target=10.0)
    assert law.desired(replace(CALM, rate=43.0)) == 4
    assert law.desired(replace(CALM, rate=45.0, now=15)) == 5


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.55, 4), (0.66, 5), (1.1, 8), (9.0, 8), (0.40, 4), (0.39, 4), (0.30, 3), (0.0, 3)],
)
def test_llm_ds_law(share: float, wanted: int) -> None:
    """The first move: 4 + ceil(4(0.66/0.55 - 1)) = 5. 9.0 counts as 2.0 and wants 15, but at most 4 a minute come."""
    numbers = follow(KedaLaw(), replace(CALM, ttft_share=share / 2, itl_share=share), 20)
    assert next((number for number in numbers if number != 4), 4) == wanted


def test_llm_ds_law_holds_when_nobody_is_answered_and_gives_back_when_nobody_asks() -> None:
    assert follow(KedaLaw(), CALM, 30) == [4] * 30
    assert follow(KedaLaw(), replace(CALM, active=0.0), 30)[-1] < 4


def test_kpa_divides_the_mean_concurrency() -> None:
    assert follow(KpaLaw(target=10.0), replace(CALM, active=35.0), 5) == [4] * 5
    assert follow(KpaLaw(target=10.0), replace(CALM, active=11.0), 1) == [2]


def test_kpa_panics_on_the_short_window_and_does_not_shrink_before_a_stable_window_has_passed() -> None:
    law = KpaLaw(target=10.0)
    assert law.desired(replace(CALM, active=90.0)) == 9
    calm = [law.desired(replace(CALM, now=at, active=1.0, desired=9, ready=9)) for at in (10.0, 40.0, 59.0)]
    assert calm == [9, 9, 9]
    assert law.desired(replace(CALM, now=61.0, active=1.0, desired=9, ready=9)) < 9


SIGNALS = st.builds(
    Signals,
    now=st.just(0.0),
    desired=st.integers(1, 40),
    ready=st.integers(0, 40),
    rate=st.floats(0, 1e4),
    active=st.floats(0, 1e5),
    ttft_share=st.none() | st.floats(0, 1e6),
    itl_share=st.none() | st.floats(0, 1e6),
)


@given(st.sampled_from([KedaLaw, lambda: KpaLaw(10.0), lambda: HpaLaw(10.0)]), st.lists(SIGNALS, max_size=30))
def test_no_law_asks_for_fewer_than_none(make: object, seen: list[Signals]) -> None:
    law: Law = make()  # type: ignore[operator]
    for number, signals in enumerate(seen):
        assert law.desired(replace(signals, now=number * law.interval_seconds)) >= 0
