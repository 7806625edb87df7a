"""What a page of an engine says, and what it leaves open."""

from __future__ import annotations

import math

import pytest
from pages import engine_page

from shoal.telemetry.engine_page import EnginePage, Histogram, PageBuilder, parse_engine_page
from shoal.telemetry.latencies import find_p95


def parse(text: str) -> EnginePage:
    return parse_engine_page(text.encode())


def test_a_page_is_read() -> None:
    page = parse(engine_page(running=3, waiting=2, finished=7, ttft=(1.5, 5), inputs=[10, 100], outputs=[7]))
    assert (page.running, page.waiting, page.finished, page.kv_usage) == (3, 2, 7, 0.5)
    assert page.ttft == Histogram(1.5, 5)
    assert page.itl is None
    assert page.input is not None
    assert (page.input.mean, page.input.buckets[50], page.input.buckets[math.inf]) == (55, 1, 2)


def test_an_empty_page_knows_nothing() -> None:
    assert parse("") == EnginePage()
    assert parse("<html>not here</html>\n") == EnginePage()


@pytest.mark.parametrize("bad", ["NaN", "+Inf", "-Inf", "", "many"])
def test_a_bad_number_is_missing_and_the_rest_is_kept(bad: str) -> None:
    page = parse(engine_page(running=bad, waiting=2, finished=7))
    assert (page.running, page.waiting, page.finished) == (None, 2, 7)


def test_a_sum_with_a_bad_part_is_missing() -> None:
    text = engine_page(finished=7).replace('finished_reason="length",model_name="m"} 0.0', "} NaN")
    assert parse(text).finished is None


def test_a_histogram_with_a_bad_bucket_is_missing() -> None:
    text = engine_page(inputs=[10, 100], outputs=[5]).replace('le="20"} 1', 'le="20"} NaN', 1)
    assert parse(text).input is None
    assert parse(text).output is not None


@pytest.mark.parametrize(
    ("name", "field"),
    [("vllm:gpu_cache_usage_perc", "kv_usage"), ("vllm:kv_cache_usage_perc", "kv_usage")],
)
def test_older_names_of_a_value(name: str, field: str) -> None:
    assert getattr(parse(f"{name} 0.25\n"), field) == 0.25


@pytest.mark.parametrize(
    "name", ["request_time_per_output_token_seconds", "time_per_output_token_seconds", "inter_token_latency_seconds"]
)
def test_older_names_of_the_gap(name: str) -> None:
    assert parse(f"vllm:{name}_sum 2\nvllm:{name}_count 4\n").itl == Histogram(2, 4)


def test_of_two_names_the_newer_counts() -> None:
    text = "".join(
        f"vllm:{name}_sum {n}\nvllm:{name}_count 1\n"
        for n, name in enumerate(["inter_token_latency_seconds", "request_time_per_output_token_seconds"], 1)
    )
    assert parse(text).itl == Histogram(2, 1)
    assert parse("vllm:gpu_cache_usage_perc 0.9\nvllm:kv_cache_usage_perc 0.1\n").kv_usage == 0.1


def test_ranks_of_one_engine_are_taken_together() -> None:
    text = "".join(
        f'vllm:num_requests_running{{engine="{rank}"}} 2\nvllm:kv_cache_usage_perc{{engine="{rank}"}} 0.{rank}\n'
        for rank in (1, 3, 2)
    )
    page = parse(text)
    assert (page.running, page.kv_usage) == (6, 0.3)


def test_growth_of_a_histogram() -> None:
    before = Histogram(10, 2, {5.0: 1, math.inf: 2})
    after = Histogram(16, 4, {5.0: 2, math.inf: 4})
    assert after.since(before) == Histogram(6, 2, {5.0: 1, math.inf: 2})
    assert before.since(after) == before  # restarted


def test_samples_may_come_in_any_order() -> None:
    builder = PageBuilder()
    builder.add("vllm:request_prompt_tokens_count", None, 2)
    builder.add("vllm:request_prompt_tokens_bucket", 5.0, 1)
    builder.add("vllm:request_prompt_tokens_sum", None, 9)
    assert builder.build().input == Histogram(9, 2, {5.0: 1})


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [
        ({10.0: 95, 100.0: 100, math.inf: 100}, 10),
        ({10.0: 90, 100.0: 100, math.inf: 100}, 55),
        ({10.0: 0, 100.0: 100, math.inf: 100}, 95.5),
        ({10.0: 90, 100.0: 90, math.inf: 100}, 100),  # beyond the last edge: at least that
        ({10.0: 0, math.inf: 100}, 80),  # twice the mean
        ({}, 80),
    ],
)
def test_the_95th_percentile_lies_inside_its_bucket(buckets: dict[float, float], expected: float) -> None:
    assert find_p95(Histogram(4000, 100, buckets)) == pytest.approx(expected)


def test_without_requests_there_is_no_length() -> None:
    assert find_p95(Histogram()) == 0
