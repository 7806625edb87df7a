"""What a model needs of memory, from its name.

Shapes are the published `config.json` values (layers, key/value heads, head dimension) and parameter counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from shoal.domain.profile import ModelFacts

BYTES_16BIT: Final = 2.0
_QUANTISED: Final = (
    (re.compile(r"awq|gptq|int4|4[-_]?bit|w4a16|nf4|bnb"), 0.6),  # 4 bits, scales and the layers left in 16 bits
    (re.compile(r"fp8|int8|8[-_]?bit|w8a(8|16)"), 1.05),
)
_SIZE: Final = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
UNKNOWN_CONTEXT: Final = 4096  # an engine refuses to start above the model's own limit, so guess low


@dataclass(frozen=True, slots=True)
class _Shape:
    billions: float
    layers: int
    kv_heads: int
    head_dim: int
    context: int

    @property
    def kv_bytes_per_token(self) -> float:
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES_16BIT


_SHAPES: Final = {
    "gpt2": _Shape(0.124, 12, 12, 64, 1024),
    "opt-125m": _Shape(0.125, 12, 12, 64, 2048),
    "opt-350m": _Shape(0.331, 24, 16, 64, 2048),
    "opt-1.3b": _Shape(1.316, 24, 32, 64, 2048),
    "opt-2.7b": _Shape(2.652, 32, 32, 80, 2048),
    "opt-6.7b": _Shape(6.658, 32, 32, 128, 2048),
    "opt-13b": _Shape(12.853, 40, 40, 128, 2048),
    "llama-2-7b": _Shape(6.738, 32, 32, 128, 4096),
    "llama-2-13b": _Shape(13.016, 40, 40, 128, 4096),
    "llama-3-8b": _Shape(8.030, 32, 8, 128, 8192),
    "llama-3.1-8b": _Shape(8.030, 32, 8, 128, 131072),
    "llama-3.2-1b": _Shape(1.236, 16, 8, 64, 131072),
    "llama-3.2-3b": _Shape(3.213, 28, 8, 128, 131072),
    "qwen2.5-0.5b": _Shape(0.494, 24, 2, 64, 32768),
    "qwen2.5-1.5b": _Shape(1.544, 28, 2, 128, 32768),
    "qwen2.5-3b": _Shape(3.086, 36, 2, 128, 32768),
    "qwen2.5-7b": _Shape(7.616, 28, 4, 128, 32768),
    "qwen2.5-14b": _Shape(14.770, 48, 8, 128, 32768),
    "qwen2.5-32b": _Shape(32.764, 64, 8, 128, 32768),
    "qwen2.5-coder-0.5b": _Shape(0.494, 24, 2, 64, 32768),
    "qwen2.5-coder-1.5b": _Shape(1.544, 28, 2, 128, 32768),
    "qwen2.5-coder-3b": _Shape(3.086, 36, 2, 128, 32768),
    "qwen2.5-coder-7b": _Shape(7.616, 28, 4, 128, 32768),
    "qwen2.5-coder-14b": _Shape(14.770, 48, 8, 128, 32768),
    "qwen2.5-coder-32b": _Shape(32.764, 64, 8, 128, 32768),
    "qwen3-0.6b": _Shape(0.752, 28, 8, 128, 40960),
    "qwen3-1.7b": _Shape(2.032, 28, 8, 128, 40960),
    "qwen3-4b": _Shape(4.022, 36, 8, 128, 40960),
    "qwen3-8b": _Shape(8.191, 36, 8, 128, 40960),
    "qwen3-14b": _Shape(14.768, 40, 8, 128, 40960),
    "qwen3-32b": _Shape(32.762, 64, 8, 128, 40960),
    "deepseek-r1-distill-qwen-1.5b": _Shape(1.777, 28, 2, 128, 131072),
    "deepseek-r1-distill-qwen-7b": _Shape(7.616, 28, 4, 128, 131072),
    "deepseek-r1-distill-qwen-14b": _Shape(14.770, 48, 8, 128, 131072),
    "deepseek-r1-distill-llama-8b": _Shape(8.030, 32, 8, 128, 131072),
    "mistral-7b": _Shape(7.248, 32, 8, 128, 32768),
    "ministral-8b": _Shape(8.020, 36, 8, 128, 32768),
    "zephyr-7b": _Shape(7.242, 32, 8, 128, 32768),
    "gemma-2b": _Shape(2.506, 18, 1, 256, 8192),
    "gemma-7b": _Shape(8.538, 28, 16, 256, 8192),
    "gemma-2-2b": _Shape(2.614, 26, 4, 256, 8192),
    "gemma-2-9b": _Shape(9.242, 42, 8, 256, 8192),
    "gemma-2-27b": _Shape(27.227, 46, 16, 128, 8192),
    "gemma-3-1b": _Shape(1.000, 26, 1, 256, 32768),
    "gemma-3-4b": _Shape(4.300, 34, 4, 256, 131072),
    "gemma-3-12b": _Shape(12.187, 48, 8, 256, 131072),
    "gemma-3-27b": _Shape(27.432, 62, 16, 128, 131072),
    "phi-2": _Shape(2.780, 32, 32, 80, 2048),
    "phi-3-mini-4k": _Shape(3.821, 32, 32, 96, 4096),
    "phi-3-mini-128k": _Shape(3.821, 32, 32, 96, 131072),
    "phi-3.5-mini": _Shape(3.821, 32, 32, 96, 131072),
    "phi-4-mini": _Shape(3.836, 32, 8, 128, 131072),
    "phi-4": _Shape(14.660, 40, 10, 128, 16384),
    "smollm-135m": _Shape(0.1345, 30, 3, 64, 2048),
    "smollm-360m": _Shape(0.3618, 32, 5, 64, 2048),
    "smollm-1.7b": _Shape(1.711, 24, 32, 64, 2048),
    "smollm2-135m": _Shape(0.1345, 30, 3, 64, 8192),
    "smollm2-360m": _Shape(0.3618, 32, 5, 64, 8192),
    "smollm2-1.7b": _Shape(1.711, 24, 32, 64, 8192),
    "smollm3-3b": _Shape(3.075, 36, 4, 128, 65536),
    "tinyllama-1.1b": _Shape(1.100, 22, 4, 64, 2048),
    "tinyllama_v1.1": _Shape(1.100, 22, 4, 64, 2048),
}


def model_facts(name: str, parameters: float | None = None) -> ModelFacts | None:
    """What is known of a model by its name, or else by its parameter count; None when neither tells its size.

    A name that the catalogue knows gives layers and heads. Otherwise the size stands in the name (`7B`, `350m`,
    `8x7b`) or is given, and the KV cache is assumed as large as that of a model without grouped heads.
    """
    short = name.rsplit("/", 1)[-1].lower()
    shape = _known_shape(short)
    count = parameters or (shape.billions * 1e9 if shape else _size_in_name(short))
    if not count:
        return None
    return ModelFacts(
        parameters=count,
        weights_bytes=count * _bytes_per_parameter(short),
        kv_bytes_per_token=shape.kv_bytes_per_token if shape else _largest_usual_kv(count),
        max_context_tokens=shape.context if shape else UNKNOWN_CONTEXT,
    )


def parameter_count(text: str) -> float:
    """`7.6B` -> 7.6e9, `125M` -> 125e6. Raises ValueError for anything else."""
    scale = {"B": 1e9, "M": 1e6}.get(text[-1:].upper())
    if scale is None:
        raise ValueError(f"not a number of parameters: {text!r}; write it as 7.6B or 125M")
    return float(text[:-1]) * scale


def _known_shape(short: str) -> _Shape | None:
    bare = short.removeprefix("meta-").removeprefix("google_")
    matches = [key for key in _SHAPES if bare.startswith(key) and not bare[len(key) : len(key) + 1].isalnum()]
    return _SHAPES[max(matches, key=len)] if matches else None


def _size_in_name(short: str) -> float | None:
    found = _SIZE.search(short)
    if not found:
        return None
    experts, number, unit = found.groups()
    return float(number) * int(experts or 1) * (1e9 if unit == "b" else 1e6)


def _bytes_per_parameter(short: str) -> float:
    return next((size for pattern, size in _QUANTISED if pattern.search(short)), BYTES_16BIT)


def _largest_usual_kv(parameters: float) -> float:
    """KV bytes per token of a model whose every head has its own keys: OPT 125M to 30B and Llama-2 lie below it."""
    return 550_000 * float((parameters / 6.7e9) ** 0.62)
