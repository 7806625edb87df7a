"""Traffic: rates over time, bursts, lengths, and recorded traces."""

from __future__ import annotations

import json
import math
import random
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.sim.rates import (
    Schedule,
    expected_requests,
    follow,
    make_diurnal,
    make_flash_crowd,
    rate_at,
    seconds_of,
    wander,
)
from shoal.sim.traces import TraceError, read_trace
from shoal.sim.traffic import Shape, Traffic


def ones(count: int) -> list[float]:
    return [1.0] * count + [math.inf]


def test_even_gaps_follow_a_ramp() -> None:
    """From 0 to 1.95 requests/s in 3.9 s: t*t/4 requests by t, so the n-th comes at 2*sqrt(n)."""
    assert list(follow(((3.9, 0.0, 1.95),), iter(ones(10)))) == pytest.approx([2.0, 2 * 2**0.5, 2 * 3**0.5])


def test_what_is_left_of_a_gap_goes_on_in_the_next_piece() -> None:
    assert list(follow(((3.0, 0.5), (2.0, 0.0), (2.0, 1.0)), iter(ones(10)))) == pytest.approx([2.0, 5.5, 6.5])


PIECES = st.tuples(st.floats(0.5, 50), st.floats(0, 20), st.floats(0, 20))


@given(st.lists(PIECES, min_size=1, max_size=5), st.integers(0, 1000))
def test_arrivals_are_in_order_within_the_schedule_and_as_many_as_expected(pieces: list[Schedule], seed: int) -> None:
    schedule: Schedule = tuple(pieces)  # type: ignore[arg-type]
    rng = random.Random(seed)
    instants = list(follow(schedule, iter(lambda: rng.expovariate(1.0), None)))
    assert instants == sorted(instants)
    assert all(0 <= at <= seconds_of(schedule) + 1e-6 for at in instants)
    expected = expected_requests(schedule)
    assert abs(len(instants) - expected) < 6 * math.sqrt(expected) + 6


def test_a_day_begins_at_its_lowest_and_has_the_mean_between() -> None:
    day = make_diurnal(86400, 2, 10, 86400)
    assert rate_at(day, 0) == pytest.approx(2)
    assert rate_at(day, 43200) == pytest.approx(10)
    assert expected_requests(day) == pytest.approx(6 * 86400, rel=1e-3)


def test_a_flash_crowd_rises_holds_and_falls() -> None:
    crowd = make_flash_crowd(100, 1, 5, at=10, rise=10, hold=20, fall=40)
    assert [rate_at(crowd, at) for at in (5, 15, 30, 60, 90)] == pytest.approx([1, 3, 5, 3, 1])
    assert seconds_of(crowd) == 100


@given(st.floats(0.01, 0.5), st.integers(0, 100))
def test_a_rate_wanders_within_its_share(share: float, seed: int) -> None:
    drifting = wander(((100.0, 10.0), (55.0, 4.0)), share, 30.0, random.Random(seed))
    assert seconds_of(drifting) == pytest.approx(155)
    assert all(10 * (1 - share) - 1e-9 <= rate_at(drifting, at) <= 10 * (1 + share) + 1e-9 for at in range(100))
    assert all(4 * (1 - share) - 1e-9 <= rate_at(drifting, at) <= 4 * (1 + share) + 1e-9 for at in range(100, 155))


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 3.0])
def test_gaps_have_the_variation_asked_for(cv: float) -> None:
    traffic = Traffic(((20_000.0, 2.0),), 10, 10, seed=3, gap_scv=cv**2)
    gaps = [two.at - one.at for one, two in pairwise(traffic.arrivals())]
    assert statistics.fmean(gaps) == pytest.approx(0.5, rel=0.06)
    assert statistics.pstdev(gaps) / statistics.fmean(gaps) == pytest.approx(cv, rel=0.06, abs=1e-6)


@pytest.mark.parametrize(("shape", "cv"), [(Shape.GAMMA, 0.7), (Shape.LOGNORMAL, 1.2), (Shape.FIXED, 0.0)])
def test_lengths_have_the_mean_and_variation_asked_for(shape: Shape, cv: float) -> None:
    traffic = Traffic(((20_000.0, 2.0),), 500, 100, seed=3, shape=shape, scv=cv**2)
    prompts = [arrival.prompt_tokens for arrival in traffic.arrivals()]
    assert statistics.fmean(prompts) == pytest.approx(500, rel=0.03)
    assert statistics.pstdev(prompts) / statistics.fmean(prompts) == pytest.approx(cv, rel=0.05, abs=1e-6)


# traces


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def record(at: float, prompt: int = 6955, output: int = 52) -> str:
    return json.dumps({"timestamp": at, "input_length": prompt, "output_length": output, "hash_ids": [1, 2]})


CSV_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"


def test_mooncake_lines(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "t.jsonl", record(27_000), "", record(30_500, 10, 0), record(28_000)))
    assert [(a.at, a.prompt_tokens, a.output_tokens) for a in trace.recorded] == [
        (0, 6955, 52),
        (1, 6955, 52),
        (3.5, 10, 1),
    ]
    assert trace.seconds == 3.5
    assert [(a.prompt_tokens, a.output_tokens) for a in trace.arrivals(1000)] == [(999, 1), (999, 1), (10, 1)]
    assert trace.cut(1000) == 2


def test_azure_columns_with_seven_digits_and_with_a_zone(tmp_path: Path) -> None:
    lines = CSV_HEAD, "2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.6805900,396,109"
    assert read_trace(write(tmp_path / "a.csv", *lines)).seconds == pytest.approx(4)
    zoned = CSV_HEAD, "2024-05-10 00:00:00.009930+00:00,2162,5", "2024-05-10 02:00:01.009930+02:00,2399,6"
    assert [a.at for a in read_trace(write(tmp_path / "b.csv", *zoned)).recorded] == pytest.approx([0, 1])


def test_a_part_of_a_trace_twice_as_fast(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", *(record(1000 * n) for n in range(11)))
    trace = read_trace(path, speed=2.0, most_seconds=4.0)
    assert [a.at for a in trace.arrivals(8192)] == [0, 0.5, 1, 1.5, 2]
    assert trace.seconds == 2


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("t.jsonl", (record(0), "{broken"), r"t.jsonl:2: not JSON: .*one object a line is expected"),
        ("t.jsonl", ('{"timestamp": 1, "input_length": 4}',), r"t.jsonl:1: output_length missing; needed are"),
        ("t.jsonl", ("[1, 2]",), r"t.jsonl:1: not an object"),
        ("t.jsonl", (record(0), "", record(-5)), r"t.jsonl:3: timestamp: -5 is no number of milliseconds"),
        ("t.jsonl", (record(0, -1),), r"t.jsonl:1: input_length: -1 is no number of tokens: remove the line or"),
        ("t.jsonl", (record(float("nan")),), r"t.jsonl:1: timestamp: nan is no number"),
        ("t.jsonl", ('{"timestamp": 1, "input_length": 4.5, "output_length": 1}',), r"4.5 is not a whole number"),
        ("t.jsonl", ('{"timestamp": true, "input_length": 4, "output_length": 1}',), r"timestamp: True is no number"),
        ("t.jsonl", ("",), r"no request in it: expected JSON lines"),
        ("t.csv", ("when,how many",), r"t.csv:1: column TIMESTAMP, ContextTokens, GeneratedTokens missing"),
        ("t.csv", (CSV_HEAD, "yesterday,3,4"), r"t.csv:2: TIMESTAMP: 'yesterday' is no date and time; write it as"),
        ("t.csv", (CSV_HEAD, "2023-11-16 18:15:46,3,x"), r"t.csv:2: GeneratedTokens: 'x' is no number of tokens"),
        ("t.csv", (CSV_HEAD, "2023-11-16 18:15:46,3"), r"t.csv:2: GeneratedTokens: None is no number of tokens"),
        ("t.csv", (CSV_HEAD,), r"no request in it"),
    ],
)
def test_bad_traces_name_the_line(tmp_path: Path, name: str, lines: tuple[str, ...], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        read_trace(write(tmp_path / name, *lines))


def test_a_compressed_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(TraceError, match="not a text file"):
        read_trace(path)
