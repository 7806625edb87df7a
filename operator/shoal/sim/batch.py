"""Sequences that decode together. All of them gain one token per step, so one counter moves them all.

Whatever the size of the batch, a step costs the same: contexts are kept as their distance to the counter, ends in a
heap, and KV blocks in one number for each remainder of a context by the block size.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside an engine. Instants are in the caller's seconds.

    `generated` is brought up to date when a sequence leaves the batch; until then ask the engine.
    """

    prompt_tokens: int
    output_tokens: int
    arrived_at: float
    to_prefill: int = 0  # tokens still to be computed before the next one can be generated
    generated: int = 0
    blocks: int = 0  # reserved for its prompt, until it decodes
    scheduled_at: float | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    stalled_since: float | None = None  # its last token, while it is preempted or recomputed
    preemptions: int = 0
    aborted: bool = False
    ticket: int = 0  # its place in the decoding batch; 0: it is not in it
    offset: int = 0  # the batch's counter less its generated tokens

    @property
    def context(self) -> int:
        """Tokens whose keys and values the next step reads or writes."""
        return self.prompt_tokens + self.generated


class DecodeBatch:
    """The sequences that decode, and what they hold."""

    def __init__(self, block_size: int) -> None:
        self.count = 0
        self._size = block_size
        self._steps = 0
        self._tickets = 0
        self._ends: list[tuple[int, int, Sequence]] = []  # (counter at the last token, ticket, who); stale ones too
        self._bases = 0  # sum of contexts less the counter
        self._blocks = 0  # sum of whole blocks in those
        self._remainders = [0] * block_size

    @property
    def context(self) -> int:
        """Tokens in the KV cache that the next step reads."""
        return self._bases + self.count * self._steps

    def generated(self, sequence: Sequence) -> int:
        """Tokens that a sequence of this batch has."""
        return self._steps - sequence.offset

    def join(self, sequence: Sequence) -> None:
        """Decode from the next step on."""
        self._tickets += 1
        sequence.ticket, sequence.offset = self._tickets, self._steps - sequence.generated
        heapq.heappush(self._ends, (sequence.offset + sequence.output_tokens, sequence.ticket, sequence))
        self._count(sequence, 1)

    def leave(self, sequence: Sequence) -> None:
        """Stop decoding, whatever is missing."""
        self._count(sequence, -1)
        sequence.generated = self.generated(sequence)
        sequence.ticket = 0

    def blocks_after(self, steps: int) -> int:
        """KV blocks in use during the last of so many more steps."""
        ahead = self._steps + steps - 1
        partial = sum(
            count * -(-(remainder + ahead) // self._size) for remainder, count in enumerate(self._remainders) if count
        )
        return self._blocks + partial

    def most_blocks_after(self, steps: int) -> int:
        """No fewer than `blocks_after`, at once: every context is counted with a last block of one token."""
        return (self.context + self.count * (steps - 1)) // self._size + self.count

    def steps_to_first_end(self) -> int:
        """Steps until the first sequence has all its tokens."""
        while self._ends[0][1] != self._ends[0][2].ticket:
            heapq.heappop(self._ends)
        return self._ends[0][0] - self._steps

    def advance(self, steps: int) -> list[Sequence]:
        """Take steps; whoever has all its tokens then, leaves."""
        self._steps += steps
        ended = []
        while self._ends and self._ends[0][0] <= self._steps:
            _, ticket, sequence = heapq.heappop(self._ends)
            if ticket == sequence.ticket:
                self.leave(sequence)
                ended.append(sequence)
        return ended

    def _count(self, sequence: Sequence, by: int) -> None:
        base = sequence.prompt_tokens - sequence.offset
        self.count += by
        self._bases += by * base
        self._blocks += by * (base // self._size)
        self._remainders[base % self._size] += by
