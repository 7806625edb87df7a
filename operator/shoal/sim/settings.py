"""What the environment tells a simulated engine, which a real one would find out from its hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SimSettings:
    """Variables `SHOAL_SIM_*` and `SHOAL_GPU_STATE_FILE`.

    `max_waiting`: requests that may wait before 429 is answered; None: as many as one batch; 0: no bound, as in vLLM.
    `stream_seconds`: tokens of an answer are sent in chunks at most that far apart.
    """

    profile_dir: Path | None = None
    accelerator: str | None = None
    engines_per_gpu: int | None = None
    startup_seconds: float = 20.0
    max_waiting: int | None = None
    stream_seconds: float = 0.25
    gpu_uuids: tuple[str, ...] = ()
    gpu_state_file: Path | None = None
    faults_allowed: bool = False
    first_fault: str | None = None  # NAME or NAME=VALUE, from the start

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> SimSettings:
        """Raises ValueError for a number that is none."""
        get = environment.get
        engines, waiting = get("SHOAL_SIM_ENGINES_PER_GPU"), get("SHOAL_SIM_MAX_WAITING")
        profile_dir, state_file = get("SHOAL_SIM_PROFILE_DIR"), get("SHOAL_GPU_STATE_FILE")
        return cls(
            profile_dir=Path(profile_dir) if profile_dir else None,
            accelerator=get("SHOAL_SIM_ACCELERATOR") or None,
            engines_per_gpu=int(engines) if engines else None,
            startup_seconds=float(get("SHOAL_SIM_STARTUP_SECONDS") or 20.0),
            max_waiting=int(waiting) if waiting else None,
            stream_seconds=float(get("SHOAL_SIM_STREAM_SECONDS") or 0.25),
            gpu_uuids=tuple(uuid for uuid in get("SHOAL_SIM_GPU_UUIDS", "").split(",") if uuid),
            gpu_state_file=Path(state_file) if state_file else None,
            faults_allowed=get("SHOAL_SIM_FAULTS") == "1",
            first_fault=get("SHOAL_SIM_FAULT") or None,
        )
