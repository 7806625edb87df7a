"""The validation of the simulator: its own arithmetic, and that the docs say what the result file says."""

from __future__ import annotations

import json
import random

import pytest

from bench.sim_validation import closed_loop, open_loop, queueing
from bench.sim_validation.__main__ import OUT
from bench.sim_validation.page import BEGIN, END, PAGE, insert, make_tables
from bench.sim_validation.spread import batch_means, summarise
from shoal.domain.profile import StepModel
from shoal.sim.mem_gap import Run

RESULT = json.loads(OUT.read_text())


def test_the_docs_show_the_results() -> None:
    assert insert(PAGE.read_text(), make_tables(RESULT)) == PAGE.read_text()


def test_a_page_without_marks_is_refused() -> None:
    assert insert(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\nnew\n{END} b"
    with pytest.raises(ValueError, match="lacks the marks"):
        insert("nothing", "new")


def test_errors_are_summed_up_with_their_worst() -> None:
    errors = summarise([("a", 0.1), ("b", -0.3), ("c", 0.2)])
    assert errors.bias == pytest.approx(0.0)
    assert (errors.worst, errors.worst_at) == (-0.3, "b")


def test_the_interval_of_a_mean_covers_it() -> None:
    rng = random.Random(1)
    mean, half = batch_means([rng.gauss(5, 1) for _ in range(20_000)])
    assert abs(mean - 5) < half < 0.03


def test_the_simplex_goes_downhill() -> None:
    found = open_loop.nelder_mead(lambda x: (x[0] - 1) ** 2 + 10 * (x[1] + 2) ** 2, [0.0, 0.0], 0.5, 120)
    assert found == pytest.approx([1, -2], abs=1e-3)


def test_the_chain_is_the_known_queue_where_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seat: M/G/1 with geometric service, whose sojourn is Pollaczek-Khinchine's wait and one service."""
    monkeypatch.setattr(queueing, "SEATS", 1)
    step, m = queueing.step_seconds(1), queueing.MEAN_TOKENS
    rate = 0.6 / (m * step)
    second = (m * m + m * (m - 1)) * step**2
    wait = queueing.pollaczek_khinchine(rate, m * step, second)
    assert queueing.chain_sojourn(rate, states=800) == pytest.approx(wait + m * step, rel=0.003)


def test_a_closed_loop_run_is_its_arithmetic() -> None:
    """Two equal requests one after the other: a step for the prompt, then one for each further token."""
    steps = StepModel(5.0, 0.02, 0.0)
    run = Run("opt-1.3b", True, 1, 1, 1.0, 1.0, 1.0, 100, 11, 1000, 0.0, 0.1)
    played = closed_loop.play(run, steps, requests=2)
    prompt, decode = 5.0 + 0.02 * 100, 5.0 + 0.02
    assert played.ttft_ms == pytest.approx(prompt + (prompt + 10 * decode) / 2)
    assert played.gap_ms == pytest.approx(decode)
    assert played.request_rate == pytest.approx(1000 / (prompt + 10 * decode))
    assert played.preemptions == 0


def test_the_published_runs_load() -> None:
    reals = closed_loop.read_real()
    assert {real.run.model for real in reals} == {"opt-1.3b", "opt-2.7b", "llama-2-7b", "llama-2-13b"}
    assert len(reals) > 150
    assert all(real.ttft_ms > 0 and real.p99_gap_ms > 0 for real in reals)


def test_servers_load_with_their_kv_cache() -> None:
    servers = {server.model: server for server in open_loop.read_servers()}
    assert servers["Qwen/Qwen2.5-7B-Instruct"].limits.kv_blocks == 28086
    assert all(len(server.points) == 5 for server in servers.values())


def test_theory_is_met_within_the_noise_in_the_recorded_run() -> None:
    """Each exact case has a 95 % interval: of 15, at least 12 hold their theory, and none is far from it."""
    exact = [check for check in RESULT["queueing"]["found"] if "approximation" not in check["case"]]
    assert len(exact) == 15
    assert sum(check["withinInterval"] for check in exact) >= 12
    assert all(abs(check["simulated"] - check["theory"]) < 2.5 * check["halfInterval"] for check in exact)


def test_the_speed_wanted_is_met_in_the_recorded_run() -> None:
    assert RESULT["speed"]["found"]["requests"] == pytest.approx(45_000, rel=0.02)
    assert max(RESULT["speed"]["found"]["userCPUSeconds"]) < RESULT["speed"]["found"]["target"]
