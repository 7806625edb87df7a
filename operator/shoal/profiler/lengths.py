"""Request lengths: a distribution, or pairs from a file."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shoal.domain.profile import LengthMix
from shoal.profiler.errors import ProfilerError

Ints = NDArray[np.int64]

USUAL_SPREAD: Final = 1 / math.sqrt(2)  # coefficient of variation of chat logs; a gamma of shape 2
SHAPES: Final = ("lognormal", "gamma", "fixed")
_SAMPLE: Final = 20_000  # requests from which means and tails are told


@dataclass(frozen=True, slots=True)
class LengthSource:
    """Draws pairs of prompt and answer lengths, in tokens.

    `shape` is one of SHAPES, with means and coefficients of variation, or `file`, with the pairs of a log.
    """

    text: str  # as it was given, for provenance
    shape: str
    input_mean: float = 0.0
    output_mean: float = 0.0
    spread: float = USUAL_SPREAD
    pairs: tuple[tuple[int, int], ...] = ()

    def draw(self, count: int, *, seed: int, longest: int) -> tuple[Ints, Ints]:
        """So many prompts and answers; together never longer than `longest`. The same seed gives the same."""
        rng = np.random.default_rng([seed, 1])
        if self.shape == "file":
            chosen = np.array(self.pairs, dtype=np.int64)[rng.integers(0, len(self.pairs), count)]
            prompts, outputs = chosen[:, 0], chosen[:, 1]
        else:
            prompts = _draw(rng, self.shape, self.input_mean, self.spread, count)
            outputs = _draw(rng, self.shape, self.output_mean, self.spread, count)
        prompts = np.clip(prompts, 1, longest - 1)
        return prompts, np.clip(outputs, 1, longest - prompts)

    def mix(self, longest: int) -> LengthMix:
        """Means and 95th percentiles of what is drawn."""
        prompts, outputs = self.draw(_SAMPLE, seed=0, longest=longest)
        return LengthMix(
            input_mean=float(prompts.mean()),
            output_mean=float(outputs.mean()),
            input_p95=float(np.quantile(prompts, 0.95)),
            output_p95=float(np.quantile(outputs, 0.95)),
        )

    def variation(self, longest: int) -> float:
        """Coefficient of variation of the answers."""
        _, outputs = self.draw(_SAMPLE, seed=0, longest=longest)
        return float(outputs.std() / outputs.mean())


def fixed_lengths(prompt: float, output: float, *, spread: float = 0.0) -> LengthSource:
    """Lengths of a probe; with a spread, gamma-distributed."""
    shape = "gamma" if spread else "fixed"
    return LengthSource(f"{shape}:{prompt:.0f},{output:.0f}", shape, prompt, output, spread)


def parse_lengths(text: str) -> LengthSource:
    """`lognormal:512,128[,SPREAD]`, `gamma:...`, `fixed:512,128`, or the name of a file. Raises ProfilerError."""
    shape, colon, numbers = text.partition(":")
    if colon and shape in SHAPES:
        return _parse_shape(text, shape, numbers)
    path = Path(text)
    if not path.is_file():
        raise ProfilerError(
            f"lengths {text!r}: neither a file nor a distribution. Use lognormal:512,128 or gamma:512,128 (mean tokens "
            "of prompt and answer), fixed:512,128, or a file with pairs"
        )
    pairs = tuple(_read_pairs(path))
    if not pairs:
        raise ProfilerError(f"{path}: holds no pair of prompt and answer lengths")
    return LengthSource(text, "file", pairs=pairs)


def _parse_shape(text: str, shape: str, numbers: str) -> LengthSource:
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    wanted = (2,) if shape == "fixed" else (2, 3)
    if len(values) not in wanted or not all(math.isfinite(v) and v > 0 for v in values) or min(values[:2]) < 1:
        raise ProfilerError(f"lengths {text!r}: give mean tokens of prompt and answer, as in {shape}:512,128")
    spread = 0.0 if shape == "fixed" else (values[2] if len(values) == 3 else USUAL_SPREAD)
    return LengthSource(text, shape, values[0], values[1], spread)


def _draw(rng: np.random.Generator, shape: str, mean: float, spread: float, count: int) -> Ints:
    if shape == "fixed":
        return np.full(count, round(mean), dtype=np.int64)
    if shape == "gamma":
        values = rng.gamma(1 / spread**2, mean * spread**2, count)
    else:
        sigma = math.sqrt(math.log(1 + spread**2))
        values = rng.lognormal(math.log(mean) - sigma**2 / 2, sigma, count)
    return np.maximum(np.round(values), 1).astype(np.int64)


def _read_pairs(path: Path) -> list[tuple[int, int]]:
    """JSON lines with `input`/`output` (or `prompt_tokens`/`completion_tokens`), or CSV whose first two columns count.

    Raises ProfilerError.
    """
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        pair = _read_json_pair(line) if line.lstrip().startswith("{") else _read_csv_pair(line)
        if pair is None and number == 1:
            continue  # a heading
        if pair is None or min(pair) < 1:
            raise ProfilerError(
                f"{path}, line {number}: expected two whole numbers of at least 1, as in 512,128 or "
                '{"input": 512, "output": 128}'
            )
        pairs.append(pair)
    return pairs


def _read_json_pair(line: str) -> tuple[int, int] | None:
    try:
        item = json.loads(line)
        return int(item.get("input", item.get("prompt_tokens"))), int(item.get("output", item.get("completion_tokens")))
    except (ValueError, TypeError):
        return None


def _read_csv_pair(line: str) -> tuple[int, int] | None:
    cells = next(csv.reader([line]))
    try:
        return int(cells[0]), int(cells[1])
    except (ValueError, IndexError):
        return None
