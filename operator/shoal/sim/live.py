"""An engine that runs in real time inside an event loop: answers wake up when their tokens are due."""

from __future__ import annotations

import asyncio

from shoal.sim.batch import Sequence
from shoal.sim.engine import Engine
from shoal.sim.engine_metrics import EngineMetrics
from shoal.sim.steps import Speed


class Answer:
    """One request being answered. `reason`: what ends it when all its tokens are there (`stop` or `length`)."""

    def __init__(self, live: LiveEngine, sequence: Sequence, *, reason: str, max_tokens: int, streaming: bool) -> None:
        self.sequence = sequence
        self.reason = reason
        self.max_tokens = max_tokens
        self.streaming = streaming
        self.broken = False  # cut off by the end of the server
        self._live = live
        self._taken = 0
        self._waker: asyncio.Future[None] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every token has been generated."""
        return self.sequence.finished_at is not None and not self.sequence.aborted

    async def more(self) -> int:
        """Wait for tokens that were not taken yet and take them. 0: the answer was cut off."""
        while not self.broken:
            due = self._live.generated(self.sequence)
            if due > self._taken and (self.streaming or self.is_complete):
                fresh, self._taken = due - self._taken, due
                return fresh
            self._waker = self._live.loop.create_future()
            await self._waker
        return 0

    def wake(self) -> None:
        """Let `more` look again."""
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)


class LiveEngine:
    """Drives an Engine by the event loop's clock.

    Between first and last token, answers that stream are woken together every `stream_seconds`: chunks carry several
    tokens, so that many streams cost little CPU while first and last token leave when they are due.
    """

    def __init__(
        self, engine: Engine, metrics: EngineMetrics, *, stream_seconds: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.engine = engine
        self.loop = loop
        self._metrics = metrics
        self._stream_seconds = stream_seconds
        self._answers: dict[Sequence, Answer] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def wait_until_empty(self) -> None:
        """Until every request has been answered."""
        await self._empty.wait()

    def ask(self, prompt_tokens: int, output_tokens: int, *, reason: str, max_tokens: int, streaming: bool) -> Answer:
        """Queue a request. Raises QueueFullError."""
        now = self._catch_up()
        try:
            sequence = self.engine.submit(prompt_tokens, output_tokens, now)
        finally:
            self._arm()
        answer = Answer(self, sequence, reason=reason, max_tokens=max_tokens, streaming=streaming)
        self._answers[sequence] = answer
        self._empty.clear()
        if streaming and self._ticker is None:
            self._ticker = self.loop.call_later(self._stream_seconds, self._tick)
        return answer

    def drop(self, answer: Answer) -> None:
        """Its client has gone."""
        now = self._catch_up()
        if answer.sequence in self._answers:
            self.engine.abort(answer.sequence, now)
            if answer.sequence.finished_at is not None:
                self._end(answer.sequence)
        self._arm()

    def break_off(self) -> None:
        """Cut off every answer: the server ends."""
        for answer in list(self._answers.values()):
            answer.broken = True
            answer.wake()

    def set_speed(self, speed: Speed) -> None:
        """Run at another speed from the next step on."""
        now = self._catch_up()
        self.engine.set_speed(speed, now)
        self._arm()

    def generated(self, sequence: Sequence) -> int:
        """Tokens of a sequence that are there now."""
        return self.engine.generated_by(sequence, self.loop.time())

    def render_metrics(self, *, broken: bool = False) -> str:
        """The text of /metrics."""
        now = self._catch_up()
        self._arm()
        return self._metrics.render(self.engine, now, broken=broken)

    def _catch_up(self) -> float:
        now = self.loop.time()
        for report in self.engine.advance(now):
            self._metrics.record(report)
            for sequence in report.started:
                if answer := self._answers.get(sequence):
                    answer.wake()
            for sequence in report.ended:
                self._end(sequence)
        return now

    def _end(self, sequence: Sequence) -> None:
        answer = self._answers.pop(sequence)
        if not self._answers:
            self._empty.set()
        reason = "abort" if sequence.aborted else answer.reason
        self._metrics.record_end(sequence, reason=reason, max_tokens=answer.max_tokens)
        answer.wake()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self.engine.wake_at
        self._timer = self.loop.call_at(wake_at, self._on_timer) if wake_at is not None else None

    def _on_timer(self) -> None:
        self._catch_up()
        self._arm()

    def _tick(self) -> None:
        self._catch_up()
        self._arm()
        streams = [answer for answer in self._answers.values() if answer.streaming]
        for answer in streams:
            answer.wake()
        self._ticker = self.loop.call_later(self._stream_seconds, self._tick) if streams else None
