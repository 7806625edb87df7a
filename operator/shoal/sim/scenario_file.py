"""Scenarios from YAML files. What is wrong is told with the path of the field, what was expected and what was found."""

from __future__ import annotations

import difflib
import enum
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from shoal.sim.incidents import GPULoss, Heat, NodeLoss
from shoal.sim.rates import Piece, Schedule, make_diurnal, make_flash_crowd
from shoal.sim.scenario import PoolSpec, Scenario, ScenarioError, ServiceSpec
from shoal.sim.traces import Trace, TraceError, read_trace

SHIPPED = Path(__file__).parent / "scenarios"
_WORDS = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
_ANY_TRAFFIC = {"wander": 0.0, "wander_seconds": 60.0, "cv": 1.0}
_CROWD = {"rise": 20.0, "hold": 300.0, "fall": 120.0}
_TRAFFIC: dict[str, dict[str, float | None]] = {  # kind -> fields; None: must be given
    "constant": {"seconds": None, "rate": None},
    "bursts": {"seconds": None, "rate": None, "cv": 3.0},
    "diurnal": {"seconds": None, "low": None, "high": None, "period": 86400.0},
    "flash-crowd": {"seconds": None, "low": None, "high": None, "at": None, **_CROWD},
}


def shipped_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with Shoal."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def load_scenario(name_or_file: str) -> Scenario:
    """A shipped scenario by name, or one from a YAML file. Raises ScenarioError."""
    path = SHIPPED / f"{name_or_file}.yaml" if name_or_file in shipped_scenarios() else Path(name_or_file)
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        names = ", ".join(shipped_scenarios())
        raise ScenarioError(
            f"{name_or_file}: neither one of {names} nor a YAML file that can be read: {error}"
        ) from error
    return read_scenario(given, name=path.stem, folder=path.parent)


def read_scenario(given: Any, *, name: str, folder: Path = Path()) -> Scenario:
    """A scenario from decoded YAML; files it names are relative to `folder`. Raises ScenarioError."""
    mapping = dict(_mapping(given, "scenario"))
    services = _list(mapping.pop("services", None), "services")
    mapping["services"] = [_plain_service(item, f"services[{n}]", folder) for n, item in enumerate(services)]
    scenario: Scenario = _read(Scenario, {"name": name, **mapping}, "")
    _check(scenario)
    return scenario


def _plain_service(item: Any, where: str, folder: Path) -> dict[str, Any]:
    """A service whose `traffic` and `lengths` are spelled out in the fields of ServiceSpec."""
    service = dict(_mapping(item, where))
    if ("schedule" in service) == ("traffic" in service) or "trace" in service:
        raise ScenarioError(f"{where}: needs either schedule ([[seconds, requests per second], ...]) or traffic")
    if lengths := service.pop("lengths", None):
        shape = _mapping(lengths, f"{where}.lengths")
        _refuse_unknown(shape, ("shape", "cv"), f"{where}.lengths")
        service |= {"length_shape": shape.get("shape", "gamma"), "length_cv": shape.get("cv")}
    if traffic := service.pop("traffic", None):
        service |= _read_traffic(_mapping(traffic, f"{where}.traffic"), f"{where}.traffic", folder)
    return service


def _read_traffic(given: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    kind, values = given.get("kind"), {key: value for key, value in given.items() if key != "kind"}
    if kind == "trace":
        return {"trace": _read_trace(values, where, folder)}
    if kind not in _TRAFFIC:
        raise ScenarioError(f"{where}.kind: {kind!r} is none of {', '.join([*_TRAFFIC, 'trace'])}")
    known = _ANY_TRAFFIC | _TRAFFIC[kind]
    _refuse_unknown(values, tuple(known), where)
    if missing := [field for field, default in known.items() if default is None and field not in values]:
        raise ScenarioError(f"{where}: {', '.join(missing)} missing")
    numbers = {
        field: _convert(values.get(field, default), float, f"{where}.{field}") for field, default in known.items()
    }
    extra = {
        "wander": numbers.pop("wander"),
        "wander_seconds": numbers.pop("wander_seconds"),
        "burst_cv": numbers.pop("cv"),
    }
    if numbers["seconds"] <= 0 or min(numbers.values()) < 0 or numbers.get("period", 1.0) == 0:
        raise ScenarioError(f"{where}: seconds and period are positive, nothing is negative")
    return {"schedule": _make_schedule(kind, numbers, where), **extra}


def _make_schedule(kind: str, numbers: dict[str, float], where: str) -> Schedule:
    if kind == "diurnal":
        return make_diurnal(**numbers)
    if kind == "flash-crowd":
        if (end := sum(numbers[part] for part in ("at", "rise", "hold", "fall"))) > numbers["seconds"]:
            raise ScenarioError(f"{where}: at, rise, hold and fall add up to {end:g} s, more than seconds")
        return make_flash_crowd(**numbers)
    return ((numbers["seconds"], numbers["rate"]),)


def _read_trace(values: Mapping[str, Any], where: str, folder: Path) -> Trace:
    _refuse_unknown(values, ("file", "speed", "seconds"), where)
    file = _convert(values.get("file"), str, f"{where}.file")
    seconds = values.get("seconds")
    try:
        return read_trace(
            folder / file,
            speed=_convert(values.get("speed", 1.0), float, f"{where}.speed"),
            most_seconds=None if seconds is None else _convert(seconds, float, f"{where}.seconds"),
        )
    except (OSError, TraceError) as error:
        raise ScenarioError(f"{where}.file: {error}") from error


def _read(kind: type[Any], given: Any, where: str) -> Any:
    """A dataclass from a mapping: no field unknown, none missing, each of its type."""
    mapping = _mapping(given, where or "scenario")
    known = {f.name: f for f in fields(kind)}
    _refuse_unknown(mapping, tuple(known), where or "scenario")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in mapping]:
        raise ScenarioError(f"{where or 'scenario'}: {', '.join(missing)} missing")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    return kind(**{name: _convert(value, hints[name], f"{prefix}{name}") for name, value in mapping.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:  # noqa: PLR0911 - one line for each kind of type
    """A decoded YAML value as the type of a field."""
    if hint == Schedule:
        return _schedule(value, where)
    if isinstance(hint, types.UnionType):
        return None if value is None else _convert(value, next(t for t in hint.__args__ if t is not type(None)), where)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_convert(v, item, f"{where}[{n}]") for n, v in enumerate(_list(value, where)))
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool) and not isinstance(value, float):
        return value
    if is_dataclass(hint):
        return _read(typing.cast("type[Any]", hint), value, where)
    if issubclass(hint, enum.Enum):
        return _choice(hint, value, where)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ScenarioError(f"{where}: expected {_WORDS.get(hint, hint.__name__)}, not {value!r}")


def _choice(kind: type[enum.Enum], value: Any, where: str) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(str(member.value) for member in kind)
        raise ScenarioError(f"{where}: {value!r} is none of {names}") from None


def _schedule(value: Any, where: str) -> Schedule:
    pieces: list[Piece] = []
    for piece in _list(value, where):
        numbers = piece if isinstance(piece, list | tuple) else ()
        if len(numbers) not in (2, 3) or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise ScenarioError(
                f"{where}: expected [[seconds, requests per second], ...] or [seconds, from, to], not {piece!r}"
            )
        pieces.append(tuple(map(float, numbers)))  # type: ignore[arg-type]
    return tuple(pieces)


def _refuse_unknown(mapping: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in mapping:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            meant = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
            raise ScenarioError(f"{where}: unknown {name}{meant}")


def _mapping(given: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ScenarioError(f"{where}: expected a mapping, not {given!r}")
    return given


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise ScenarioError(f"{where}: expected a list, not {given!r}")
    return list(given)


def _check(scenario: Scenario) -> None:
    if not scenario.pools or not scenario.services:
        raise ScenarioError("scenario: at least one pool and one service are needed")
    _check_unique("pools", (pool.name for pool in scenario.pools))
    _check_unique("services", (service.name for service in scenario.services))
    pools = {pool.name: pool for pool in scenario.pools}
    for pool in scenario.pools:
        if pool.gpus < 1 or pool.per_node < 1 or pool.memory_gib <= 0 or pool.max_clock_mhz <= 0:
            raise ScenarioError(f"pools.{pool.name}: gpus, per_node, memory_gib and max_clock_mhz are positive")
    for service in scenario.services:
        _check_service(service, pools)
    for name in ("startup_seconds", "tick_seconds", "drain_seconds"):
        if getattr(scenario, name) <= 0:
            raise ScenarioError(f"{name}: must be positive, not {getattr(scenario, name):g}")
    if not 0 <= scenario.startup_spread < 1:
        raise ScenarioError(f"startup_spread: from 0 to below 1, not {scenario.startup_spread:g}")
    _check_incidents(scenario, pools)


def _check_service(service: ServiceSpec, pools: Mapping[str, PoolSpec]) -> None:
    where = f"services.{service.name}"
    if unknown := set(service.pools) - pools.keys():
        raise ScenarioError(f"{where}.pools: unknown {', '.join(sorted(unknown))}")
    if service.objective.ttft_ms is None and service.objective.itl_ms is None:
        raise ScenarioError(f"{where}.objective: ttft_ms or itl_ms is needed")
    if service.trace is None and (not service.schedule or any(p[0] <= 0 or min(p[1:]) < 0 for p in service.schedule)):
        raise ScenarioError(f"{where}.schedule: seconds are positive, rates not negative")
    if min(service.input_mean, service.output_mean) < 1 or (service.length_cv or 0) < 0 or service.burst_cv < 0:
        raise ScenarioError(f"{where}: mean lengths are at least 1 token, coefficients of variation not negative")
    if not 0 <= service.wander < 1 or service.wander_seconds <= 0:
        raise ScenarioError(f"{where}: wander is from 0 to below 1, wander_seconds positive")


def _check_incidents(scenario: Scenario, pools: Mapping[str, PoolSpec]) -> None:
    for incident in scenario.incidents:
        where = f"{type(incident).__name__} at {incident.at:g} s"
        pool = pools.get(getattr(incident, "pool", scenario.pools[0].name))
        if pool is None:
            raise ScenarioError(f"{where}: no such pool; there are {', '.join(pools)}")
        if incident.at < 0 or (incident.until is not None and incident.until <= incident.at):
            raise ScenarioError(f"{where}: begins at 0 or later, and ends after it has begun")
        if isinstance(incident, Heat | GPULoss) and not 0 <= incident.gpu < pool.gpus:
            raise ScenarioError(f"{where}: no such GPU; {pool.name} has 0 to {pool.gpus - 1}")
        if isinstance(incident, Heat) and not 0 < incident.ratio <= 1:
            raise ScenarioError(f"{where}: ratio is above 0 and at most 1")
        if isinstance(incident, NodeLoss) and not 0 <= incident.node * pool.per_node < pool.gpus:
            raise ScenarioError(f"{where}: no such node; {pool.name} has 0 to {(pool.gpus - 1) // pool.per_node}")


def _check_unique(what: str, names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise ScenarioError(f"{what}: names must differ: {', '.join(listed)}")
