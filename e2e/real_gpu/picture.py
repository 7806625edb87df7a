"""`python -m e2e.real_gpu.picture DIRECTORY OUT.png`: a play's traffic, replicas, clocks and power over time."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any


def read_timeline(directory: Path) -> list[dict[str, Any]]:
    """The lines of a play, packed or not."""
    packed = directory / "timeline.jsonl.gz"
    text = (
        gzip.decompress(packed.read_bytes()).decode() if packed.exists() else (directory / "timeline.jsonl").read_text()
    )
    return [json.loads(line) for line in text.splitlines()]


def draw(lines: list[dict[str, Any]], out: Path, title: str) -> None:
    """Three panels under each other; seconds since the service was applied."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - heavy, and only for the documentation

    start = next(line["at"] for line in lines if line.get("plan"))
    seconds = [line["at"] - start for line in lines]
    figure, (traffic, clocks, power) = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    seen = [(line.get("observed") or {}).get("requestsPerSecond") for line in lines]
    traffic.step(
        seconds, [rate if rate is not None else float("nan") for rate in seen], where="post", label="requests/s, status"
    )
    traffic.set_ylabel("requests/s")
    replicas = traffic.twinx()
    for name, style in (("replicas", "--"), ("ready", "-")):
        replicas.step(
            seconds, [line.get(name) or 0 for line in lines], style, where="post", color="tab:red", label=name
        )
    replicas.set(ylabel="replicas", ylim=(0, 3))
    traffic.legend(loc="upper left")
    replicas.legend(loc="upper right")
    for index in range(max(len(line.get("nvml") or []) for line in lines)):
        readings = [(line["at"] - start, line["nvml"][index]) for line in lines if len(line.get("nvml") or []) > index]
        when = [at for at, _ in readings]
        clocks.plot(when, [reading["clockMHz"] for _, reading in readings], label=f"GPU {index}")
        power.plot(when, [reading["powerWatts"] for _, reading in readings], label=f"GPU {index}")
    clocks.set_ylabel("SM clock, MHz")
    power.set(ylabel="watts", xlabel="seconds since the service was applied")
    clocks.legend(loc="lower right")
    figure.suptitle(title)
    figure.savefig(out, dpi=90)
    plt.close(figure)


def main() -> int:
    """Draw one play."""
    directory, out = Path(sys.argv[1]), Path(sys.argv[2])
    draw(read_timeline(directory), out, f"The operator with real vLLM: {directory.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
