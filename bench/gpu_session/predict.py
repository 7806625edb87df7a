"""`python -m bench.gpu_session.predict`: what the planner has for length mixes, written before they are measured.

Every row of profiles/measured is asked about every mix, by the function that the operator plans with. Where a GPU type
has no row of a configuration that another one has, the answer is the datasheet's, as the operator's would be, and is
labelled Estimated. The file names the commit of the planner: `bench.gpu_session.judge_blind` holds it against journals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shoal.domain.profile import LengthMix, Profile, ProfileRow
from shoal.domain.reasons import ProfileState
from shoal.domain.service import Objective
from shoal.planner.capacity import Basis, Rating, rate_row
from shoal.planner.datasheets import known_datasheet
from shoal.planner.estimate import estimate_row
from shoal.planner.rows import usable_rows
from shoal.profiler.lengths import parse_lengths
from shoal.sim.profile_files import read_profiles

ROOT: Final = Path(__file__).resolve().parents[2]
PROFILES: Final = ROOT / "profiles" / "measured"
PREDICTIONS: Final = Path(__file__).parent / "predictions"
LONGEST: Final = 2000  # tokens of prompt and answer together, as the session has it
OBJECTIVE: Final = Objective(95, 500.0, 50.0)
MIXES: Final[Mapping[str, str]] = {
    "chat": "gamma:512,128",
    "long-prompts": "gamma:1024,96",
    "long-answers": "gamma:256,320",
    "both-longer": "gamma:768,192",
    "longest-prompts": "gamma:1500,64",
}
PLANNER: Final = ("operator/shoal/planner", "operator/shoal/domain", "profiles/measured")


def rate(row: ProfileRow, mix: LengthMix, state: ProfileState = ProfileState.MEASURED) -> Rating | None:
    """The planner's answer for one engine at full clock; None when the row says nothing."""
    basis = Basis(
        row=row,
        state=state,
        profile=None,
        clock_mhz=None,
        lengths=mix,
        objective=OBJECTIVE,
        kv_cache_tokens=row.kv_cache_tokens,
    )
    return rate_row(basis)


def knee_of(rating: Rating) -> float:
    """The highest rate within the objective, before any margin."""
    return rating.curve.highest_rate(OBJECTIVE.ttft_ms, OBJECTIVE.itl_ms)[0]


def rates_of(rating: Rating, engines: int) -> dict[str, Any]:
    """Saturation, knee and planned rate of all engines of a replica, per second, and what binds them."""
    capacity = rating.capacity
    return {
        "saturation": round(capacity.overload_rate * engines, 3),
        "knee": round(knee_of(rating) * engines, 3),
        "planned": round(capacity.rate * engines, 3),
        "margin": round(capacity.margin, 3),
        "limit": capacity.limit,
        "notes": list(capacity.notes),
    }


def shape_of(row: ProfileRow) -> dict[str, Any]:
    """What a configuration is told apart by."""
    return {
        "tensorParallel": row.tensor_parallel,
        "enginesPerGPU": row.engines_per_gpu,
        "maxNumSeqs": row.max_num_seqs,
        "maxNumBatchedTokens": row.max_num_batched_tokens,
        "kvCacheTokens": row.kv_cache_tokens,
    }


def predict(profiles: tuple[Profile, ...]) -> Iterator[dict[str, Any]]:
    """One entry for each row or missing row, and mix."""
    known = {(p.model, p.accelerator, _key(row)) for p in profiles for row in usable_rows(p)}
    accelerators = sorted({profile.accelerator for profile in profiles})
    for profile in profiles:
        for row in usable_rows(profile):
            if row.mps:  # mixes are measured on engines that are alone, or share a GPU without it
                continue
            yield from _entries(profile, profile.accelerator, row, ProfileState.MEASURED)
            for other in accelerators:
                if (profile.model, other, _key(row)) not in known:
                    yield from _entries(profile, other, row, ProfileState.ESTIMATED)


def _key(row: ProfileRow) -> tuple[int, ...]:
    return row.tensor_parallel, row.engines_per_gpu, row.max_num_seqs, row.max_num_batched_tokens


def _entries(profile: Profile, accelerator: str, row: ProfileRow, state: ProfileState) -> Iterator[dict[str, Any]]:
    for name, lengths in MIXES.items():
        mix = parse_lengths(lengths).mix(LONGEST)
        asked = row if state is ProfileState.MEASURED else _estimated(profile, accelerator, row, mix)
        rating = None if asked is None else rate(asked, mix, state)
        if rating is not None:
            yield {
                "model": profile.model,
                "accelerator": accelerator,
                **shape_of(row),
                "profile": profile.name if state is ProfileState.MEASURED else None,
                "state": state.value,
                "steps": row.steps is not None,
                "mix": name,
                "lengths": lengths,
                **rates_of(rating, row.engines_per_gpu),
            }


def _estimated(profile: Profile, accelerator: str, row: ProfileRow, mix: LengthMix) -> ProfileRow | None:
    datasheet = known_datasheet(accelerator)
    if profile.facts is None or datasheet is None:
        return None
    shape = {"tensor_parallel": row.tensor_parallel, "engines_per_gpu": row.engines_per_gpu}
    return estimate_row(profile.facts, datasheet, mix, kv_cache_tokens=row.kv_cache_tokens, **shape)


def planner_commit() -> str:
    """The last commit that touched the planner or the profiles; `+changes` when the files differ from it."""
    last = _git("log", "-1", "--format=%h", "--", *PLANNER)
    return last + ("+changes" if _git("status", "--porcelain", "--", *PLANNER) else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Write the file; return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the file, as in 2026-11-28")
    path = PREDICTIONS / f"{parser.parse_args().name}.json"
    if path.exists():
        print(f"{path} exists: predictions are written once, before the measurement", file=sys.stderr)
        return 1
    entries = list(predict(read_profiles(PROFILES)))
    head = {
        "written": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "plannerCommit": planner_commit(),
        "objective": {"percentile": 95, "ttftMs": 500, "itlMs": 50},
        "longest": LONGEST,
    }
    path.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    path.write_text(f'{json.dumps(head)[:-1]},\n "entries": [\n{lines}\n ]}}\n')
    print(path, len(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
