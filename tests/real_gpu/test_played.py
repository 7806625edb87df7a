"""What docs/real-engine.md and the README tell of the play on real GPUs is what its files hold."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from e2e.real_gpu.picture import read_timeline

ROOT = Path(__file__).resolve().parents[2]
PLAY = ROOT / "e2e" / "real_gpu" / "results" / "h200-2026-11-28"
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/real-engine.md", "README.md")]


def test_the_pages_tell_what_was_sent_and_how_much_was_within_the_objective() -> None:
    summary = json.loads((PLAY / "summary.json").read_text(encoding="utf-8"))["all"]
    assert summary["sent"] == summary["answered"]
    assert (summary["lost"], summary["refused"]) == (0, 0)
    for page in PAGES:
        assert f"{summary['sent']:,}" in page
        assert f"{summary['withinSlo']:.1%}".replace("%", " %") in page


def test_the_timeline_holds_the_moves_that_the_page_tells() -> None:
    lines = read_timeline(PLAY)
    start = next(line["at"] for line in lines if line.get("plan"))
    states = [(line["at"] - start, line.get("plan"), line.get("ready")) for line in lines if line.get("plan")]
    moves = [
        f"| {at:.0f} |" for (_, *before), (at, *after) in pairwise(states) if before != after
    ]  # first engine ready, two decided, both ready
    assert len(moves) == 3
    assert all(move in PAGES[0] for move in moves), moves


def test_gpus_of_the_service_were_read_through_nvml() -> None:
    readings = [reading for line in read_timeline(PLAY) for reading in line.get("nvml") or ()]
    assert {reading["product"] for reading in readings} == {"NVIDIA-H200"}
    assert max(reading["powerWatts"] for reading in readings) > 600
    assert min(reading["clockMHz"] for reading in readings if "SwPowerCap" in reading["throttleReasons"]) < 1600
