"""What a person sees: a live table, and the summary at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from e2e.demo.summary import Summary
from e2e.demo.timeline import Stream

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LiveTraffic:
    """The last 30 s of one stream as its clients saw them. None: no answer yet."""

    rate: float
    ttft_p95_ms: float | None
    itl_p95_ms: float | None
    sent: int
    lost: int


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything one frame shows."""

    stamp: str
    elapsed: float
    end: float
    act: str
    streams: tuple[Stream, ...]
    traffic: Mapping[str, LiveTraffic]
    services: Mapping[str, Object]
    gpus: Mapping[str, str]  # pool -> "3 of 4"


def make_frame(frame: Frame) -> RenderableType:
    """Lay out one frame."""
    table = Table(expand=True, header_style="bold")
    for heading in ("service", "rate/s", "p95 TTFT", "p95 ITL", "lost", "plan", "ready", "clocks", "last decision"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("last decision", "clocks"))
    for stream in frame.streams:
        table.add_row(*_row(stream, frame.traffic.get(stream.service), frame.services.get(stream.service, {})))
    for name in sorted(set(frame.services) - {stream.service for stream in frame.streams}):
        table.add_row(*_quiet_row(name, frame.services[name]))
    pools = "   ".join(f"{pool}: {text} GPUs" for pool, text in frame.gpus.items())
    head = Text(f"{frame.elapsed:5.0f} s of {frame.end:.0f} s   {frame.act}", style="bold cyan")
    return Panel(Group(head, table, Text(pools, style="dim")), title=frame.stamp, title_align="left")


def _row(stream: Stream, traffic: LiveTraffic | None, service: Object) -> tuple[RenderableType, ...]:
    if traffic is None:
        return _quiet_row(stream.service, service)
    return (
        stream.service,
        f"{traffic.rate:.1f}",
        _against(traffic.ttft_p95_ms, stream.ttft_ms),
        _against(traffic.itl_p95_ms, stream.itl_ms),
        Text(str(traffic.lost), style="red" if traffic.lost else "green"),
        *_state(service),
    )


def _quiet_row(name: str, service: Object) -> tuple[RenderableType, ...]:
    return (name, "", "", "", "", *_state(service))


def _state(service: Object) -> tuple[RenderableType, ...]:
    status = service.get("status", {})
    plan = status.get("plan", {}).get("summary", "-")
    ready = f"{status.get('readyReplicas', 0)}/{status.get('replicas', 0)}"
    hot = [f"{gpu['derating']:.0%}" for gpu in status.get("gpus", ()) if gpu.get("derating", 1) < 0.99]
    history = status.get("history", ())
    last = f"{history[0]['from']} -> {history[0]['to']}: {history[0]['why']}" if history else "-"
    return plan, ready, Text(" ".join(hot) or "full", style="yellow" if hot else ""), last


def _against(value: float | None, objective: float) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:.0f}/{objective:.0f} ms", style="green" if value <= objective else "red")


def make_report(summary: Summary) -> RenderableType:
    """Lay out the summary."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("requests", f"{summary.sent} sent, {summary.answered} answered, {summary.lost} lost")
    facts.add_row("within the SLO", f"{summary.within_slo:.1%}; {summary.within_slo_outside_steps:.1%} outside steps")
    facts.add_row("GPU-hours", f"{summary.gpu_hours:.3f}")
    decisions = Table(title="Decisions", title_justify="left", expand=True)
    for heading in ("at", "service", "from", "to", "why"):
        decisions.add_column(heading, overflow="fold")
    for decided in summary.decisions:
        decisions.add_row(f"{decided.at:.0f} s", decided.service, decided.before, decided.after, decided.why)
    claims = Table(title="Claims", title_justify="left", expand=True)
    for heading in ("", "claim", "seen"):
        claims.add_column(heading, overflow="fold")
    for claim in summary.claims:
        claims.add_row(Text("held", "green") if claim.held else Text("FAILED", "bold red"), claim.name, claim.detail)
    return Panel(Group(facts, decisions, claims), title=f"Summary: {summary.stamp}", title_align="left")
