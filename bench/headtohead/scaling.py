"""(a) Scaling policies over the plan's scenarios and seeds: what is to run, what each run is, results as they come."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.headtohead.engines import Engine
from bench.headtohead.judge import Outcome, pick_tuned
from bench.headtohead.policies import Direct, Schedule, make_law, run_dynamo, run_law_on_percentiles
from bench.headtohead.profiling import concurrency_at, read_or_measure
from bench.headtohead.shoal_policy import ShoalPolicy, first_replicas, make_profile, planned_capacity, pooled_capacity
from bench.headtohead.simulator import Run, Setting, simulate
from bench.headtohead.traffic import Lengths, Trace, make_shape, make_trace

Plan = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    scenario: str
    engine: str
    router: str
    seed: int
    policy: str
    variant: str = "default"  # default, tuned, or a number of replicas
    options: str = "{}"  # as JSON

    @property
    def key(self) -> str:
        """What tells it from every other one."""
        return "/".join((self.scenario, self.engine, self.router, str(self.seed), self.policy, self.variant))


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are."""

    plan: Plan
    results: Path
    cache: Path
    commit: str = "unknown"

    def engine(self, name: str) -> Engine:
        """An engine of the plan."""
        return make_engine(name, self.plan["engines"][name])

    def setting(self, engine: str, router: str, workers: int = 1) -> Setting:
        """What is the same for every policy."""
        objectives = self.plan["objectives"]
        return Setting(
            self.engine(engine),
            float(self.plan["startupSeconds"]),
            float(objectives["ttftMs"]),
            float(objectives["itlMs"]),
            workers,
            router,
        )

    def table(self, engine: str) -> dict[str, Any]:
        """The capacity table of an engine."""
        return read_or_measure(self.engine(engine), self.results, self.cache)


@dataclass(frozen=True, slots=True)
class Call:
    """One row of a result file that is to be made."""

    path: Path
    key: str
    bench: Bench
    job: Job | None = None
    constant: tuple[float, int] = (0.0, 0)  # share of a replica's capacity, seed; where there is no job

    def run(self) -> dict[str, Any]:
        """Make it."""
        return evaluate_constant(self.bench, *self.constant) if self.job is None else evaluate(self.bench, self.job)


def make_engine(name: str, spec: Mapping[str, Any]) -> Engine:
    """An engine as the plan writes it."""
    lengths = Lengths(float(spec["prompt"]), float(spec["answer"]))
    return Engine(name, int(spec["kvBlocks"]), lengths, spec.get("model"))


def trace_of(bench: Bench, job: Job) -> Trace:
    """The traffic of a job."""
    shape = make_shape(bench.plan["scenarios"][job.scenario]["shape"])
    return make_trace(shape, bench.engine(job.engine).lengths, job.seed)


def evaluate(bench: Bench, job: Job) -> dict[str, Any]:
    """Run a job."""
    run = _run(bench, job, trace_of(bench, job))
    return {"key": job.key, **_fields(job), **run.to_dict(), "commit": bench.commit}


def _run(bench: Bench, job: Job, trace: Trace) -> Run:
    options = json.loads(job.options)
    setting = bench.setting(job.engine, job.router)
    if job.policy == "static":
        fixed = bench.setting(job.engine, job.router, int(job.variant))
        return simulate(fixed, trace, Schedule(), bench.cache)
    if job.policy == "dynamo":
        return run_dynamo(setting, trace, options, bench.cache)
    table = bench.table(job.engine)
    profile = make_profile(setting.engine, table)
    if job.policy == "shoal":
        return simulate(setting, trace, ShoalPolicy(setting, profile), bench.cache)
    capacity = planned_capacity(setting, profile)
    law = make_law(job.policy, options, capacity, concurrency_at(table, capacity))
    if job.policy == "keda":
        return run_law_on_percentiles(setting, trace, law, bench.cache)
    return simulate(setting, trace, Direct(law()), bench.cache)


def evaluate_constant(bench: Bench, share: float, seed: int) -> dict[str, Any]:
    """Constant load, declared as it is; starts with what Shoal plans for it.

    `share`: in units of what Shoal plans each of the nearest number of replicas for, so that whole shares are where its
    answer changes.
    """
    spec = bench.plan["constant"]
    setting = bench.setting(spec["engine"], spec["router"])
    profile = make_profile(setting.engine, bench.table(spec["engine"]))
    rate = share * pooled_capacity(setting, profile, round(share))
    workers = first_replicas(setting, profile, rate)
    setting = bench.setting(spec["engine"], spec["router"], workers)
    shape = make_shape({"pieces": [[spec["seconds"], rate, rate]], "noise": spec["noise"]})
    trace = make_trace(shape, setting.engine.lengths, seed)
    run = simulate(setting, trace, ShoalPolicy(setting, profile, rate), bench.cache)
    return {
        "key": f"constant/{share}/{seed}",
        "share": share,
        "seed": seed,
        "start": workers,
        **run.to_dict(),
        "commit": bench.commit,
    }


def tuning_jobs(bench: Bench) -> Iterator[Job]:
    """Shoal and every grid point, on the tuning seeds."""
    for name, engine, router, seed in _places(bench.plan, bench.plan["tuning"]["seeds"]):
        if router != "round_robin" or name in bench.plan["tuning"]["reuse"]:
            continue
        yield Job(name, engine, router, seed, "shoal")
        for policy, spec in bench.plan["policies"].items():
            grid = grid_of(spec)
            for number, options in enumerate(grid if len(grid) > 1 else ()):
                yield Job(name, engine, router, seed, policy, f"grid{number}", json.dumps(options))


def grid_of(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All options of a policy's grid, its default first."""
    if "default" not in spec:
        return []
    grid = spec.get("grid", {})
    found = [spec["default"], *spec.get("list", ())]
    for values in itertools.product(*grid.values()) if grid else ():
        options = dict(zip(grid, values, strict=True))
        if options not in found:
            found.append(options)
    return found


def choose_tuned(bench: Bench, rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The best of each grid, by `scenario/engine/policy`."""
    grouped: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        place = f"{row['scenario']}/{row['engine']}"
        grouped.setdefault(place, {}).setdefault(row["policy"], []).append(row)
    chosen: dict[str, dict[str, Any]] = {}
    budget = float(bench.plan["tuning"]["budget"])
    for place, policies in grouped.items():
        ours = _outcome(policies["shoal"][0])
        for policy, found in policies.items():
            if policy == "shoal":
                continue
            best = pick_tuned([_outcome(row) for row in found], ours, budget)
            chosen[f"{place}/{policy}"] = dict(json.loads(found[best]["options"]))
    for place, options in list(chosen.items()):
        scenario, rest = place.split("/", 1)
        for later, earlier in bench.plan["tuning"]["reuse"].items():
            if earlier == scenario:
                chosen[f"{later}/{rest}"] = options
    return chosen


def evaluation_jobs(bench: Bench, tuned: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """Everything that is compared, in the order in which it matters."""
    jobs: list[Job] = []
    for name, scenario in bench.plan["scenarios"].items():
        for _, engine, router, seed in _places({"scenarios": {name: scenario}}, scenario["seeds"]):
            place = Job(name, engine, router, seed, "shoal")
            for policy, spec in bench.plan["policies"].items():
                jobs += _jobs_of(policy, spec, place, tuned)
    return sorted(jobs, key=_turn)


def fresh_jobs(bench: Bench, tuned: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """Shoal and the tuned peers on seeds that nobody looked at while the planner was made."""
    spec = bench.plan["fresh"]
    scenarios = {
        name: {**bench.plan["scenarios"][name], "routers": [spec["router"]], "seeds": spec["seeds"]}
        for name in spec["scenarios"]
    }
    jobs = evaluation_jobs(replace(bench, plan={**bench.plan, "scenarios": scenarios}), tuned)
    return [job for job in jobs if not _turn(job)[0]]


def _turn(job: Job) -> tuple[bool, int]:
    """Shoal and the tuned peers on every seed, then the rest: whoever stops early has what is claimed."""
    return job.policy != "shoal" and (job.variant == "default" or job.policy == "static"), job.seed


def _jobs_of(policy: str, spec: Mapping[str, Any], place: Job, tuned: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    where = (place.scenario, place.engine, place.router, place.seed)
    if place.router not in spec.get("routers", (place.router,)) or place.seed > _most_seeds(spec, place.scenario):
        return []
    if policy == "static":
        return [Job(*where, policy, str(number)) for number in spec["numbers"]]
    if policy == "shoal":
        return [Job(*where, policy)]
    jobs = [Job(*where, policy, "default", json.dumps(spec["default"]))]
    best = tuned.get(f"{place.scenario}/{place.engine}/{policy}")
    if best is not None and dict(best) != spec["default"]:
        jobs.append(Job(*where, policy, "tuned", json.dumps(best)))
    done = [json.loads(job.options) for job in jobs]
    jobs += [
        Job(*where, policy, name, json.dumps(options))
        for name, options in spec.get("more", {}).items()
        if options not in done
    ]
    return jobs


def _most_seeds(spec: Mapping[str, Any], scenario: str) -> int:
    return int(spec.get("limits", {}).get(scenario, 10**6))


def _places(plan: Plan, seeds: Sequence[int]) -> Iterator[tuple[str, str, str, int]]:
    for name, scenario in plan["scenarios"].items():
        for engine in scenario["engines"]:
            for router in scenario["routers"]:
                for seed in seeds:
                    yield name, engine, router, seed


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of a result file by their key. What a killed run wrote of its last row is cut off."""
    if not path.exists():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    rows = (json.loads(line) for line in whole.splitlines())
    return {row["key"]: row for row in rows}


def run_all(calls: Sequence[Call], processes: int, say: Callable[[str], None]) -> int:
    """Do what is not done yet, `processes` at a time and in this order, each result written as it comes.

    Returns how many failed: the others go on.
    """
    done = {path: read_rows(path) for path in {call.path for call in calls}}
    missing = [call for call in calls if call.key not in done[call.path]]
    say(f"{len(calls) - len(missing)} done, {len(missing)} to do")
    failed = 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, (call, row, error) in enumerate(pool.imap_unordered(perform, missing), start=1):
            if row is None:
                failed += 1
                say(f"{call.key} failed: {error}")
            else:
                append(call.path, row)
            if number % 20 == 0 or number == len(missing):
                say(f"{number} of {len(missing)}")
    return failed


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def perform(call: Call) -> tuple[Call, dict[str, Any] | None, str]:
    """In a process of its own: the row, or what went wrong."""
    try:
        return call, call.run(), ""
    except Exception:  # a peer's failure must not end the runs of others
        return call, None, traceback.format_exc()


def _outcome(row: Mapping[str, Any]) -> Outcome:
    return Outcome(float(row["attainment"]), float(row["gpuHours"]))


def _fields(job: Job) -> dict[str, Any]:
    return {
        "scenario": job.scenario,
        "engine": job.engine,
        "router": job.router,
        "seed": job.seed,
        "policy": job.policy,
        "variant": job.variant,
        "options": job.options,
    }
