"""What vLLM counts, under its names and with its bucket edges (vllm/v1/metrics/loggers.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from shoal.sim.batch import Sequence
from shoal.sim.engine import Engine, EngineLimits, Report
from shoal.sim.exposition import Histogram, Page

FIRST_TOKEN_EDGES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
GAP_EDGES = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_EDGES = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
STEP_TOKEN_EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
FINISH_REASONS = ("stop", "length", "abort")


def length_edges(longest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, ... up to `longest`."""
    powers = range(math.ceil(math.log10(longest + 1)))
    return tuple(edge for power in powers for edge in (10**power, 2 * 10**power, 5 * 10**power) if edge <= longest)


class EngineMetrics:
    """Counters and histograms of one engine."""

    def __init__(self, *, model_name: str, max_model_len: int, created_at: float) -> None:
        self._labels = {"model_name": model_name, "engine": "0"}
        self._created_at = created_at
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._finished = dict.fromkeys(FINISH_REASONS, 0)
        self._first_token = Histogram(FIRST_TOKEN_EDGES)
        self._gap = Histogram(GAP_EDGES)
        self._mean_gap = Histogram(GAP_EDGES)
        self._step_tokens = Histogram(STEP_TOKEN_EDGES)
        self._latency = {name: Histogram(REQUEST_EDGES) for name in ("e2e", "queue", "inference", "prefill", "decode")}
        self._lengths = {name: Histogram(length_edges(max_model_len)) for name in ("prompt", "generation", "limit")}

    def record(self, report: Report) -> None:
        """Count what a stride did."""
        self._prompt_tokens += report.prompt_tokens
        self._output_tokens += report.output_tokens
        self._step_tokens.observe((report.prompt_tokens + report.output_tokens) / report.steps, report.steps)
        for gap, times in report.gaps:
            self._gap.observe(gap, times)
        for sequence in report.started:
            assert sequence.first_token_at is not None
            self._first_token.observe(sequence.first_token_at - sequence.arrived_at)

    def record_end(self, sequence: Sequence, *, reason: str, max_tokens: int) -> None:
        """Count a request that ended: `stop`, `length` or `abort`."""
        self._finished[reason] += 1
        ended, scheduled, first = sequence.finished_at, sequence.scheduled_at, sequence.first_token_at
        assert ended is not None
        self._latency["e2e"].observe(ended - sequence.arrived_at)
        self._latency["queue"].observe((ended if scheduled is None else scheduled) - sequence.arrived_at)
        self._lengths["prompt"].observe(sequence.prompt_tokens)
        self._lengths["generation"].observe(sequence.generated)
        self._lengths["limit"].observe(max_tokens)
        if scheduled is None or first is None:
            return
        self._latency["inference"].observe(ended - scheduled)
        self._latency["prefill"].observe(first - scheduled)
        self._latency["decode"].observe(ended - first)
        if sequence.generated > 1:
            self._mean_gap.observe((ended - first) / (sequence.generated - 1))

    def render(self, engine: Engine, now: float, *, broken: bool = False) -> str:
        """The page. `broken`: gauges are NaN, as exporters show that lost their source."""
        page = Page(self._created_at)
        self._render_gauges(page, engine, now, math.nan if broken else 1.0)
        self._render_counters(page, engine, now)
        self._render_histograms(page)
        return page.text()

    def _render_gauges(self, page: Page, engine: Engine, now: float, factor: float) -> None:
        for name, about, value in (
            ("num_requests_running", "Number of requests in model execution batches.", len(engine.running)),
            ("num_requests_waiting", "Number of requests waiting to be processed.", len(engine.waiting)),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", engine.kv_usage_at(now)),
        ):
            page.gauge(f"vllm:{name}", about, [(self._labels, value * factor)])
        page.gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            [(cache_labels(engine.limits), 1.0)],
        )

    def _render_counters(self, page: Page, engine: Engine, now: float) -> None:
        generated = self._output_tokens + engine.output_tokens_in_flight(now)
        for name, about, value in (
            ("num_preemptions", "Cumulative number of preemption from the engine.", engine.preemptions),
            ("prompt_tokens", "Number of prefill tokens processed.", self._prompt_tokens),
            ("generation_tokens", "Number of generation tokens processed.", generated),
        ):
            page.counter(f"vllm:{name}", about, [(self._labels, value)])
        page.counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            [({**self._labels, "finished_reason": reason}, count) for reason, count in self._finished.items()],
        )

    def _render_histograms(self, page: Page) -> None:
        for name, about, histogram in (
            ("request_prompt_tokens", "Number of prefill tokens processed.", self._lengths["prompt"]),
            ("request_generation_tokens", "Number of generation tokens processed.", self._lengths["generation"]),
            ("iteration_tokens_total", "Histogram of number of tokens per engine_step.", self._step_tokens),
            (
                "request_params_max_tokens",
                "Histogram of the max_tokens request parameter.",
                self._lengths["limit"],
            ),
            ("time_to_first_token_seconds", "Histogram of time to first token in seconds.", self._first_token),
            ("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", self._gap),
            (
                "request_time_per_output_token_seconds",
                "Histogram of time_per_output_token_seconds per request.",
                self._mean_gap,
            ),
            ("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", self._latency["e2e"]),
            (
                "request_queue_time_seconds",
                "Histogram of time spent in WAITING phase for request.",
                self._latency["queue"],
            ),
            (
                "request_inference_time_seconds",
                "Histogram of time spent in RUNNING phase for request.",
                self._latency["inference"],
            ),
            (
                "request_prefill_time_seconds",
                "Histogram of time spent in PREFILL phase for request.",
                self._latency["prefill"],
            ),
            (
                "request_decode_time_seconds",
                "Histogram of time spent in DECODE phase for request.",
                self._latency["decode"],
            ),
        ):
            page.histogram(f"vllm:{name}", about, self._labels, histogram)


def cache_labels(limits: EngineLimits) -> Mapping[str, str]:
    """Labels of `vllm:cache_config_info`, those that say how large the KV cache is."""
    return {
        "block_size": str(limits.block_size),
        "cache_dtype": "auto",
        "enable_prefix_caching": "False",
        "engine": "0",
        "num_gpu_blocks": str(limits.kv_blocks),
    }
