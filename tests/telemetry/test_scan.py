"""Reading the few wanted lines of a page."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from pages import long_page
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shoal.telemetry.engine_page import parse_engine_page
from shoal.telemetry.scan import find_label, label_pattern, scan

LE = label_pattern("le")


def values(page: bytes, *names: bytes) -> list[float | None]:
    return [value for _, _, value in scan(page, frozenset(names))]


def test_only_the_wanted_names_are_read() -> None:
    page = b"# HELP a text\n# TYPE a gauge\na 1\nab 2\na_total 3\nb 4\n"
    assert list(scan(page, {b"a"})) == [(b"a", b"", 1.0)]


def test_a_value_that_is_no_number_is_missing() -> None:
    page = b"a NaN\na +Inf\na -Inf\na\na nothing\na 0x1\na 1e400\na{} 2\n"
    assert values(page, b"a") == [None] * 7 + [2.0]


def test_a_page_that_was_cut_loses_its_last_line() -> None:
    assert values(b"a 1\na 12", b"a") == [1.0]
    assert values(b"a 12", b"a") == []


def test_a_timestamp_after_the_value_is_left_alone() -> None:
    assert values(b'a{x="y"} 3 1700000000000\n', b"a") == [3.0]


def test_labels_are_found_whatever_the_others_hold() -> None:
    page = rb'a_bucket{model_name="x,le=\"9\"} {",role="le",le="0.5"} 7' + b"\n"
    [(_, labels, value)] = scan(page, {b"a_bucket"})
    assert (find_label(labels, LE), value) == (b"0.5", 7.0)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_page_breaks_it(noise: bytes) -> None:
    for page in (noise, b"a" + noise, b"a{" + noise + b"\n", b"a " + noise + b"\n"):
        for _, _, value in scan(page, {b"a"}):
            assert value is None or math.isfinite(value)
    parse_engine_page(noise.replace(b"a", b"vllm:num_requests_running"))


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_it_agrees_with_the_general_parser(samples: dict[str, float]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("a", "about", ["model"], registry=registry)
    for label, value in samples.items():
        gauge.labels(label).set(value)
    page = generate_latest(registry)
    expected = [s.value for family in text_string_to_metric_families(page.decode()) for s in family.samples]
    assert values(page, b"a") == expected


def best_of(runs: int, function: Callable[[], object]) -> float:
    """Seconds of the fastest run: what the code costs, without what else the machine does."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def test_a_page_takes_a_fifth_of_the_general_parser_s_time() -> None:
    page = long_page()
    text = page.decode()
    assert 450 < page.count(b"\n") < 650
    scanned = best_of(30, lambda: parse_engine_page(page))
    parsed = best_of(3, lambda: list(text_string_to_metric_families(text)))
    assert scanned < parsed / 5, f"{scanned * 1000:.3f} ms, the general parser {parsed * 1000:.1f} ms"
