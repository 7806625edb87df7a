"""The page of a real vLLM 0.26.0 (Qwen2.5-7B shape, one H100, after an overload of 22 s) is read without a gap."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from shoal.telemetry.engine_page import parse_engine_page

PAGE = (Path(__file__).parent / "data" / "vllm-0.26.0-metrics.txt").read_bytes()


def test_every_field_is_found() -> None:
    page = parse_engine_page(PAGE)
    assert [field.name for field in fields(page) if getattr(page, field.name) is None] == []


def test_the_numbers_are_those_of_the_run() -> None:
    page = parse_engine_page(PAGE)
    assert (page.running, page.waiting) == (0, 0)
    assert page.finished == 1232
    assert page.ttft is not None
    assert page.itl is not None
    assert page.input is not None
    assert page.output is not None
    assert page.ttft.mean == pytest.approx(0.1028, abs=1e-3)
    assert page.itl.mean == pytest.approx(0.0246, abs=1e-3)
    assert (page.input.mean, page.output.mean) == (pytest.approx(508.1, abs=0.1), pytest.approx(118.3, abs=0.1))
