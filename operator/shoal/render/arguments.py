"""The arguments of an engine: vLLM's own, exactly as docs/architecture.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.api import defaults
from shoal.render.names import engine_port
from shoal.render.recipe import Recipe, revision, served_name, source_kind
from shoal.render.storage import model_path

NO_PARSER = "none"


def make_arguments(recipe: Recipe, index: int) -> list[str]:
    """Arguments of engine `index` of a pod. What the owner wrote can only be a value here, never a flag of its own."""
    return [*_model(recipe), *_server(recipe, index), *_limits(recipe), *_parsers(recipe), *_extra(recipe)]


def _model(recipe: Recipe) -> Iterator[str]:
    yield from ("--model", model_path(recipe.service))
    yield from ("--served-model-name", served_name(recipe.service))
    if source_kind(recipe.service) == "HuggingFace":
        yield from ("--revision", revision(recipe.service))


def _server(recipe: Recipe, index: int) -> Iterator[str]:
    yield from ("--host", "$(POD_IP)", "--port", str(engine_port(index)))
    yield from ("--shutdown-timeout", str(recipe.engine.spec.shutdown_seconds or defaults.SHUTDOWN_SECONDS))
    servers = max(recipe.configuration.api_servers, recipe.engine.spec.api_server_count or defaults.API_SERVER_COUNT)
    if servers > 1:
        yield from ("--api-server-count", str(servers))


def _limits(recipe: Recipe) -> Iterator[str]:
    configuration, memory = recipe.configuration, recipe.memory
    yield from ("--tensor-parallel-size", str(configuration.tensor_parallel))
    yield from ("--max-model-len", str(recipe.max_context_tokens))
    yield from ("--max-num-seqs", str(configuration.max_num_seqs))
    yield from ("--max-num-batched-tokens", str(configuration.max_num_batched_tokens))
    yield from ("--gpu-memory-utilization", f"{memory.utilization_percent / 100:.2f}")
    if memory.kv_cache_bytes is not None:
        yield from ("--kv-cache-memory-bytes", str(memory.kv_cache_bytes))


def _parsers(recipe: Recipe) -> Iterator[str]:
    choice = recipe.service.spec.engine
    if choice is None:
        return
    if choice.tool_call_parser not in (None, NO_PARSER):
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", str(choice.tool_call_parser))
    if choice.reasoning_parser not in (None, NO_PARSER):
        yield from ("--reasoning-parser", str(choice.reasoning_parser))


def _extra(recipe: Recipe) -> Iterator[str]:
    yield from recipe.engine.spec.extra_args or ()
