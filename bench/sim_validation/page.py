"""The tables of docs/simulator.md between its two marks, from the result file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.machine import CHECKOUT

PAGE = CHECKOUT / "docs" / "simulator.md"
BEGIN, END = "<!-- begin: python -m bench.sim_validation -->", "<!-- end: python -m bench.sim_validation -->"
_CLOSED = (
    ("fixed", "one length, fitted to these runs"),
    ("fixedHeldOut", "one length, fitted to runs of other output lengths"),
    ("shareGPT", "ShareGPT, two terms stretched to these runs"),
    ("shareGPTUnscaled", "ShareGPT, fitted to runs of one length"),
)
_MEASURES = (
    ("throughput", "throughput"),
    ("throughputWhenKVIsFull", "of these, KV cache full"),
    ("meanGap", "mean gap"),
    ("p99Gap", "p99 gap"),
    ("meanTTFT", "mean TTFT"),
)


def make_tables(result: Mapping[str, Any]) -> str:
    """Everything between the marks."""
    lines = ["Errors are simulated over real, less 1."]
    for name, tables in _TABLES.items():
        if name in result:
            lines += ["", *tables(result[name]["found"]), _facts(result[name]["facts"])]
    return "\n".join(lines)


def _facts(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    return (
        f"`{facts['command']}`, {facts['date']}, commit {facts['commit']}; {machine['cpu']}, {machine['cores']} cores, "
        f"Python {machine['python']}, load {machine['load']:.1f} before."
    )


def write_page(result: Mapping[str, Any], page: Path = PAGE) -> None:
    """Put the tables into the page. Raises ValueError when its marks are missing."""
    page.write_text(insert(page.read_text(), make_tables(result)))


def insert(text: str, tables: str) -> str:
    """The page with other tables between its marks."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def _closed_loop(models: Mapping[str, Any]) -> Iterator[str]:
    yield "### 2,000 requests at once: against published runs (H100 64 GB)"
    yield ""
    yield "| model | step times | figure | runs | bias | rms | worst | worst run |"
    yield "|---|---|---|---:|---:|---:|---:|---|"
    for model, kinds in models.items():
        for kind, words in _CLOSED:
            for measure, name in _MEASURES:
                if errors := kinds[kind].get(measure):
                    yield (
                        f"| {model} | {words} | {name} | {errors['runs']} | {errors['bias']:+.1%} "
                        f"| {errors['rms']:.1%} | {errors['worst']:+.1%} | `{errors['worstAt']}` |"
                    )
    yield ""
    yield "Whether anything was preempted agrees in: " + "; ".join(
        f"{model} {kinds['fixed']['preemptionAgrees']} (one length), {kinds['shareGPT']['preemptionAgrees']} (ShareGPT)"
        for model, kinds in models.items()
    ) + "."  # fmt: skip
    yield ""


def _open_loop(models: Mapping[str, Any]) -> Iterator[str]:
    yield "### Poisson arrivals over HTTP: against vLLM 0.26.0 on an H100 80 GB"
    yield ""
    yield "Real / simulated, milliseconds. Rates with * were seen by the fit (gaps only). One run of 20 s each."
    yield ""
    yield "| model | share of overload | requests/s | ITL mean | ITL p95 | TTFT mean | TTFT p95 |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for model, fits in models.items():
        for point in next(iter(fits.values()))["points"]:
            pairs = (point[key] for key in ("itlMeanMs", "itlP95Ms", "ttftMeanMs", "ttftP95Ms"))
            cells = " | ".join(f"{real:.1f} / {simulated:.1f}" for real, simulated in pairs)
            yield f"| {model} | {point['share']:g}{'*' if point['fitted'] else ''} | {point['rate']:g} | {cells} |"
    yield ""
    yield "Errors of what a fit did not see: bias, worst."
    yield ""
    yield "| model | fitted to | overload, requests/s | ITL mean | ITL p95 | TTFT mean | TTFT p95 |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for model, fits in models.items():
        for name, found in fits.items():
            errors = (found["errorsUnseen"][key] for key in ("itl.mean", "itl.p95", "ttft.mean", "ttft.p95"))
            cells = " | ".join(f"{e['bias']:+.0%}, {e['worst']:+.0%}" for e in errors)
            real, simulated = found["overload"]
            yield f"| {model} | {name} | {real:.1f} / {simulated:.1f} | {cells} |"
    yield ""


def _queueing(checks: list[Mapping[str, Any]]) -> Iterator[str]:
    yield "### Queueing theory"
    yield ""
    yield "| case | load | theory | simulated, ± half of its 95 % interval | error | within |"
    yield "|---|---:|---:|---:|---:|---|"
    for check in checks:
        yield (
            f"| {check['case']} | {check['load']:g} | {check['theory']:.1f} | {check['simulated']:.1f} "
            f"± {check['halfInterval']:.1f} | {check['error']:+.1%} | {'yes' if check['withinInterval'] else 'no'} |"
        )
    yield ""


def _speed(speed: Mapping[str, Any]) -> Iterator[str]:
    seconds = speed["userCPUSeconds"]
    yield "### Speed"
    yield ""
    yield (
        f"{speed['requests']:,} requests over {speed['simulatedSeconds'] / 60:g} simulated minutes, planner included: "
        f"user CPU {seconds[0]:.2f} to {seconds[-1]:.2f} s in {len(seconds)} runs on one core (wanted: below "
        f"{speed['target']:g} s)."
    )
    yield ""


_TABLES: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "closedLoop": _closed_loop,
    "openLoop": _open_loop,
    "queueing": _queueing,
    "speed": _speed,
}
