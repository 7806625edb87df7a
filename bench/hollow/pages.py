"""What engines, routers and GPU agents answer: pages of the real ones' shape and size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shoal.sim.engine_metrics import FIRST_TOKEN_EDGES, GAP_EDGES, REQUEST_EDGES, STEP_TOKEN_EDGES, length_edges
from shoal.sim.exposition import Histogram, Page

_LONGEST = 8192


@dataclass(frozen=True, slots=True)
class Requests:
    """What all requests are like: tokens in and out, seconds to the first token and between two."""

    input_tokens: int = 200
    output_tokens: int = 100
    ttft: float = 0.06
    gap: float = 0.012

    @property
    def seconds(self) -> float:
        """From arrival to the last token."""
        return self.ttft + self.gap * (self.output_tokens - 1)


def make_engine_page(model: str, finished: int, rate: float, requests: Requests, created_at: float) -> str:
    """vLLM's /metrics of an engine that has finished so many requests and serves `rate` per second."""
    labels = {"model_name": model, "engine": "0"}
    page = Page(created_at)
    running = round(rate * requests.seconds)  # Little's law
    for name, value in (("num_requests_running", running), ("num_requests_waiting", 0), ("kv_cache_usage_perc", 0.2)):
        page.gauge(f"vllm:{name}", name, [(labels, value)])
    page.gauge("vllm:cache_config_info", "Cache", [({**labels, "block_size": "16", "num_gpu_blocks": "30000"}, 1.0)])
    for name, value in (
        ("num_preemptions", 0),
        ("prompt_tokens", finished * requests.input_tokens),
        ("generation_tokens", finished * requests.output_tokens),
    ):
        page.counter(f"vllm:{name}", name, [(labels, value)])
    reasons = (("stop", finished), ("length", 0), ("abort", 0))
    page.counter("vllm:request_success", "Finished", [({**labels, "finished_reason": r}, n) for r, n in reasons])
    for name, edges, mean, times in _histograms(finished, requests):
        page.histogram(f"vllm:{name}", name, labels, _make_histogram(edges, mean, times))
    return page.text()


def _histograms(finished: int, requests: Requests) -> Iterable[tuple[str, Sequence[float], float, int]]:
    """Name, edges, mean and number of observations of each histogram."""
    lengths = length_edges(_LONGEST)
    decode = requests.gap * (requests.output_tokens - 1)
    yield "request_prompt_tokens", lengths, requests.input_tokens, finished
    yield "request_generation_tokens", lengths, requests.output_tokens, finished
    yield "request_params_max_tokens", lengths, requests.output_tokens, finished
    yield "iteration_tokens_total", STEP_TOKEN_EDGES, 64, finished * requests.output_tokens
    yield "time_to_first_token_seconds", FIRST_TOKEN_EDGES, requests.ttft, finished
    yield "inter_token_latency_seconds", GAP_EDGES, requests.gap, finished * (requests.output_tokens - 1)
    yield "request_time_per_output_token_seconds", GAP_EDGES, requests.gap, finished
    yield "e2e_request_latency_seconds", REQUEST_EDGES, requests.seconds, finished
    yield "request_queue_time_seconds", REQUEST_EDGES, 0.001, finished
    yield "request_inference_time_seconds", REQUEST_EDGES, requests.seconds, finished
    yield "request_prefill_time_seconds", REQUEST_EDGES, requests.ttft, finished
    yield "request_decode_time_seconds", REQUEST_EDGES, decode, finished


def _make_histogram(edges: Sequence[float], mean: float, times: int) -> Histogram:
    """Half of the observations at 0.6 of the mean, half at 1.4: every bucket rises and never falls with `times`."""
    histogram = Histogram(edges)
    below = times // 2
    histogram.observe(0.6 * mean, below)
    histogram.observe(1.4 * mean, times - below)
    return histogram


def make_router_page(received: Mapping[str, int]) -> str:
    """Envoy's /stats/prometheus as the operator asks for it: a few lines for each cluster (ModelService)."""
    lines = []
    for name, sent in received.items():
        labels = f'{{envoy_cluster_name="{name}"}}'
        for counter, value in (
            ("upstream_cx_none_healthy", 0),
            ("upstream_rq_pending_failure_eject", 0),
            ("upstream_rq_retry", 0),
            ("upstream_rq_total", sent),
        ):
            lines += [f"# TYPE envoy_cluster_{counter} counter", f"envoy_cluster_{counter}{labels} {value}"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of a hollow node, at its full clock."""

    uuid: str
    index: int
    product: str

    def to_dict(self, now: float) -> dict[str, object]:
        """As the GPU agent tells it."""
        return {
            "uuid": self.uuid,
            "index": self.index,
            "product": self.product,
            "clockMHz": 1980.0,
            "maxClockMHz": 1980.0,
            "temperatureC": 55.0,
            "powerWatts": 350.0,
            "throttleReasons": [],
            "busy": 0.8,
            "readAt": now,
        }
