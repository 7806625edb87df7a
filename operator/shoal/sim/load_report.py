"""What clients saw of a run, summed up."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.domain.profile import Quantiles
from shoal.sim.quantiles import make_quantiles


class Outcome(enum.StrEnum):
    """What became of one request. All but the first two and the last are losses."""

    ANSWERED = "answered"
    REFUSED = "refused"  # 4xx: an answer that says no, as 429 does
    SERVER_ERROR = "5xx"
    RESET = "reset"  # no connection, or one that broke
    TIMEOUT = "timeout"
    SHORT = "short"  # the stream ended early
    UNDER_WAY = "under way"

    @property
    def is_lost(self) -> bool:
        """Whether the client got neither an answer nor a refusal."""
        return self in (Outcome.SERVER_ERROR, Outcome.RESET, Outcome.TIMEOUT, Outcome.SHORT)


@dataclass(slots=True)
class Record:
    """One request as its client saw it. Instants are seconds since the traffic began; `itl_ms` is the mean gap."""

    due_at: float
    sent_at: float
    prompt_tokens: int
    output_tokens: int
    outcome: Outcome = Outcome.UNDER_WAY
    status: int | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    tokens: int = 0
    ended_at: float | None = None
    detail: str = ""

    def is_within(self, ttft_ms: float | None, itl_ms: float | None) -> bool:
        """Whether it was answered within an SLO. An answer of one token has no gaps."""
        if self.outcome is not Outcome.ANSWERED or self.ttft_ms is None:
            return False
        return (ttft_ms is None or self.ttft_ms <= ttft_ms) and (
            itl_ms is None or self.itl_ms is None or self.itl_ms <= itl_ms
        )


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A run, or a part of one. Rates per second, latencies and send lag in milliseconds; `cpu`: cores used."""

    seconds: float
    sent: int
    answered: int
    refused: int
    under_way: int
    lost: int
    lost_by: dict[str, int]
    output_tokens: int
    ttft: Quantiles | None
    itl: Quantiles | None
    send_lag: Quantiles | None
    within_slo: float | None
    cpu: float

    @property
    def rate(self) -> float:
        """Requests sent per second."""
        return self.sent / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """What `-o json` prints."""
        return {
            "seconds": round(self.seconds, 3),
            "sent": self.sent,
            "rate": round(self.rate, 3),
            "answered": self.answered,
            "refused": self.refused,
            "underWay": self.under_way,
            "lost": self.lost,
            "lostBy": self.lost_by,
            "outputTokens": self.output_tokens,
            "ttftMs": _rounded(self.ttft),
            "itlMs": _rounded(self.itl),
            "sendLagMs": _rounded(self.send_lag),
            "withinSlo": None if self.within_slo is None else round(self.within_slo, 4),
            "cpu": round(self.cpu, 3),
        }


def make_report(
    records: Sequence[Record],
    *,
    seconds: float,
    sent: int | None = None,
    cpu: float = 0.0,
    ttft_ms: float | None = None,
    itl_ms: float | None = None,
) -> LoadReport:
    """Sum up. Requests under way count as sent only; the share within the SLO is of those that ended.

    `sent`: where not all records count as sent, as in a window.
    """
    ended = [record for record in records if record.outcome is not Outcome.UNDER_WAY]
    lost = [record for record in ended if record.outcome.is_lost]
    kinds = {str(outcome): sum(r.outcome is outcome for r in lost) for outcome in Outcome if outcome.is_lost}
    asked = ttft_ms is not None or itl_ms is not None
    return LoadReport(
        seconds=seconds,
        sent=len(records) if sent is None else sent,
        answered=sum(record.outcome is Outcome.ANSWERED for record in ended),
        refused=sum(record.outcome is Outcome.REFUSED for record in ended),
        under_way=len(records) - len(ended),
        lost=len(lost),
        lost_by={kind: count for kind, count in kinds.items() if count},
        output_tokens=sum(record.tokens for record in records),
        ttft=make_quantiles(record.ttft_ms for record in ended if record.ttft_ms is not None),
        itl=make_quantiles(record.itl_ms for record in ended if record.itl_ms is not None),
        send_lag=make_quantiles((record.sent_at - record.due_at) * 1000 for record in records),
        within_slo=sum(r.is_within(ttft_ms, itl_ms) for r in ended) / len(ended) if asked and ended else None,
        cpu=cpu,
    )


def _rounded(quantiles: Quantiles | None) -> dict[str, float | None] | None:
    if quantiles is None:
        return None
    values = dataclasses.asdict(quantiles)
    return {name: None if value is None else round(value, 3) for name, value in values.items()}
