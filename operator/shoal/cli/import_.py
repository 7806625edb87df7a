"""`shoal import`: profiles from measurements and estimates that others published."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from shoal.domain.profile import Link
from shoal.profiler.errors import ProfilerError
from shoal.profiler.imports import ImportOptions, import_aiconfigurator, import_vllm_bench
from shoal.profiler.profiles import write_manifest
from shoal.sim.mem_gap import import_runs


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("import", help="make ModelProfiles from what others measured", description=__doc__)
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    mem_gap = formats.add_parser("mem-gap", help='runs of "Mind the Memory Gap" (arXiv:2503.08311) as JSON')
    mem_gap.add_argument("file", type=Path, metavar="FILE", help="the runs")
    mem_gap.add_argument("-d", "--directory", type=Path, default=Path(), help="where to write (here)")
    mem_gap.set_defaults(run=_guarded(lambda args: [*import_runs(args.file, args.directory)]))
    bench = formats.add_parser("vllm-bench", help="results of vllm bench serve --save-result, of one server")
    bench.add_argument("files", type=Path, nargs="+", metavar="FILE", help="one for each rate")
    bench.set_defaults(run=_guarded(_vllm_bench))
    aiconfigurator = formats.add_parser("aiconfigurator", help="a CSV of AIConfigurator; labelled Estimated")
    aiconfigurator.add_argument("file", type=Path, metavar="FILE", help="pareto.csv or best_config_topn.csv")
    aiconfigurator.set_defaults(run=_guarded(_aiconfigurator))
    for one in (bench, aiconfigurator):
        _add_options(one)
    for one in (mem_gap, bench, aiconfigurator):
        one.add_argument("-o", "--output", choices=("text", "json"), default="text")


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", type=Path, required=True, metavar="PROFILE", help="the file to write")
    add("--model", help="the model's name, as in a ModelService (default: as the file has it)")
    add("--accelerator", help="GPU type, as in a GPUPool")
    add("--engine-version", help="version of the engine")
    add("--tp", type=int, default=1, help="GPUs of the server (1)")
    add("--max-num-seqs", type=int, default=256, help="what the server was started with (256)")
    add("--max-num-batched-tokens", type=int, default=2048, help="what the server was started with (2048)")
    add("--kv-tokens", type=float, help="tokens of KV cache, as the engine reports (default: computed)")
    add("--parameters", type=float, help="parameters of the model, where its name does not tell its size")
    add("--link", choices=list(Link), default="None", help="how the GPUs talk to each other (None)")


def _options(args: argparse.Namespace) -> ImportOptions:
    return ImportOptions(
        model=args.model,
        accelerator=args.accelerator,
        engine_version=args.engine_version,
        tensor_parallel=args.tp,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        kv_tokens=args.kv_tokens,
        parameters=args.parameters,
        link=Link(args.link),
    )


def _vllm_bench(args: argparse.Namespace) -> list[Path]:
    write_manifest(args.to, import_vllm_bench(args.files, _options(args)), "Made by shoal import vllm-bench")
    return [args.to]


def _aiconfigurator(args: argparse.Namespace) -> list[Path]:
    write_manifest(args.to, import_aiconfigurator(args.file, _options(args)), "Made by shoal import aiconfigurator")
    return [args.to]


def _guarded(write: Callable[[argparse.Namespace], list[Path]]) -> Callable[[argparse.Namespace], int]:
    """Write the files and name them. Status 1: the input cannot be used."""

    def run(args: argparse.Namespace) -> int:
        try:
            names = [str(path) for path in write(args)]
        except (OSError, ValueError, ProfilerError) as error:
            print(f"shoal import: {error}", file=sys.stderr)
            return 1
        print(json.dumps({"written": names}) if args.output == "json" else "\n".join(names))
        return 0

    return run
