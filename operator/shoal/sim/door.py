"""The door of a service: takes a request to an engine, and to another one when the first one's queue is full."""

from __future__ import annotations

import random
from dataclasses import dataclass

from shoal.domain.service import Objective, ServiceKey
from shoal.sim.batch import Sequence as EngineSequence
from shoal.sim.engine import QueueFullError
from shoal.sim.fleet import Fleet
from shoal.sim.fleet_parts import SimEngine
from shoal.sim.kernel import Kernel
from shoal.sim.measure import mean_gap_ms
from shoal.sim.router import make_balancer, pick_another
from shoal.sim.scenario import Routing

RETRIES = 3  # as the router is configured (render/envoy.py), and so are the waits
USUAL_WAIT = 0.025  # seconds, at most, before the first retry; thrice that before later ones


@dataclass(slots=True, eq=False)
class SimRequest:
    """One request and what became of it. `at` counts from the beginning of the traffic, `sent_at` from that of time.

    It is refused (429: full queues), turned away because nothing served (503), or an engine has taken it.
    """

    at: float
    prompt_tokens: int
    output_tokens: int
    sent_at: float = 0.0
    sequence: EngineSequence | None = None
    refused: bool = False
    unserved: bool = False
    tries: int = 0

    @property
    def answered(self) -> bool:
        """Whether all its tokens came."""
        return self.sequence is not None and self.sequence.finished_at is not None and not self.sequence.aborted

    @property
    def lost(self) -> bool:
        """Whether it ended without an answer or a refusal."""
        return self.unserved or (self.sequence is not None and self.sequence.aborted)

    @property
    def in_flight(self) -> bool:
        """Whether it is still under way."""
        return not (self.answered or self.refused or self.lost)

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token as the client sees it, retries included; None: it never came."""
        if self.sequence is None or self.sequence.first_token_at is None:
            return None
        return (self.sequence.first_token_at - self.sent_at) * 1000

    @property
    def itl_ms(self) -> float | None:
        """Mean gap between its tokens; None: it has no gap."""
        return None if self.sequence is None else mean_gap_ms(self.sequence)

    def is_within(self, objective: Objective) -> bool:
        """Whether it was answered within the SLO."""
        if not self.answered:
            return False
        ttft, gap = self.ttft_ms, self.itl_ms
        return (objective.ttft_ms is None or (ttft is not None and ttft <= objective.ttft_ms)) and (
            objective.itl_ms is None or gap is None or gap <= objective.itl_ms
        )


class Door:
    """Where requests of one service come in."""

    def __init__(
        self, kernel: Kernel, fleet: Fleet, service: ServiceKey, *, routing: Routing, ttft_ms: float | None, seed: int
    ) -> None:
        self._kernel = kernel
        self._fleet = fleet
        self._service = service
        self._balancer = make_balancer(routing, f"{seed} {service}")
        self._retries = RETRIES if routing is Routing.DOOR else 0
        self._budget = float("inf") if ttft_ms is None else ttft_ms / 1000
        self._wait = USUAL_WAIT if ttft_ms is None else min(max(ttft_ms / 1e5, 0.001), USUAL_WAIT)
        self._random = random.Random(f"door {seed} {service}")

    def send(self, request: SimRequest) -> None:
        """Take a request in, now."""
        request.sent_at = self._kernel.now
        self._try(request, [])

    def _try(self, request: SimRequest, refused: list[SimEngine]) -> None:
        engines = self._fleet.engines_of(self._service)
        if not engines:
            request.unserved = True
            return
        request.tries += 1
        engine = pick_another(self._balancer, engines, refused)
        self._fleet.catch_up(engine)
        try:
            request.sequence = engine.engine.submit(request.prompt_tokens, request.output_tokens, self._kernel.now)
        except QueueFullError:
            self._retry(request, [*refused, engine])
        self._fleet.arm(engine)

    def _retry(self, request: SimRequest, refused: list[SimEngine]) -> None:
        """Try again after a wait, drawn evenly below its limit; 429 when retries or the TTFT objective are used up."""
        at = self._kernel.now + self._random.random() * self._wait * (3 if len(refused) > 1 else 1)
        if len(refused) > self._retries or at > request.sent_at + self._budget:
            request.refused = True
        else:
            self._kernel.at(at, lambda: self._try(request, refused))
