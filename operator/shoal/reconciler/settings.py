"""Everything about the operator that is set from outside, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class SettingsError(ValueError):
    """An environment variable that cannot be used; the message names it and what would do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How this operator process runs. Intervals in seconds.

    `watch_namespaces` empty: the whole cluster. `xds_address` is what routers dial (`host:port`), not where we listen.
    `max_concurrent_moves` None: no limit.
    """

    namespace: str
    identity: str
    bind_address: str
    xds_address: str
    planning_interval: float = 5.0
    resync_interval: float = 60.0
    shrink_after: float = 120.0
    xds_port: int = 18000
    health_port: int = 8080
    metrics_port: int = 9090
    workers: int = 16
    max_concurrent_moves: int | None = None
    max_capacity_loss_percent: int = 100
    energy_price_per_kwh: float = 0.0
    paused: bool = False
    router_image: str | None = None
    profiler_image: str | None = None
    profiler_most_lag_ms: float = 5.0
    profiler_shortest_seconds: float = 4.0
    prometheus_url: str | None = None
    watch_namespaces: tuple[str, ...] = ()
    json_logs: bool = True


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read `SHOAL_*`, `POD_IP`, `POD_NAME`, `POD_NAMESPACE`. Raises SettingsError."""
    read = _Reader(environment)
    bind = environment.get("POD_IP") or "127.0.0.1"
    xds_port = read.integer("SHOAL_XDS_PORT", 18000, 1, 65535)
    return Settings(
        namespace=environment.get("SHOAL_NAMESPACE") or environment.get("POD_NAMESPACE") or _own_namespace(),
        identity=environment.get("POD_NAME") or f"shoal-{bind}-{xds_port}",
        bind_address=bind,
        xds_address=environment.get("SHOAL_XDS_ADDRESS") or f"{bind}:{xds_port}",
        planning_interval=read.number("SHOAL_PLANNING_INTERVAL_SECONDS", 5.0, 0.5, 300.0),
        resync_interval=read.number("SHOAL_RESYNC_SECONDS", 60.0, 1.0, 3600.0),
        shrink_after=read.number("SHOAL_SHRINK_AFTER_SECONDS", 120.0, 1.0, 86400.0),
        xds_port=xds_port,
        health_port=read.integer("SHOAL_HEALTH_PORT", 8080, 1, 65535),
        metrics_port=read.integer("SHOAL_METRICS_PORT", 9090, 1, 65535),
        workers=read.integer("SHOAL_WORKERS", 16, 1, 256),
        max_concurrent_moves=read.integer("SHOAL_MAX_CONCURRENT_MOVES", 0, 0, 100_000) or None,
        max_capacity_loss_percent=read.integer("SHOAL_MAX_CAPACITY_LOSS_PERCENT", 100, 1, 100),
        energy_price_per_kwh=read.number("SHOAL_ENERGY_PRICE_PER_KWH", 0.0, 0.0, 1000.0),
        paused=read.flag("SHOAL_PAUSED"),
        router_image=environment.get("SHOAL_ROUTER_IMAGE") or None,
        profiler_most_lag_ms=read.number("SHOAL_PROFILER_MOST_LAG_MILLISECONDS", 5.0, 1.0, 10_000.0),
        profiler_shortest_seconds=read.number("SHOAL_PROFILER_SHORTEST_SECONDS", 4.0, 1.0, 60.0),
        profiler_image=environment.get("SHOAL_PROFILER_IMAGE") or None,
        prometheus_url=environment.get("SHOAL_PROMETHEUS_URL") or None,
        watch_namespaces=tuple(sorted(set(environment.get("SHOAL_WATCH_NAMESPACES", "").replace(",", " ").split()))),
        json_logs=read.choice("SHOAL_LOG_FORMAT", "json", ("json", "text")) == "json",
    )


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "shoal-system"


@dataclass(frozen=True, slots=True)
class _Reader:
    environment: Mapping[str, str]

    def number(self, name: str, default: float, low: float, high: float) -> float:
        text = self.environment.get(name) or str(default)
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{name}={text!r} is not a number") from None
        if not low <= value <= high:
            raise SettingsError(f"{name}={text} is outside {low:g} to {high:g}")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.number(name, default, low, high)
        if value != int(value):
            raise SettingsError(f"{name}={value} is not a whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        return self.choice(name, "false", ("true", "false", "1", "0")) in ("true", "1")

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        text = (self.environment.get(name) or default).lower()
        if text not in allowed:
            raise SettingsError(f"{name}={text!r}: use one of {', '.join(allowed)}")
        return text
