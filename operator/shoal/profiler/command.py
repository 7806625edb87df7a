"""The command line of the profiler: `shoal profile` and `python -m shoal.profiler`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.domain.profile import Link
from shoal.profiler.campaign import Campaign
from shoal.profiler.clients import Clients, usual_processes
from shoal.profiler.errors import ProfilerError
from shoal.profiler.journal import Journal
from shoal.profiler.lengths import parse_lengths
from shoal.profiler.measure import Target, measure
from shoal.profiler.measured import Measured, Shape, Subject, with_kv_tokens
from shoal.profiler.plan import Plan, load_plan, parse_bytes, parse_cpus
from shoal.profiler.profiles import write_profile
from shoal.profiler.progress import reporting
from shoal.profiler.server import read_facts
from shoal.profiler.specs import Settings, parse_objective
from shoal.profiler.tool_commands import add_tools

INCOMPLETE = 3  # exit status: results were written, but not everything was measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options, and the commands for what was measured."""
    what = parser.add_mutually_exclusive_group()
    add = what.add_argument
    add("--url", action="append", metavar="URL", help="a running server; again for more that share the load")
    add("--launch", metavar="MODEL", help="start vLLM itself for this model, one configuration after the other")
    add("--plan", type=Path, metavar="FILE", help="start what a file lists (see docs/profiling.md)")
    parser.add_argument("-o", "--output", type=Path, help="the profile to write; with --launch or --plan a directory")
    _add_what(parser)
    _add_effort(parser)
    _add_launch(parser)
    parser.set_defaults(run=run)
    add_tools(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is measured").add_argument
    add("--model", metavar="NAME", help="the name that requests send (default: what the server serves)")
    add(
        "--profile-model",
        metavar="NAME",
        help="the model's name in the profile, as in a ModelService (default: --model)",
    )
    add(
        "--slo",
        default="",
        metavar="ttft=MS,itl=MS,p=PERCENT",
        help="the knee is where this ends (default: throughput)",
    )
    add(
        "--lengths",
        default="gamma:512,128",
        help="lognormal:512,128 | gamma:... | fixed:... | FILE (default gamma:512,128)",
    )
    add("--longest", type=int, default=2048, help="most tokens of prompt and answer (2048, or the server's limit)")
    add("--max-num-seqs", default="256", help="what the server was started with; with --launch a list (256)")
    add(
        "--max-num-batched-tokens", default="2048", help="what the server was started with; with --launch a list (2048)"
    )
    add("--tp", default="1", help="GPUs per engine; with --launch a list (1)")
    add("--engines-per-gpu", default=None, help="engines on a GPU; with --launch a list (default: one per --url)")
    add("--kv-tokens", type=float, help="tokens of KV cache of one engine, where the server does not tell")
    add("--accelerator", help="GPU type in the profile (default: as NVML names it)")
    add("--engine-version", help="engine version in the profile (default: as the server tells)")
    add("--parameters", type=float, help="parameters of the model, where its name does not tell its size")
    add("--link", choices=list(Link), default="None", help="how the GPUs talk to each other (None)")
    add("--gpus", type=_cpus, help="indices of the GPUs to watch, or to use with --launch")


def _add_effort(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("effort").add_argument
    add("--budget", type=float, default=10.0, metavar="MINUTES", help="per configuration (10)")
    add("--deadline", type=float, metavar="MINUTES", help="end everything after so long; the same command continues")
    add("--horizon", type=float, default=60.0, help="seconds that count of each point (60)")
    add("--warm-up", type=float, default=10.0, help="seconds before them (10)")
    add("--probe", type=float, default=10.0, help="seconds of a closed loop (10)")
    add("--tolerance", type=float, default=0.08, help="width of the bracket around the knee (0.08)")
    add("--repeats", type=int, default=2, help="seeds that the ends of the bracket are measured with (2)")
    add("--seed", type=int, default=1)
    add("--no-probes", action="store_true", help="leave out the prefill-heavy and decode-heavy probe")
    add("--burst", action="store_true", help="also 1,000 requests of 512 tokens at once")
    add("--clients", type=int, help="client processes (default: a third of the CPUs, at most 6)")
    add("--client-cpus", type=_cpus, default=[], help="CPUs the clients are pinned to, as 8-15")
    add(
        "--most-lag",
        type=float,
        default=5.0,
        metavar="MS",
        help="p99 of the send lag above which a point is invalid (5)",
    )


def _add_launch(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("with --launch").add_argument
    add("--path", help="where the model lies, if not under its name")
    add("--kv", default=None, metavar="BYTES", help="KV cache of one engine; a list, as 8GiB,24GiB")
    add("--mps", choices=("no", "yes", "both"), default="no", help="several engines on a GPU with MPS (no)")
    add("--server-cpus", type=_cpus, default=[], help="CPUs the servers are pinned to, as 0-7")
    add("--engine-args", default="", help="further arguments of the engine, in one string")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="environment of the engine; again for more")
    add("--start-seconds", type=float, default=300.0, help="how long a start may take (300)")


def run(args: argparse.Namespace) -> int:
    """Measure. Status 0: complete; 1: nothing could be measured; 3: partial results were written."""
    signal.signal(signal.SIGTERM, _interrupt)  # engines are ended as after Ctrl-C
    try:
        if not (args.url or args.launch or args.plan) or args.output is None:
            raise ProfilerError("give -o and one of --url, --launch, --plan; or report, merge, diff (see --help)")
        if args.url:
            return _run_url(args)
        plan = load_plan(args.plan) if args.plan else _make_plan(args)
        deadline = time.monotonic() + args.deadline * 60 if args.deadline else 0.0
        complete = Campaign(plan, args.output, _say, _command(), deadline).run()
    except ProfilerError as error:
        print(f"shoal profile: {error}", file=sys.stderr)
        return 1
    return 0 if complete else INCOMPLETE


def _run_url(args: argparse.Namespace) -> int:
    urls = tuple(url.rstrip("/").removesuffix("/v1") for url in args.url)
    facts = read_facts(urls[0], args.model)
    for url in urls[1:]:
        read_facts(url, facts.model)
    shape = Shape(
        tensor_parallel=_number(args.tp, "--tp"),
        engines_per_gpu=_number(args.engines_per_gpu or str(len(urls)), "--engines-per-gpu"),
        max_num_seqs=_number(args.max_num_seqs, "--max-num-seqs"),
        max_num_batched_tokens=_number(args.max_num_batched_tokens, "--max-num-batched-tokens"),
    )
    shape = with_kv_tokens(shape, facts.kv_cache_tokens, args.kv_tokens)
    settings = _settings(args, shape, engines=len(urls), longest=min(args.longest, facts.max_model_len or args.longest))
    journal = Journal(args.output.with_suffix(".jsonl"), settings.key)
    journal.note(
        version=facts.version,
        simulated=facts.simulated,
        kvCacheTokens=shape.kv_cache_tokens,
        kvGiven=args.kv_tokens is not None,
        model=facts.model,
    )
    deadline = time.monotonic() + args.deadline * 60 if args.deadline else 0.0
    problem, complete = "", False
    try:
        with Clients(args.clients or usual_processes(args.client_cpus), args.client_cpus) as clients:
            target = Target(urls, facts.model, tuple(args.gpus) if args.gpus else None)
            with reporting(settings, [point.spec.name for point in journal.points], facts.model) as report:
                complete = measure(target, settings, journal, clients, report, deadline=deadline)
    except ProfilerError as error:
        problem = str(error)
        journal.note(stopped=problem)
    return _conclude(args, Measured(shape, settings, tuple(journal.points), complete, journal.facts), problem)


def _conclude(args: argparse.Namespace, measured: Measured, problem: str) -> int:
    facts = measured.facts
    gpu_name = (facts.get("gpu") or {}).get("name") or ""
    subject = Subject(
        model=args.profile_model or facts["model"],
        accelerator=args.accelerator or gpu_name.replace(" ", "-") or "unknown",
        engine_version=args.engine_version or facts.get("version") or "unknown",
        link=Link(args.link),
        simulated=bool(facts.get("simulated")),
        parameters=args.parameters,
    )
    written = write_profile(args.output, subject, [measured], _command()) if measured.points else None
    bracket = measured.bracket
    if bracket is not None and bracket.knee is not None:
        print(
            f"knee {bracket.knee:.4g} requests/s (between {bracket.low:.4g} and {bracket.high:.4g}); saturated "
            f"{measured.saturation or 0:.4g}/s"
        )
    elif bracket is not None:
        print(f"the objective is out of reach: {bracket.high:.4g} requests/s are already too much")
    if written is not None:
        print(f"{args.output} written; every point stands in {args.output.with_suffix('.jsonl')}")
    elif measured.points:
        print(f"no profile yet: {len(measured.points)} points stand in {args.output.with_suffix('.jsonl')}")
    if problem:
        print(f"shoal profile: {problem}", file=sys.stderr)
        return INCOMPLETE if written is not None else 1
    if not measured.complete:
        print(
            f"shoal profile: {facts.get('stopped')}; the same command with a larger --budget continues", file=sys.stderr
        )
        return INCOMPLETE if written is not None else 1
    return 0


def _settings(args: argparse.Namespace, shape: Shape, *, engines: int, longest: int) -> Settings:
    parse_lengths(args.lengths)
    return Settings(
        lengths=args.lengths,
        objective=parse_objective(args.slo),
        batch=shape.max_num_seqs,
        chunk=shape.max_num_batched_tokens,
        engines=engines,
        longest=longest,
        horizon=args.horizon,
        warm_up=args.warm_up,
        probe_seconds=args.probe,
        budget_seconds=args.budget * 60,
        tolerance=args.tolerance,
        seed=args.seed,
        repeats=args.repeats,
        probes=not args.no_probes,
        burst=args.burst,
        most_lag_ms=args.most_lag,
        kv_cache_tokens=shape.kv_cache_tokens,
    )


def _make_plan(args: argparse.Namespace) -> Plan:
    """The plan that the options of --launch describe."""
    gpus = args.gpus or [0]
    configuration = {
        "tp": _numbers(args.tp, "--tp"),
        "engines": _numbers(args.engines_per_gpu or "1", "--engines-per-gpu"),
        "mps": {"no": [False], "yes": [True], "both": [False, True]}[args.mps],
        "max_num_seqs": _numbers(args.max_num_seqs, "--max-num-seqs"),
        "max_num_batched_tokens": _numbers(args.max_num_batched_tokens, "--max-num-batched-tokens"),
        "kv": [parse_bytes(part) for part in args.kv.split(",")] if args.kv else [None],
    }
    engine: dict[str, Any] = {"env": dict(part.split("=", 1) for part in args.env), "start_seconds": args.start_seconds}
    if args.engine_args:
        engine["args"] = shlex.split(args.engine_args)
    return Plan.model_validate(
        {
            "models": [
                {
                    "name": args.launch,
                    "path": args.path,
                    "parameters": args.parameters,
                    "configurations": [configuration],
                }
            ],
            "lanes": [
                {
                    "gpus": gpus,
                    "server_cpus": args.server_cpus,
                    "client_cpus": args.client_cpus,
                    "clients": args.clients,
                }
            ],
            "engine": engine,
            "lengths": args.lengths,
            "slo": args.slo,
            "longest": args.longest,
            "horizon": args.horizon,
            "warm_up": args.warm_up,
            "probe": args.probe,
            "budget": args.budget,
            "tolerance": args.tolerance,
            "repeats": args.repeats,
            "seed": args.seed,
            "probes": not args.no_probes,
            "burst": args.burst,
            "accelerator": args.accelerator,
            "engine_version": args.engine_version,
            "link": args.link,
        }
    )


def _numbers(text: str, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ProfilerError(f"{name} {text!r}: give whole numbers, as in 64,256") from None


def _number(text: str, name: str) -> int:
    numbers = _numbers(text, name)
    if len(numbers) != 1:
        raise ProfilerError(f"{name} {text!r}: a running server has one value; lists are for --launch")
    return numbers[0]


def _cpus(text: str) -> list[int]:
    try:
        return list(parse_cpus(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _command() -> str:
    return shlex.join(["shoal", "profile", *[word for word in sys.argv[1:] if word != "profile"]])


def make_parser(factory: Callable[..., argparse.ArgumentParser] = argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser of `python -m shoal.profiler`."""
    parser = factory(prog="python -m shoal.profiler", description=__doc__)
    add_arguments(parser)
    return parser


def main() -> int:
    """Run a command line."""
    args = make_parser().parse_args()
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
