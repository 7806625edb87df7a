"""Continuous batching as vLLM's scheduler does it, as a state machine in time.

Nothing here reads a clock: `advance(now)` computes everything that happened until `now`. The simulated server calls
it with the time of day, the virtual-time kernel with its own. Steps during which the batch does not change are taken
in one stride, so the cost goes with arrivals and departures, not with tokens.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from shoal.domain.profile import StepModel
from shoal.sim.batch import DecodeBatch, Sequence
from shoal.sim.steps import Speed, Stride, make_decode_stride, mixed_seconds


class QueueFullError(Exception):
    """The waiting queue is at its limit: try another engine."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What bounds one engine. Blocks of `block_size` tokens; `max_waiting` None: no bound, as in vLLM."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    block_size: int = 16
    max_waiting: int | None = None

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.kv_blocks, self.block_size) < 1:
            raise ValueError(f"every limit is at least 1: {self}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs})"
            )

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_size)


@dataclass(slots=True)
class Report:
    """What one stride did. `gaps`: (seconds between two tokens of a sequence, how many such)."""

    at: float
    steps: int
    seconds: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    gaps: list[tuple[float, int]] = field(default_factory=list)
    started: list[Sequence] = field(default_factory=list)
    ended: list[Sequence] = field(default_factory=list)


class Engine:
    """One engine: a waiting queue, a running batch, a KV cache.

    The caller alternates `advance(now)` with `submit`, `abort` and `set_speed` at that same `now`, which never goes
    backwards. `schedules_ahead`: a step's batch is decided when the step before it begins, as vLLM does with
    asynchronous scheduling, so who arrives during a step waits for the end of the next one too.
    """

    def __init__(
        self,
        model: StepModel,
        limits: EngineLimits,
        *,
        longest_stride: int = 1_000_000,
        schedules_ahead: bool = False,
    ) -> None:
        self.model = model
        self.limits = limits
        self.speed = Speed()
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}  # in the order of admission
        self.preemptions = 0
        self._batch = DecodeBatch(limits.block_size)
        self._longest_stride = longest_stride
        self._ahead = schedules_ahead
        self._known_until = math.inf  # who arrived later is not yet scheduled
        self._stride: Stride | None = None
        self._chunks: dict[Sequence, int] = {}  # prompt tokens that the present step computes
        self._prompt_blocks = 0  # reserved by sequences that do not decode yet
        self._leaving: list[Sequence] = []  # aborted while they run

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self.running and not self.waiting

    @property
    def step_seconds(self) -> float:
        """How long the step that is under way takes; 0 when none is."""
        return self._stride.first if self._stride else 0.0

    @property
    def wake_at(self) -> float | None:
        """When to call `advance` next if nothing else happens; None: never."""
        return self._stride.end if self._stride else None

    def submit(self, prompt_tokens: int, output_tokens: int, now: float) -> Sequence:
        """Queue a request.

        Raises QueueFullError, and ValueError for a request that could never run.
        """
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError("a request has at least one prompt token and asks for at least one token")
        if self.limits.blocks_for(prompt_tokens + output_tokens) > self.limits.kv_blocks:
            raise ValueError("the request does not fit into the KV cache")
        if self._is_full():
            raise QueueFullError
        sequence = Sequence(prompt_tokens, output_tokens, arrived_at=now, to_prefill=prompt_tokens)
        self.waiting.append(sequence)
        if self._stride is None:
            self._begin(now)
        elif len(self.waiting) == 1 and len(self.running) < self.limits.max_num_seqs:
            self._cut(now)
        return sequence

    def abort(self, sequence: Sequence, now: float) -> None:
        """Drop a request: at once while it waits, after the present step while it runs."""
        if sequence.finished_at is not None or sequence.aborted:
            return
        sequence.aborted = True
        if sequence in self.running:
            self._leaving.append(sequence)
            self._cut(now)
        else:
            self.waiting.remove(sequence)
            sequence.finished_at = now
            self._cut(now)  # the next in the queue may fit where this one did not

    def set_speed(self, speed: Speed, now: float) -> None:
        """Run at another speed from the next step on."""
        if speed != self.speed:
            self.speed = speed
            self._cut(now)

    def advance(self, now: float) -> list[Report]:
        """Everything that ended by `now`, in order."""
        reports = []
        while self._stride is not None and self._stride.end <= now:
            reports.append(self._finish_stride(self._stride))
        return reports

    def generated_by(self, sequence: Sequence, now: float) -> int:
        """Tokens that a sequence has generated at `now`, those within the present stride included."""
        if not sequence.ticket:
            return sequence.generated
        return self._batch.generated(sequence) + self._steps_done(now)

    def kv_usage_at(self, now: float) -> float:
        """Share of the KV cache in use."""
        last = self._stride.steps if self._stride is not None else 1
        return self._blocks_after(min(self._steps_done(now) + 1, last)) / self.limits.kv_blocks

    def output_tokens_in_flight(self, now: float) -> int:
        """Tokens generated within the present stride, which no report has counted yet."""
        return self._steps_done(now) * self._batch.count

    def _steps_done(self, now: float) -> int:
        return self._stride.steps_by(now) if self._stride is not None else 0

    def _blocks_after(self, steps: int) -> int:
        return self._prompt_blocks + self._batch.blocks_after(steps)

    def _fits(self, steps: int, more_blocks: int = 0) -> bool:
        """Whether so many more steps, and some blocks besides, leave the KV cache within its limit."""
        free = self.limits.kv_blocks - self._prompt_blocks - more_blocks
        return self._batch.most_blocks_after(steps) <= free or self._batch.blocks_after(steps) <= free

    def _is_full(self) -> bool:
        bound = self.limits.max_waiting
        if bound is None:
            return False
        free_seats = max(0, self.limits.max_num_seqs - len(self.running))
        return len(self.waiting) >= bound + free_seats

    def _cut(self, now: float) -> None:
        """Let the present stride end with the step that is running at `now`."""
        stride = self._stride
        if stride is not None:
            self._stride = Stride(
                stride.start, min(stride.steps, stride.steps_by(now) + 1), stride.first, stride.growth
            )

    def _begin(self, at: float) -> None:
        """Schedule the next step, or stride, at the boundary `at`."""
        preempted = self._make_room(at)
        if not self.running:
            self._known_until = math.inf  # nothing was scheduled ahead
        self._chunks = self._schedule_prompts(at, may_admit=not preempted)
        if not self.running:
            self._stride = None
            return
        decoding, context = self._batch.count, self._batch.context
        if self._chunks:
            prompts = sum(self._chunks.values())
            seconds = mixed_seconds(self.model, self.speed, decoding=decoding, context=context, prompt_tokens=prompts)
            self._stride = Stride(at, 1, seconds)
        else:
            steps = 1 if preempted or self._has_newcomer() else self._steps_that_fit()
            self._stride = make_decode_stride(
                self.model, self.speed, start=at, steps=steps, decoding=decoding, context=context
            )

    def _schedule_prompts(self, at: float, *, may_admit: bool) -> dict[Sequence, int]:
        """Prompt tokens of the next step: the prompt that was cut off first, then from the queue, in order.

        Only the youngest running sequence can have a prompt half read: whoever comes after it found no budget left.
        """
        budget = self.limits.max_num_batched_tokens - self._batch.count
        chunks: dict[Sequence, int] = {}
        youngest = next(reversed(self.running), None)
        if youngest is not None and youngest.to_prefill:
            chunks[youngest] = min(youngest.to_prefill, budget)
            budget -= chunks[youngest]
        while may_admit and self.waiting and budget > 0 and not self._has_newcomer() and self._admits(self.waiting[0]):
            sequence = self.waiting.popleft()
            self._admit(sequence, at)
            chunks[sequence] = min(sequence.to_prefill, budget)
            budget -= chunks[sequence]
        return chunks

    def _has_newcomer(self) -> bool:
        """Whether the first in the queue came after the next step was decided."""
        return bool(self.waiting) and self.waiting[0].arrived_at > self._known_until

    def _admits(self, sequence: Sequence) -> bool:
        if len(self.running) >= self.limits.max_num_seqs:
            return False
        return self._fits(1, self.limits.blocks_for(sequence.to_prefill))

    def _admit(self, sequence: Sequence, at: float) -> None:
        sequence.blocks = self.limits.blocks_for(sequence.to_prefill)
        self._prompt_blocks += sequence.blocks
        if sequence.scheduled_at is None:
            sequence.scheduled_at = at
        self.running[sequence] = None

    def _make_room(self, at: float) -> bool:
        """Preempt the youngest until one more token of each sequence fits, as vLLM does; it is computed anew later."""
        preempted = False
        while not self._fits(1):
            self._preempt(next(reversed(self.running)), at)
            preempted = True
        return preempted

    def _preempt(self, sequence: Sequence, at: float) -> None:
        self._release(sequence)
        sequence.to_prefill = sequence.context
        sequence.preemptions += 1
        if sequence.generated and sequence.stalled_since is None:
            sequence.stalled_since = at
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch, with its blocks."""
        del self.running[sequence]
        if sequence.ticket:
            self._batch.leave(sequence)
        self._prompt_blocks -= sequence.blocks
        sequence.blocks = 0

    def _steps_that_fit(self) -> int:
        """Steps until the first sequence ends, or a block would be missing."""
        most = min(self._batch.steps_to_first_end(), self._longest_stride)
        if self._fits(most):
            return most
        fits, too_many = 1, most
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._fits(middle):
                fits = middle
            else:
                too_many = middle
        return fits

    def _finish_stride(self, stride: Stride) -> Report:
        at, seconds = stride.end, stride.end - stride.start
        report = Report(at, stride.steps, seconds, prompt_tokens=sum(self._chunks.values()))
        tokens = self._batch.count * stride.steps
        if tokens:
            report.output_tokens += tokens
            report.gaps.append((seconds / stride.steps, tokens))
        for sequence in self._batch.advance(stride.steps):
            self._end(sequence, report)
        for sequence, chunk in self._chunks.items():
            self._finish_chunk(sequence, chunk, report)
        for sequence in self._leaving:
            if sequence.finished_at is None:
                self._end(sequence, report)
        self._leaving.clear()
        if self._ahead:
            self._known_until = stride.end_of(stride.steps - 1)
        self._begin(at)
        return report

    def _finish_chunk(self, sequence: Sequence, chunk: int, report: Report) -> None:
        sequence.to_prefill -= chunk
        if sequence.to_prefill:
            return
        sequence.generated += 1
        report.output_tokens += 1
        if sequence.first_token_at is None:
            sequence.first_token_at = report.at
            report.started.append(sequence)
        elif sequence.stalled_since is not None:
            report.gaps.append((report.at - sequence.stalled_since, 1))
        sequence.stalled_since = None
        if sequence.generated >= sequence.output_tokens:
            self._end(sequence, report)
            return
        self._prompt_blocks -= sequence.blocks
        sequence.blocks = 0
        self._batch.join(sequence)

    def _end(self, sequence: Sequence, report: Report) -> None:
        """Let a sequence go that has all its tokens, or was aborted."""
        self._release(sequence)
        sequence.aborted = sequence.generated < sequence.output_tokens
        sequence.finished_at = report.at
        report.ended.append(sequence)
