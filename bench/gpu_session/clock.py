"""How the time of a step follows the GPU's clock: a natural experiment.

The same prompt is sent again and again to an idle server, one at a time, with a pause after each. Without pauses the
GPU draws its power limit and its clock falls; with longer ones it draws less and the clock stays high. The work of a
request stays the same, so that its time against the clock tells the share of a step that follows the clock. Nothing is
set: clocks, power limits and their control stay as they are.
"""

from __future__ import annotations

import http.client
import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import pynvml

PAUSES_MS: Final = (0, 160, 5, 80, 10, 40, 20, 0, 160)  # not in order: heat and time must not look like the clock
PROMPTS: Final = (1900, 950)
SECONDS: Final = 2.2
SAMPLE_SECONDS: Final = 0.02
WARM: Final = 0.35  # share of a setting that is left out: the clock settles
FIRST_TOKEN_ID, TOKEN_IDS = 10, 40_000


@dataclass(slots=True)
class Samples:
    """What NVML told of one GPU: instants (time.monotonic), MHz, watts, °C."""

    at: list[float] = field(default_factory=list)
    clock_mhz: list[int] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    temperature_c: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Setting:
    """One prompt length with one pause; the settled part. Times in milliseconds, one for each request."""

    prompt: int
    pause_ms: int
    times_ms: tuple[float, ...]
    clock_mhz: tuple[int, ...]
    watts: float | None
    temperature_c: float | None

    @property
    def clock(self) -> float:
        """Median clock, MHz."""
        return statistics.median(self.clock_mhz)

    @property
    def time_ms(self) -> float:
        """Median time of a request, ms."""
        return statistics.median(self.times_ms)

    def to_json(self) -> dict[str, Any]:
        """For the results."""
        return asdict(self)


def measure_clock(url: str, gpu: int) -> Iterator[Setting]:
    """Every setting in turn. Raises OSError and RuntimeError when the server does not answer as it should."""
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
    except pynvml.NVMLError as error:
        raise OSError(f"GPU {gpu} cannot be read: {error}") from error
    samples, stop = Samples(), threading.Event()
    sampler = threading.Thread(target=_sample, args=(handle, samples, stop), daemon=True)
    sampler.start()
    try:
        for prompt in PROMPTS:
            for pause in PAUSES_MS:
                yield _measure(url, prompt, pause, samples)
    finally:
        stop.set()
        sampler.join()


def _measure(url: str, prompt: int, pause_ms: int, samples: Samples) -> Setting:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    draw = random.Random(prompt)
    began = time.monotonic()
    sent: list[tuple[float, float]] = []
    while time.monotonic() - began < SECONDS:
        body = json.dumps(
            {
                "model": "m",
                "prompt": [draw.randrange(FIRST_TOKEN_ID, TOKEN_IDS) for _ in range(prompt)],
                "max_tokens": 1,
                "ignore_eos": True,
            }
        )
        start = time.monotonic()
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        sent.append((start, 1000 * (time.monotonic() - start)))
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}")
        time.sleep(pause_ms / 1000)
    connection.close()
    return _settled(prompt, pause_ms, began + WARM * SECONDS, sent, samples)


def _settled(prompt: int, pause_ms: int, since: float, sent: list[tuple[float, float]], samples: Samples) -> Setting:
    chosen = [n for n, at in enumerate(samples.at) if at >= since]
    watts = [samples.watts[n] for n in chosen]
    heat = [samples.temperature_c[n] for n in chosen]
    return Setting(
        prompt=prompt,
        pause_ms=pause_ms,
        times_ms=tuple(round(took, 3) for start, took in sent if start >= since),
        clock_mhz=tuple(samples.clock_mhz[n] for n in chosen),
        watts=round(statistics.mean(watts), 1) if watts else None,
        temperature_c=round(statistics.mean(heat), 1) if heat else None,
    )


def _sample(handle: Any, samples: Samples, stop: threading.Event) -> None:
    while not stop.wait(SAMPLE_SECONDS):
        clock = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        heat = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        samples.clock_mhz.append(clock)
        samples.watts.append(watts)
        samples.temperature_c.append(heat)
        samples.at.append(time.monotonic())  # last: whoever reads it finds the others


@dataclass(frozen=True, slots=True)
class ClockLaw:
    """time = fixed + follows · (top / clock), by least squares over the settings of one prompt length. Milliseconds."""

    prompt: int
    top_mhz: float
    fixed_ms: float
    follows_ms: float
    rms_ms: float

    @property
    def share(self) -> float:
        """Share of the time at the highest clock that follows the clock."""
        return self.follows_ms / (self.fixed_ms + self.follows_ms)


def fit_clock(settings: list[Setting]) -> ClockLaw | None:
    """Fit the settings of one prompt length; None when the clock hardly moved (under 3 %)."""
    top = max(setting.clock for setting in settings)
    if min(setting.clock for setting in settings) > 0.97 * top:
        return None
    xs = [top / setting.clock for setting in settings]
    ys = [setting.time_ms for setting in settings]
    slope, intercept = statistics.linear_regression(xs, ys)
    errors = [y - intercept - slope * x for x, y in zip(xs, ys, strict=True)]
    return ClockLaw(settings[0].prompt, top, intercept, slope, statistics.mean(e * e for e in errors) ** 0.5)
