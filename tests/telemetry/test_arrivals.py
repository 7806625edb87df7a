"""Ticks of arrivals, from sources that answer or do not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.domain.service import Tick
from shoal.telemetry.arrivals import ArrivalSeries, Growth


def series_of(rounds: list[dict[str, float | None]], expected: set[str], keep: int = 360) -> ArrivalSeries:
    """Rounds at ticks 0, 1, ...: what each source counted in all by then; sources left out are silent."""
    series, last = ArrivalSeries(keep), dict[str, float]()
    for tick, counts in enumerate(rounds):
        growths = {}
        for source, count in counts.items():
            if count is None:
                continue
            growths[source] = Growth(tick, count - last[source] if source in last else None)
            last[source] = count
        series.record(tick, growths, expected)
    return series


def test_nothing_is_known_before_the_second_answer() -> None:
    assert series_of([], {"a"}).ticks() == ()
    assert series_of([{}, {}], {"a"}).ticks() == ()
    assert series_of([{"a": 100}], {"a"}).ticks() == ()


def test_growths_of_all_sources_are_added() -> None:
    series = series_of([{"a": 10, "b": 20}, {"a": 11, "b": 22}, {"a": 11, "b": 22}], {"a", "b"})
    assert series.ticks() == (Tick(3), Tick(0))


def test_a_silent_source_leaves_a_lower_bound() -> None:
    series = series_of([{"a": 0, "b": 0}, {"a": 1, "b": 2}, {"a": 2}], {"a", "b"})
    assert series.ticks() == (Tick(3), Tick(1, complete=False))


def test_a_source_that_answers_again_fills_what_was_open() -> None:
    series = series_of([{"a": 0, "b": 0}, {"a": 1}, {"a": 2}, {"a": 3, "b": 6}], {"a", "b"})
    assert series.ticks() == (Tick(3), Tick(3), Tick(3))


def test_ticks_end_where_nobody_has_counted_yet() -> None:
    series = series_of([{"a": 0}, {"a": 4}, {}, {}], {"a"})
    assert series.ticks() == (Tick(4),)


def test_a_source_that_never_comes_back_leaves_its_ticks_open() -> None:
    series = series_of([{"a": 0, "b": 0}, {"a": 1}, {"a": 2}], {"a", "b"})
    series.record(3, {"a": Growth(3, 1)}, {"a"})
    assert series.ticks() == (Tick(1, complete=False), Tick(1, complete=False), Tick(1))


def test_a_source_that_is_new_leaves_its_first_tick_open() -> None:
    series = series_of([{"a": 0}, {"a": 1, "b": 50}, {"a": 2, "b": 51}], {"a", "b"})
    assert series.ticks() == (Tick(1, complete=False), Tick(2))


def test_without_anybody_to_ask_nothing_is_complete() -> None:
    series = series_of([{"a": 0}, {"a": 1}], {"a"})
    series.record(2, {}, set())
    series.record(3, {"a": Growth(3, 4)}, {"a"})
    assert series.ticks() == (Tick(1), Tick(2, complete=False), Tick(2))


def test_numbers_that_come_late_belong_to_when_they_were_true() -> None:
    series = ArrivalSeries(360)
    series.record(0, {"a": Growth(0, None)}, {"a"})
    series.record(1, {}, {"a"})
    series.record(2, {}, {"a"})
    series.record(3, {"a": Growth(2, 8)}, {"a"})
    assert series.ticks() == (Tick(4), Tick(4))


def test_two_answers_in_one_tick_are_added() -> None:
    series = ArrivalSeries(360)
    series.record(0, {"a": Growth(0, None)}, {"a"})
    series.record(1, {"a": Growth(1, 2)}, {"a"})
    series.record(1, {"a": Growth(1, 3)}, {"a"})
    assert series.ticks() == (Tick(5),)


def test_only_so_many_are_kept() -> None:
    series = series_of([{"a": float(n)} for n in range(20)], {"a"}, keep=5)
    assert series.ticks() == (Tick(1),) * 5


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.integers(0, 50), st.booleans()), min_size=1, max_size=30)
)
def test_nothing_is_lost_and_nothing_invented(rounds: list[tuple[int, bool, int, bool]]) -> None:
    """Whoever was silent when, the ticks add up to what was counted, and a tick without gaps is marked so."""
    counted = {"a": 0.0, "b": 0.0}
    answers: list[dict[str, float | None]] = [dict(counted)]
    for a, a_answers, b, b_answers in rounds:
        counted = {"a": counted["a"] + a, "b": counted["b"] + b}
        answers.append({s: counted[s] if told else None for s, told in (("a", a_answers), ("b", b_answers))})
    answers.append(dict(counted))
    ticks = series_of(answers, {"a", "b"}).ticks()
    assert len(ticks) == len(answers) - 1
    assert sum(tick.count for tick in ticks) == pytest.approx(sum(counted.values()))
    assert all(tick.complete and tick.count >= 0 for tick in ticks)


@settings(deadline=None)
@given(st.lists(st.sets(st.sampled_from(["a", "b", "c"])), min_size=1, max_size=20))
def test_a_tick_is_complete_only_if_everybody_counted_through_it(rounds: list[set[str]]) -> None:
    everyone = {"a", "b", "c"}
    answers: list[dict[str, float | None]] = [dict.fromkeys(everyone, 0.0)]
    answers += [{source: float(n) for source in told} for n, told in enumerate(rounds, 1)]
    ticks = series_of(answers, everyone).ticks()
    for number, tick in enumerate(ticks, 1):
        last = {
            source: max((n for n, told in enumerate(rounds, 1) if source in told), default=0) for source in everyone
        }
        assert tick.complete == all(n >= number for n in last.values())
