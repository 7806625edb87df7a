"""Tables out of the result files: nothing is computed here that was not run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.headtohead.clairvoyant import least_gpu_hours, reactive_ceiling
from bench.headtohead.judge import Outcome, dominates, interval, paired
from bench.headtohead.policies import TICK_SECONDS, fewest_for
from bench.headtohead.scaling import Bench, read_rows
from bench.headtohead.shoal_policy import make_profile, pooled_capacity
from bench.headtohead.traffic import make_shape

Row = Mapping[str, Any]
BUDGET = 1.1  # of our GPU-hours: within it no reactive peer shall be better


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of one scenario, engine and router, by policy and variant, then by seed."""

    scenario: str
    engine: str
    router: str
    runs: Mapping[str, Mapping[int, Row]]

    @property
    def ours(self) -> Mapping[int, Row]:
        """Shoal's rows."""
        return self.runs["shoal"]


def read_places(bench: Bench, file: str = "scaling.jsonl") -> list[Place]:
    """All places of a result file where Shoal has run, in the order of the plan."""
    grouped: dict[tuple[str, str, str], dict[str, dict[int, Row]]] = {}
    for row in read_rows(bench.results / file).values():
        name = row["policy"] if row["policy"] == "shoal" else f"{row['policy']} {row['variant']}"
        place = grouped.setdefault((row["scenario"], row["engine"], row["router"]), {})
        place.setdefault(name, {})[int(row["seed"])] = row
    order = list(bench.plan["scenarios"])
    found = [Place(*key, runs) for key, runs in grouped.items() if "shoal" in runs]
    return sorted(found, key=lambda p: (order.index(p.scenario), p.engine, p.router != "round_robin"))


def scaling_table(bench: Bench, place: Place) -> list[str]:
    """One line for each policy: both axes, moves, and the difference to Shoal on the same seeds."""
    lines = [
        "| policy | seeds | attainment % | GPU-hours | moves | p95 TTFT ms | Shoal's attainment less its, % (95 %) "
        "| its GPU-hours over Shoal's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(place.runs, key=_order):
        runs = place.runs[name]
        cells = [
            label(bench, place, name),
            str(len(runs)),
            f"{100 * _mean(runs, 'attainment'):.2f}",
            f"{_mean(runs, 'gpuHours'):.3f}",
            f"{sum(len(row['moves']) for row in runs.values()) / len(runs):.1f}",
            f"{_mean(runs, 'p95TtftMs'):.0f}",
        ]
        if name == "shoal":
            cells += ["", ""]
        else:
            shared = sorted(runs.keys() & place.ours.keys())
            difference = paired(_column(place.ours, "attainment"), _column(runs, "attainment"))
            ratio = interval([runs[seed]["gpuHours"] / place.ours[seed]["gpuHours"] for seed in shared])
            cells += [_in_percent(difference.mean, difference.low, difference.high), f"{ratio.mean:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def label(bench: Bench, place: Place, name: str) -> str:
    """A policy with its options."""
    if name == "shoal":
        return "**Shoal**"
    policy, variant = name.split(" ", 1)
    if policy == "static":
        return f"static {variant}"
    options = json.loads(next(iter(place.runs[name].values()))["options"])
    same = variant == "default" and "default" in bench.plan["policies"][policy]
    words = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{policy}, {'as documented' if same else variant} ({words})"


def judge_place(place: Place) -> list[str]:
    """Whether the claims hold here, seed by seed and over all of them."""
    lines = []
    reactive = [name for name in place.runs if name != "shoal" and not name.startswith("static")]
    better = [name for name in sorted(reactive) if _beats_within(place, name, 1.0)]
    costlier = [name for name in sorted(reactive) if _beats_within(place, name, BUDGET) and name not in better]
    lines.append(
        f"- Reactive peers with GPU-hours at or below Shoal's and a higher attainment (means): {_listed(better)}."
    )
    lines.append(
        f"- Reactive peers with at most {BUDGET} times Shoal's GPU-hours and a higher attainment: {_listed(costlier)}."
    )
    losses = [
        f"{name}: seeds {', '.join(str(s) for s in seeds)}"
        for name in sorted(place.runs)
        if name != "shoal" and (seeds := _dominated_on(place, name))
    ]
    lines.append(f"- Seeds on which a policy beats Shoal on both axes: {_listed(losses)}.")
    return [*lines, ""]


def bound_lines(bench: Bench, place: Place) -> list[str]:
    """Shoal's GPU-hours over the clairvoyant bound at the same misses, and the ceiling of a step."""
    setting = bench.setting(place.engine, place.router)
    profile = make_profile(setting.engine, bench.table(place.engine))
    capacity = pooled_capacity(setting, profile, 2)  # the most that a replica is planned for
    shape = make_shape(bench.plan["scenarios"][place.scenario]["shape"])
    rates = shape.rates().reshape(-1, round(TICK_SECONDS)).mean(axis=1)
    ratios = []
    for row in place.ours.values():
        bound = least_gpu_hours(
            rates,
            tick_seconds=TICK_SECONDS,
            capacity=capacity,
            misses=row["requests"] - row["met"],
            startup_seconds=setting.startup_seconds,
            workers=1,
        )
        ratios.append(row["gpuHours"] / bound.gpu_hours)
    found = interval(ratios)
    text = (
        f"- Shoal's GPU-hours over the clairvoyant bound at equal misses ({capacity:.2f} requests/s a replica): "
        f"{found.mean:.3f} ({min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} seeds)."
    )
    lines = [text]
    if place.scenario == "step":
        requests = round(sum(row["requests"] for row in place.ours.values()) / len(place.ours))
        ceiling = reactive_ceiling(requests, float(rates.max()), setting.startup_seconds, TICK_SECONDS)
        lines.append(
            "- Ceiling of whoever sees the step when it has come, 1 - λ₁ (start-up + tick) / total: "
            f"{100 * ceiling:.2f} %."
        )
    return lines


def constant_table(bench: Bench, file: str) -> list[str]:
    """Constant load of a result file: moves, where it ended, attainment, for each rate."""
    rows = list(read_rows(bench.results / file).values())
    if not rows:
        return ["Not run.", ""]
    lines = [
        "| rate over capacity | seeds | replicas at the start | at the end | needed | most moves "
        "| least attainment % |",
        "|---:|---:|---:|---|---:|---:|---:|",
    ]
    for share in sorted({row["share"] for row in rows}):
        runs = [row for row in rows if row["share"] == share]
        finals = sorted({row["final"] for row in runs})
        lines.append(
            f"| {share} | {len(runs)} | {runs[0]['start']} | {', '.join(map(str, finals))} | {fewest_for(share, 1.0)} "
            f"| {max(len(row['moves']) for row in runs)} | {100 * min(row['attainment'] for row in runs):.2f} |"
        )
    moves = [len(row["moves"]) for row in rows]
    near = sum(abs(row["final"] - fewest_for(row["share"], 1.0)) <= 1 for row in rows)
    good = sum(row["attainment"] >= 0.99 for row in rows)
    lines += [
        "",
        f"- {len(rows)} runs; at most one move in {100 * sum(m <= 1 for m in moves) / len(rows):.1f} %, "
        f"at most {max(moves)} in all of them.",
        f"- The number at the end within one of what is needed in {near} of {len(rows)}.",
        f"- Attainment of at least 99 % in {good} of {len(rows)}; the mean is "
        f"{100 * sum(row['attainment'] for row in rows) / len(rows):.2f} %.",
    ]
    return [*lines, ""]


def sizing_table(bench: Bench) -> list[str]:
    """Sizing: both answers, and what came of them."""
    rows = read_rows(bench.results / "sizing.jsonl").values()
    if not rows:
        return ["Not run.", ""]
    lines = [
        "| service | objective (TTFT, ITL ms) | rate | who | answer | GPUs | attainment % (worst seed) | p95 TTFT ms "
        "| p95 ITL ms |",
        "|---|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        case = row["case"]
        for name, answer in row["answers"].items():
            runs = row["runs"][name]
            lines.append(
                f"| {case['name']} ({case['model']}, {case['prompt']}/{case['answer']}) "
                f"| {case['ttftMs']}, {case['itlMs']} | {case['rate']} | {name} "
                f"| {answer['sizing']} | {answer['gpus']} "
                f"| {100 * min(run['attainment'] for run in runs):.2f} "
                f"| {max(run['p95TtftMs'] for run in runs):.0f} | {max(run['p95ItlMs'] for run in runs):.1f} |"
            )
    return [*lines, ""]


def mixes_table(bench: Bench) -> list[str]:
    """GPU mixes: cost, changed answers, time."""
    path = bench.results / "mixes.json"
    if not path.exists():
        return ["Not run.", ""]
    found = json.loads(path.read_text())
    buckets = bench.plan["mixes"]["buckets"]
    lines = ["| GPU | $/h | " + " | ".join(f"{p}/{a} tokens" for p, a in buckets) + " |"]
    lines.append("|---|---:|" + "---:|" * len(buckets))
    lines += [
        f"| {g['name']} | {g['price']} | " + " | ".join(f"{r:.2f}" for r in g["rates"]) + " |" for g in found["gpus"]
    ]
    lines += [
        "",
        "| tokens | requests/s | bound $/h | AIBrix $/h | Shoal $/h | AIBrix's answer | Shoal's | changes: AIBrix "
        "| Shoal, each anew | Shoal, as it runs | AIBrix ms | Shoal ms |",
        "|---|---:|---:|---:|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        theirs, ours, following = row["aibrix"], row["shoal"], row["shoalFollowing"]
        lines.append(
            f"| {row['bucket'][0]}/{row['bucket'][1]} | {row['rate']} "
            f"| {row['bound']:.2f} | {theirs['costPerHour']:.2f} "
            f"| {ours['costPerHour']:.2f} | {_mix(theirs['answer'])} | {_mix(ours['answer'])} "
            f"| {theirs['changes']} | {ours['changes']} | {following['changes']} "
            f"| {theirs['millisecondsEach']:.0f} | {ours['millisecondsEach']:.1f} |"
        )
    rows = found["rows"]
    dearer = sum(row["shoal"]["costPerHour"] > row["aibrix"]["costPerHour"] + 1e-6 for row in rows)
    cheaper = sum(row["shoal"]["costPerHour"] < row["aibrix"]["costPerHour"] - 1e-6 for row in rows)
    who = ("aibrix", "shoal", "shoalFollowing")
    total = {name: sum(row[name]["changes"] for row in rows) for name in who}
    cost = {name: sum(row[name]["meanCostPerHour"] for row in rows) / len(rows) for name in who}
    lines += [
        "",
        f"- Shoal's answer is cheaper in {cheaper} of {len(rows)} places, dearer in {dearer}.",
        f"- Changed answers over all places, of {sum(row['aibrix']['of'] for row in rows)}: AIBrix {total['aibrix']}; "
        f"Shoal {total['shoal']} when every answer is made anew, {total['shoalFollowing']} as it runs (with memory).",
        f"- Mean cost over all answers and places, $/h: AIBrix {cost['aibrix']:.3f}; Shoal {cost['shoal']:.3f} anew, "
        f"{cost['shoalFollowing']:.3f} as it runs.",
    ]
    return [*lines, ""]


def profile_table(bench: Bench) -> list[str]:
    """What the profiling runs measured of the engines."""
    lines = [
        "| engine | overloaded, requests/s | planned capacity C, requests/s | of each of several |",
        "|---|---:|---:|---:|",
    ]
    for name in bench.plan["engines"]:
        setting = bench.setting(name, "round_robin")
        table = bench.table(name)
        profile = make_profile(setting.engine, table)
        one, several = (pooled_capacity(setting, profile, replicas) for replicas in (1, 2))
        lines.append(f"| {name} | {table['overloadRate']:.2f} | {one:.2f} | {several:.2f} |")
    return [*lines, ""]


def commits(bench: Bench) -> list[str]:
    """The commits that results were made from."""
    found: set[str] = set()
    for path in sorted(Path(bench.results).glob("*.jsonl")):
        found |= {str(row.get("commit", "unknown")) for row in read_rows(path).values()}
    mixes = Path(bench.results) / "mixes.json"
    if mixes.exists():
        found.add(str(json.loads(mixes.read_text()).get("commit", "unknown")))
    return sorted(found)


def _beats_within(place: Place, name: str, budget: float) -> bool:
    runs = place.runs[name]
    seeds = sorted(runs.keys() & place.ours.keys())
    ours, theirs = ([_outcome(of[seed]) for seed in seeds] for of in (place.ours, runs))
    cost = math.fsum(o.gpu_hours for o in ours) * budget
    return math.fsum(t.gpu_hours for t in theirs) <= cost and math.fsum(t.attainment for t in theirs) > math.fsum(
        o.attainment for o in ours
    )


def _dominated_on(place: Place, name: str) -> list[int]:
    runs = place.runs[name]
    return [
        seed
        for seed in sorted(runs.keys() & place.ours.keys())
        if dominates(_outcome(runs[seed]), _outcome(place.ours[seed]))
    ]


def _outcome(row: Row) -> Outcome:
    return Outcome(float(row["attainment"]), float(row["gpuHours"]))


def _column(runs: Mapping[int, Row], name: str) -> dict[int, float]:
    return {seed: float(row[name]) for seed, row in runs.items()}


def _mean(runs: Mapping[int, Row], name: str) -> float:
    return math.fsum(float(row[name]) for row in runs.values()) / len(runs)


def _in_percent(mean: float, low: float, high: float) -> str:
    if math.isinf(low):
        return f"{100 * mean:+.2f} (one seed)"
    return f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) if names else "none"


def _mix(answer: Mapping[str, int]) -> str:
    return " + ".join(f"{number} {name}" for name, number in sorted(answer.items()))


def _order(name: str) -> tuple[int, str]:
    return (0 if name == "shoal" else 2 if name.startswith("static") else 1, name)
