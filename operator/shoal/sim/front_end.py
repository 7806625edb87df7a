"""What a first token takes besides waiting for the engine and computing: the server's own way in and out.

A server process hands every token of every answer to its stream, one after the other, and a new request gets in and
out between them. `N` sequences that need a token every `T` seconds give it turns of work proportional to N, and such a
turn is under way with a probability proportional to N/T: so the mean wait grows as `N^2/T`.

Source: real vLLM 0.26 on H200 (docs/real-engine.md): over seven models, 125M to 13B, first tokens came later than a
replay of the engine alone by `fixed + wait * N^2/T` with nearly the same two numbers, and spread about as an
exponential. Range: to 15,000 tokens per second and API server.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """`fixed_ms`: of any request; `wait_ms`: mean wait for every million of `N^2/T`, in 1/s."""

    fixed_ms: float
    wait_ms: float

    def delay_ms(self, running: int, step_seconds: float, share: float) -> float:
        """How much later a first token comes than the engine alone would have it, at a share (0 to below 1) of them.

        Worked: 10 ms and 50 ms, 100 sequences at 10 ms a step: 100^2/0.010 = 1.0e6, a mean wait of 50 ms; at 0.95 of
        the requests 10 + 50 * ln(20) = 160 ms.
        """
        if running < 1 or step_seconds <= 0:
            return self.fixed_ms
        mean = self.wait_ms * running**2 / step_seconds / 1e6
        return self.fixed_ms - mean * math.log(1 - share)
