"""vLLM's command line, as far as Shoal and its users give it. What vLLM would refuse is refused here too."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerArguments:
    """What the command line said. None: left out, so the engine chooses."""

    model: str
    served_names: tuple[str, ...]
    host: str | None
    port: int
    tensor_parallel: int
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    kv_cache_memory_bytes: float | None
    shutdown_timeout: float
    api_servers: int
    block_size: int


_IGNORED_VALUES = (
    "--revision", "--tokenizer", "--dtype", "--seed", "--quantization", "--kv-cache-dtype", "--tool-call-parser",
    "--reasoning-parser", "--uvicorn-log-level", "--generation-config", "--stream-interval", "--load-format",
    "--download-dir", "--swap-space", "--cpu-offload-gb", "--max-logprobs",
)  # fmt: skip
_IGNORED_SWITCHES = (
    "--enforce-eager", "--disable-log-stats", "--disable-log-requests", "--disable-uvicorn-access-log",
    "--enable-auto-tool-choice", "--async-scheduling",
)  # fmt: skip
_IGNORED_FLAGS = ("--enable-prefix-caching", "--enable-chunked-prefill", "--enable-log-requests")


def parse_arguments(arguments: Sequence[str]) -> ServerArguments:
    """Read `serve MODEL ...` or `--model MODEL ...`.

    Exits with status 2 and a message where vLLM would.
    """
    parser = _make_parser()
    words = [_dashes(word) for word in arguments]
    positional = None
    if words[:1] == ["serve"]:
        words = words[1:]
        if words and not words[0].startswith("-"):
            positional, words = words[0], words[1:]
    given = parser.parse_args(words)
    model = positional or given.model
    if not model:
        parser.error("the following arguments are required: --model")
    if given.max_num_seqs is not None and given.max_num_batched_tokens is not None:
        _check_batch(parser, given.max_num_seqs, given.max_num_batched_tokens)
    return ServerArguments(
        model=model,
        served_names=tuple(given.served_model_name or [model]),
        host=given.host,
        port=given.port,
        tensor_parallel=given.tensor_parallel_size,
        max_model_len=given.max_model_len,
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        kv_cache_memory_bytes=given.kv_cache_memory_bytes,
        shutdown_timeout=given.shutdown_timeout,
        api_servers=given.api_server_count,
        block_size=given.block_size,
    )


def _dashes(word: str) -> str:
    """vLLM takes `--max_model_len` for `--max-model-len`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm serve (simulated)", allow_abbrev=False)
    add = parser.add_argument
    add("--model", default=None)
    add("--served-model-name", nargs="+", default=None)
    add("--host", default=None)
    add("--port", type=int, default=8000)
    add("--tensor-parallel-size", "-tp", type=_at_least_one, default=1)
    add("--max-model-len", type=_at_least_one, default=None)
    add("--max-num-seqs", type=_at_least_one, default=None)
    add("--max-num-batched-tokens", type=_at_least_one, default=None)
    add("--gpu-memory-utilization", type=_share, default=0.9)
    add("--kv-cache-memory-bytes", type=_at_least_one, default=None)
    add("--shutdown-timeout", type=float, default=0.0)
    add("--api-server-count", "-asc", type=_at_least_one, default=1)
    add("--block-size", type=_at_least_one, default=16)
    for name in _IGNORED_VALUES:
        add(name)
    for name in _IGNORED_SWITCHES:
        add(name, action="store_true")
    for name in _IGNORED_FLAGS:
        add(name, action=argparse.BooleanOptionalAction)
    return parser


def _check_batch(parser: argparse.ArgumentParser, seqs: int, tokens: int) -> None:
    if tokens < seqs:
        parser.error(f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs ({seqs}).")


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value
