"""What a running server says of itself: names, versions, the size of its KV cache, its queue."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shoal.profiler.errors import ProfilerError
from shoal.telemetry.engine_page import parse_engine_page
from shoal.telemetry.scan import scan

SAMPLE_SECONDS: Final = 0.5
_TIMEOUT: Final = 5.0
_PREEMPTIONS: Final = b"vllm:num_preemptions_total"
_TOKENS: Final = b"vllm:generation_tokens_total"
_PROMPTS: Final = b"vllm:prompt_tokens_total"
_STEPS: Final = b"vllm:iteration_tokens_total_count"
_LABEL: Final = re.compile(rb'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one server says before it is measured. None: it does not say."""

    model: str
    max_model_len: int | None
    version: str | None
    simulated: bool
    kv_cache_tokens: float | None
    kv_cache_bytes: float | None


@dataclass(frozen=True, slots=True)
class EngineSample:
    """The engines' own numbers at one instant (time.monotonic), summed over engines; `kv_usage` is their largest."""

    at: float
    running: float
    waiting: float
    kv_usage: float
    preemptions: float
    steps: float
    tokens: float
    prompts: float


def read_facts(url: str, model: str | None) -> ServerFacts:
    """Ask a server who it is. Raises ProfilerError, which says what is wrong with the address or the name."""
    models = _get_json(url, "/v1/models")
    names = [item.get("id") for item in models.get("data", []) if isinstance(item, dict)]
    if not names:
        raise ProfilerError(f"{url}/v1/models lists no model: is this an OpenAI-compatible server?")
    if model is not None and model not in names:
        raise ProfilerError(f"{url} serves {', '.join(map(str, names))}, not {model}: use --model {names[0]}")
    chosen = next(item for item in models["data"] if item.get("id") == (model or names[0]))
    version = _optional_json(url, "/version")
    cache = _cache_labels(get(url, "/metrics", optional=True) or b"")
    return ServerFacts(
        model=str(chosen["id"]),
        max_model_len=chosen.get("max_model_len"),
        version=version.get("version"),
        simulated=bool(version.get("simulated")),
        kv_cache_tokens=_cache_tokens(cache),
        kv_cache_bytes=_number(cache.get("kv_cache_memory_bytes")),
    )


def get(url: str, path: str, *, optional: bool = False) -> bytes | None:
    """The body of one page. Raises ProfilerError; None where `optional`."""
    try:
        with urllib.request.urlopen(f"{url}{path}", timeout=_TIMEOUT) as answer:
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:
        if optional:
            return None
        raise ProfilerError(f"{url}{path} answers HTTP {error.code}: is this an OpenAI-compatible server?") from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        if optional:
            return None
        reason = getattr(error, "reason", error)
        raise ProfilerError(f"{url} cannot be reached ({reason}): is the server up, and the address right?") from error


def _get_json(url: str, path: str) -> dict[str, Any]:
    try:
        found = json.loads(get(url, path) or b"")
    except ValueError as error:
        raise ProfilerError(f"{url}{path} is not JSON: is this an OpenAI-compatible server?") from error
    return found if isinstance(found, dict) else {}


def _optional_json(url: str, path: str) -> dict[str, Any]:
    try:
        found = json.loads(get(url, path, optional=True) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _cache_labels(page: bytes) -> dict[str, str]:
    line = next((line for line in page.split(b"\n") if line.startswith(b"vllm:cache_config_info{")), b"")
    return {key.decode(): value.decode() for key, value in _LABEL.findall(line)}


def _cache_tokens(labels: dict[str, str]) -> float | None:
    told = _number(labels.get("kv_cache_size_tokens"))
    blocks, size = _number(labels.get("num_gpu_blocks")), _number(labels.get("block_size"))
    return told or (blocks * size if blocks and size else None)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def read_sample(urls: Sequence[str]) -> EngineSample | None:
    """The engines' numbers now; None when one of them does not tell."""
    pages = [get(url, "/metrics", optional=True) for url in urls]
    if any(page is None for page in pages):
        return None
    read = [parse_engine_page(page) for page in pages if page is not None]
    if any(page.running is None or page.waiting is None for page in read):
        return None
    counters = {_PREEMPTIONS: 0.0, _STEPS: 0.0, _TOKENS: 0.0, _PROMPTS: 0.0}
    for page in pages:
        for name, _, value in scan(page or b"", counters):
            counters[name] += value or 0.0
    return EngineSample(
        at=time.monotonic(),
        running=sum(page.running or 0.0 for page in read),
        waiting=sum(page.waiting or 0.0 for page in read),
        kv_usage=max(page.kv_usage or 0.0 for page in read),
        preemptions=counters[_PREEMPTIONS],
        steps=counters[_STEPS],
        tokens=counters[_TOKENS],
        prompts=counters[_PROMPTS],
    )


class EngineSampler:
    """Reads /metrics of the engines twice a second in a thread. Use as a context manager."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[EngineSample] = []

    def __enter__(self) -> EngineSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, since: float, until: float) -> list[EngineSample]:
        """The samples of a window (time.monotonic)."""
        return [sample for sample in list(self.samples) if since <= sample.at <= until]

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            sample = read_sample(self._urls)
            if sample is not None:
                self.samples.append(sample)


def wait_until_idle(urls: Sequence[str], limit: float = 60.0) -> None:
    """Until no engine has a request; returns at the limit, or at once where engines do not tell."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        sample = read_sample(urls)
        if sample is None or sample.running + sample.waiting == 0:
            return
        time.sleep(0.2)
