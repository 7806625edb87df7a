"""Pages as engines and exporters give them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LENGTH_EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
LATENCY_EDGES = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LABELS = '{engine="0",model_name="Qwen/Qwen2.5-7B"}'


def engine_page(
    *,
    running: float | str = 0,
    waiting: float | str = 0,
    finished: float | str = 0,
    ttft: tuple[float, float] | None = None,
    itl: tuple[float, float] | None = None,
    inputs: Iterable[float] = (),
    outputs: Iterable[float] = (),
) -> str:
    """A short page: `ttft` and `itl` are (sum, count), `inputs` and `outputs` every request's tokens."""
    lines = [
        f"vllm:num_requests_running{LABELS} {running}",
        f"vllm:num_requests_waiting{LABELS} {waiting}",
        f"vllm:kv_cache_usage_perc{LABELS} 0.5",
        f'vllm:request_success_total{{engine="0",finished_reason="stop",model_name="m"}} {finished}',
        'vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 0.0',
    ]
    for name, pair in (("time_to_first_token_seconds", ttft), ("request_time_per_output_token_seconds", itl)):
        if pair is not None:
            lines += [f"vllm:{name}_sum{LABELS} {pair[0]}", f"vllm:{name}_count{LABELS} {pair[1]}"]
    for name, values in (("request_prompt_tokens", list(inputs)), ("request_generation_tokens", list(outputs))):
        if values:
            lines += _histogram(f"vllm:{name}", values)
    return "\n".join(lines) + "\n"


def _histogram(name: str, values: list[float]) -> list[str]:
    lines = [f'{name}_bucket{{le="{edge}"}} {sum(value <= edge for value in values)}' for edge in LENGTH_EDGES]
    lines += [f'{name}_bucket{{le="+Inf"}} {len(values)}']
    return [*lines, f"{name}_sum {sum(values)}", f"{name}_count {len(values)}"]


def long_page() -> bytes:
    """As long as vLLM's: about 500 lines, of which some 60 are wanted."""
    registry = CollectorRegistry()
    names = ("engine", "model_name")
    labels = ("0", "Qwen/Qwen2.5-7B-Instruct")
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        Gauge(f"vllm:{name}", "A gauge of vLLM.", names, registry=registry).labels(*labels).set(0.5)
    success = Counter("vllm:request_success", "Requests.", ("finished_reason", *names), registry=registry)
    for reason in ("stop", "length", "abort", "error"):
        success.labels(reason, *labels).inc(12345)
    for name in (
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_inference_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "iteration_tokens_total",
        "http_request_duration_seconds",
        "http_request_duration_highr_seconds",
        "request_params_max_tokens",
        "request_max_num_generation_tokens",
    ):
        edges = LATENCY_EDGES + tuple(range(11, 27))
        Histogram(f"vllm:{name}", "x", names, buckets=edges, registry=registry).labels(*labels).observe(0.3)
    for name in ("request_prompt_tokens", "request_generation_tokens"):
        Histogram(f"vllm:{name}", "x", names, buckets=LENGTH_EDGES, registry=registry).labels(*labels).observe(123)
    return generate_latest(registry)
