"""What a simulation plays: pools, services with their traffic, and what happens to GPUs meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from shoal.domain.profile import Link
from shoal.domain.service import Limits, Objective, Parallelism

SHIPPED = Path(__file__).parent / "scenarios"
T = TypeVar("T")


class ScenarioError(ValueError):
    """The scenario cannot be played; the message names the field."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A pool of simulated GPUs, `per_node` of them on each node."""

    name: str
    accelerator: str
    gpus: int
    per_node: int = 4
    memory_gib: float = 80.0
    max_clock_mhz: float = 1980.0
    price_per_gpu_hour: float = 1.0
    link: Link = Link.NVLINK


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A ModelService and its traffic.

    `schedule`: (seconds, requests per second) pieces. `declared_rate` None: nothing was declared. `pools` empty: all.
    """

    name: str
    model: str
    objective: Objective
    schedule: tuple[tuple[float, float], ...]
    input_mean: float = 512.0
    output_mean: float = 128.0
    declared_rate: float | None = None
    pools: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    parallelism: Parallelism = field(default_factory=Parallelism)
    max_context_tokens: int = 8192
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Heat:
    """From `at` seconds on, GPU number `gpu` of a pool runs at `ratio` of its highest clock."""

    at: float
    pool: str
    gpu: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """One play. It lasts as long as the longest schedule; then requests under way are still answered."""

    name: str
    pools: tuple[PoolSpec, ...]
    services: tuple[ServiceSpec, ...]
    heat: tuple[Heat, ...] = ()
    startup_seconds: float = 90.0
    tick_seconds: float = 5.0
    drain_seconds: float = 120.0
    shrink_after_seconds: float = 120.0
    settle_seconds: float = 60.0  # after a step of the rate; the share within the SLO is also told without them
    seed: int = 0

    @property
    def seconds(self) -> float:
        """How long requests arrive."""
        return max(sum(seconds for seconds, _ in service.schedule) for service in self.services)


def shipped_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with Shoal."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def load_scenario(name_or_file: str) -> Scenario:
    """A shipped scenario by name, or one from a YAML file. Raises ScenarioError."""
    path = SHIPPED / f"{name_or_file}.yaml" if name_or_file in shipped_scenarios() else Path(name_or_file)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        names = ", ".join(shipped_scenarios())
        raise ScenarioError(
            f"{name_or_file}: neither one of {names} nor a YAML file that can be read: {error}"
        ) from error
    return read_scenario(given, name=path.stem)


def read_scenario(given: Any, *, name: str) -> Scenario:
    """A scenario from decoded YAML. Raises ScenarioError."""
    values = _values(Scenario, {"name": name, **_mapping(given, "scenario")}, "scenario")
    values["pools"] = _each(values.get("pools"), "pools", _read_pool)
    values["services"] = _each(values.get("services"), "services", _read_service)
    values["heat"] = _each(values.get("heat", []), "heat", lambda item, where: Heat(**_values(Heat, item, where)))
    scenario = Scenario(**values)
    _check(scenario)
    return scenario


def _read_pool(item: Any, where: str) -> PoolSpec:
    values = _values(PoolSpec, item, where)
    try:
        return PoolSpec(**values | {"link": Link(values.get("link", Link.NVLINK))})
    except ValueError as error:
        raise ScenarioError(f"{where}.link: {error}") from error


def _read_service(item: Any, where: str) -> ServiceSpec:
    values = _values(ServiceSpec, item, where)
    for key, kind in (("objective", Objective), ("limits", Limits), ("parallelism", Parallelism)):
        if key in values:
            values[key] = _read_part(kind, values[key], f"{where}.{key}")
    values["pools"] = tuple(values.get("pools", ()))
    try:
        values["schedule"] = tuple((float(seconds), float(rate)) for seconds, rate in values["schedule"])
    except (TypeError, ValueError) as error:
        raise ScenarioError(f"{where}.schedule: expected [[seconds, requests per second], ...]") from error
    return ServiceSpec(**values)


def _read_part(kind: type[Any], given: Any, where: str) -> Any:
    """One of the domain's small dataclasses; its tuples are lists in YAML."""
    parts = _values(kind, given, where)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in parts.items()})


def _values(kind: type[Any], given: Any, where: str) -> dict[str, Any]:
    """The fields of a dataclass from a mapping: none unknown, none missing."""
    mapping = _mapping(given, where)
    known = {f.name: f for f in fields(kind)}
    if unknown := mapping.keys() - known.keys():
        raise ScenarioError(f"{where}: unknown {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    needed = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := needed - mapping.keys():
        raise ScenarioError(f"{where}: {', '.join(sorted(missing))} missing")
    return dict(mapping)


def _mapping(given: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ScenarioError(f"{where}: expected a mapping, not {given!r}")
    return given


def _each(given: Any, where: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
    if not isinstance(given, list):
        raise ScenarioError(f"{where}: expected a list")
    return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(given))


def _check(scenario: Scenario) -> None:
    if not scenario.pools or not scenario.services:
        raise ScenarioError("scenario: at least one pool and one service are needed")
    _check_unique("pools", (pool.name for pool in scenario.pools))
    _check_unique("services", (service.name for service in scenario.services))
    pools = {pool.name: pool for pool in scenario.pools}
    for service in scenario.services:
        if unknown := set(service.pools) - pools.keys():
            raise ScenarioError(f"services.{service.name}.pools: unknown {', '.join(sorted(unknown))}")
        if service.objective.ttft_ms is None and service.objective.itl_ms is None:
            raise ScenarioError(f"services.{service.name}.objective: ttft_ms or itl_ms is needed")
        if any(seconds <= 0 or rate < 0 for seconds, rate in service.schedule) or not service.schedule:
            raise ScenarioError(f"services.{service.name}.schedule: seconds are positive, rates not negative")
    for heat in scenario.heat:
        if heat.pool not in pools or not 0 <= heat.gpu < pools[heat.pool].gpus or not 0 < heat.ratio <= 1:
            raise ScenarioError(f"heat: no such GPU, or a ratio outside (0, 1]: {heat}")


def _check_unique(what: str, names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise ScenarioError(f"{what}: names must differ: {', '.join(listed)}")
