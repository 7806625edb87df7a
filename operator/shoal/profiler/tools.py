"""Profiles as files: merging several into one, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.api.errors import ApiError
from shoal.api.load import load_files
from shoal.api.model_profile import ModelProfile, ProfileRowSpec
from shoal.profiler.errors import ProfilerError

RowKey = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One number of one row that differs; None: the row or the number is only in the other."""

    row: str
    field: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        """after/before - 1."""
        return None if not self.before or self.after is None else self.after / self.before - 1


def read_profile(path: Path) -> ModelProfile:
    """The one ModelProfile of a file. Raises ProfilerError."""
    try:
        found = [resource for resource in load_files([path]) if isinstance(resource, ModelProfile)]
    except ApiError as error:
        raise ProfilerError(str(error)) from error
    if len(found) != 1:
        raise ProfilerError(f"{path} has {len(found)} ModelProfiles: name files with one each")
    return found[0]


def row_key(row: ProfileRowSpec) -> RowKey:
    """What tells rows apart: the configuration and the mix of lengths."""
    return (
        row.tensor_parallel,
        row.engines_per_gpu,
        row.max_num_seqs,
        row.max_num_batched_tokens,
        row.api_servers or 1,
        int(bool(row.mps)),
        round(row.kv_cache_tokens),
        round(row.input_tokens.mean),
        round(row.output_tokens.mean),
    )


def merge_profiles(named: Sequence[tuple[str, ModelProfile]]) -> ModelProfile:
    """All rows in one; of rows with one key the last counts. Raises ProfilerError for profiles of different things."""
    first_name, first = named[0]
    for name, other in named[1:]:
        for what in ("model", "accelerator", "engine", "link", "source"):
            one, two = getattr(first.spec, what), getattr(other.spec, what)
            if one != two:
                raise ProfilerError(
                    f"{name} and {first_name} differ in {what}: {_short(two)} is not {_short(one)}; only profiles of "
                    "the same model, GPU type, engine version, link and source can be merged"
                )
    rows = {row_key(row): row for _, profile in named for row in profile.spec.rows}
    clocks = [profile.spec.clock_mhz for _, profile in named if profile.spec.clock_mhz]
    spec = first.spec.model_copy(
        update={
            "rows": tuple(rows[key] for key in sorted(rows)),
            "clock_mhz": max(clocks, default=None),
            "provenance": named[-1][1].spec.provenance,
        }
    )
    return ModelProfile.model_validate(first.model_copy(update={"spec": spec}).to_dict(), strict=False)


def _short(value: Any) -> str:
    name, version = getattr(value, "name", None), getattr(value, "version", None)
    return " ".join(str(part) for part in (name, version) if part) or str(value)


def compare_profiles(before: ModelProfile, after: ModelProfile, *, least: float = 0.01) -> list[Difference]:
    """Numbers that changed by more than `least`, and rows that only one of them has."""
    olds = {row_key(row): row for row in before.spec.rows}
    news = {row_key(row): row for row in after.spec.rows}
    found = list(_compare_numbers("profile", {"clockMHz": before.spec.clock_mhz}, {"clockMHz": after.spec.clock_mhz}))
    for key in sorted(olds.keys() | news.keys()):
        label = row_label(olds.get(key) or news[key])
        found += _compare_numbers(label, _numbers(olds.get(key)), _numbers(news.get(key)))
    return [one for one in found if one.change is None or abs(one.change) > least]


def row_label(row: ProfileRowSpec) -> str:
    """How people call a row."""
    mps = " MPS" if row.mps else ""
    shared = f" {row.engines_per_gpu}/GPU{mps}" if row.engines_per_gpu > 1 else ""
    return (
        f"TP{row.tensor_parallel}{shared} B{row.max_num_seqs} C{row.max_num_batched_tokens} "
        f"{row.input_tokens.mean:.0f}/{row.output_tokens.mean:.0f} tokens"
    )


def _compare_numbers(row: str, before: dict[str, float | None], after: dict[str, float | None]) -> Iterator[Difference]:
    for name in before.keys() | after.keys():
        one, two = before.get(name), after.get(name)
        if one != two:
            yield Difference(row, name, one, two)


def _numbers(row: ProfileRowSpec | None) -> dict[str, float | None]:
    if row is None:
        return {}
    steps = row.steps.to_dict() if row.steps else {}
    busiest = row.points[-1] if row.points else None
    quietest = row.points[0] if row.points else None
    return {
        "overloadRate": row.overload_rate,
        **{name: float(value) for name, value in steps.items()},
        "lowest rate": quietest.requests_per_second if quietest else None,
        "TTFT p95 there": quietest.ttft_milliseconds.p95 if quietest else None,
        "ITL p95 there": quietest.itl_milliseconds.p95 if quietest else None,
        "highest rate": busiest.requests_per_second if busiest else None,
    }
