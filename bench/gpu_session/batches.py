"""`python -m bench.gpu_session.batches`: tokens/s, and joules of each, against requests that run together."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from bench.gpu_session.plans import CHAT, Task
from bench.gpu_session.results import RESULTS, Result, read_session

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "h200-batches.png"
Row = tuple[float, float, float]
"""Requests that ran on average, output tokens per second, joules per output token; of one engine alone on its GPUs."""


def rows_of(result: Result) -> list[Row]:
    """Every window of a job at its own mix; the shortest (one request at a time) is left out."""
    return sorted(
        (point.engine["running"], point.engine["outputRate"], point.gpu["watts"] / point.engine["outputRate"])
        for point in result.measured.points
        if point.spec.lengths == CHAT and point.spec.name != "idle" and not point.invalid
        if point.engine.get("running") and point.engine.get("outputRate") and point.gpu.get("watts")
    )


def read_all() -> dict[str, list[Row]]:
    """Of both sessions, by job: engines that had a GPU to themselves, with KV cache enough."""
    found: dict[str, list[Row]] = defaultdict(list)
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        for result in read_session(folder):
            alone = len(result.job.engines) == 1 and "starved" not in result.job.name
            if alone and result.job.task is Task.PROFILE and result.job.lengths == CHAT:
                found[result.job.name] += rows_of(result)
    return {name: sorted(rows) for name, rows in found.items()}


def main() -> int:
    """Draw, and print the rows."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - heavy, and only for the documentation

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for name, rows in sorted(read_all().items()):
        running, rates, joules = zip(*rows, strict=True)
        left.plot(running, rates, marker="o", ms=3, lw=1, label=name)
        right.plot(running, joules, marker="o", ms=3, lw=1, label=name)
        print(name, *(f"{n:.0f}: {rate:.0f} tokens/s, {energy:.3f} J;" for n, rate, energy in rows))
    left.axvline(128, color="grey", lw=0.7, ls=":")
    left.set(xlabel="requests running", ylabel="output tokens/s")
    right.set(xlabel="requests running", ylabel="J per output token", yscale="log")
    left.legend(fontsize=7, ncols=2)
    figure.suptitle("vLLM 0.26, NVIDIA H200, 512 + 128 tokens, two sessions, windows of 12 s")
    figure.savefig(PICTURE, dpi=90)
    plt.close(figure)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
