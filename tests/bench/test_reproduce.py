"""Real journals replayed on simulated engines: a small part of what the documentation reports."""

from __future__ import annotations

import pytest

from bench.gpu_session.judge_blind import read_runs
from bench.gpu_session.replay import play
from bench.gpu_session.reproduce import SESSION, Replay, Session, comparable, error_table, fit, limits, overall
from shoal.profiler.specs import Kind
from shoal.sim.front_end import FrontEnd

NAMES = {"opt-13b", "qwen2.5-7b", "qwen2.5-7b-long-prompts", "opt-13b-starved"}


@pytest.fixture(scope="module")
def session() -> Session:
    return Session([run for run in read_runs(SESSION) if run.name in NAMES])


@pytest.fixture(scope="module")
def mix(session: Session) -> list[Replay]:
    """The journal of another mix, from step times that were fitted without it and another model's front end."""
    return list(session.replays(next(run for run in session.runs if run.name.endswith("long-prompts"))))


def test_overloaded_throughput_of_an_unseen_mix_is_within_15_percent(mix: list[Replay]) -> None:
    overloaded = [replay for replay in mix if replay.overloaded]
    assert len(overloaded) == 1
    assert overloaded[0].unseen == "mix"
    assert abs(overloaded[0].rate_error()) < 0.15


def test_latencies_of_an_unseen_mix(mix: list[Replay]) -> None:
    for replay in (replay for replay in mix if not replay.overloaded):
        for kind in ("ttft", "itl"):
            real, simulated = replay.latency(kind, "p95") or (0.0, 0.0)
            assert simulated == pytest.approx(real, rel=0.25)


def test_without_the_front_end_first_tokens_come_too_early(session: Session) -> None:
    run = next(run for run in session.runs if run.name == "qwen2.5-7b")
    steps, point = fit(run), comparable(run)[-1]
    assert steps is not None
    assert point.ttft is not None
    alone = play(steps, limits(run), run.measured.settings, point.spec)
    behind = play(steps, limits(run), run.measured.settings, point.spec, session.front_end(run.key.model))
    assert (alone.of("ttft", "p50") or 0.0) < (behind.of("ttft", "p50") or 0.0)
    assert alone.of("itl", "p95") == behind.of("itl", "p95")


def test_closed_loops_keep_their_connections_busy(session: Session) -> None:
    run = next(run for run in session.runs if run.name == "opt-13b-starved")
    full = next(point for point in run.measured.points if point.spec.name == "full")
    assert full.spec.kind is Kind.CLOSED
    base = next(other for other in session.runs if other.name == "opt-13b")
    steps = fit(base)
    assert steps is not None
    played = play(steps, limits(run), run.measured.settings, full.spec, FrontEnd(0.0, 0.0))
    assert played.output_rate == pytest.approx(full.engine["outputRate"], rel=0.15)
    assert played.running == pytest.approx(full.engine["running"], rel=0.15)


def test_what_was_left_out_is_left_out(session: Session) -> None:
    run = next(run for run in session.runs if run.name == "opt-13b")
    point = comparable(run)[-1]
    assert fit(run, without=point) != fit(run)
    assert session.front_end("facebook/opt-13b") != session.front_end("Qwen/Qwen2.5-7B-Instruct")


def test_tables_name_the_worst(mix: list[Replay]) -> None:
    assert any("1 of 1 points within 15 %" in line for line in overall(mix))
    assert any("overloaded tokens/s" in line for line in error_table(mix))


def test_another_session_is_replayed_from_the_known_one() -> None:
    """Step times and front end of the first session, points of the second: nothing of it was seen."""
    known = [run for run in read_runs(SESSION) if run.name in NAMES]
    again = SESSION.with_name("h200-2026-11-28-again")
    runs = [run for run in read_runs(again) if run.name in {"qwen2.5-7b", "qwen2.5-7b-prompts-alone"}]
    session = Session(runs, known)
    replays = [replay for run in session.runs for replay in session.replays(run)]
    assert {replay.unseen for replay in replays} == {"session", "mix"}
    overloaded = [replay for replay in replays if replay.overloaded]
    assert len(overloaded) == 2
    assert all(abs(replay.rate_error()) < 0.15 for replay in overloaded)
    assert session.profiles == [run for run in known if run.mix == "chat"]
