"""Programs that tests and demo run: built once from pinned Go modules, cached outside the checkout."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from e2e.devcluster.binary import BuildError, Progress, cache_dir, find_go, locked, print_progress

HELM_MODULE = Path(__file__).resolve().parent / "helm"
HELM_PACKAGE = "helm.sh/helm/v4/cmd/helm"


def helm_path() -> Path:
    """Where helm of the pinned version belongs; it may not exist yet."""
    digest = hashlib.sha256(f"{platform.system()}/{platform.machine()}".encode())
    for name in ("go.mod", "go.sum"):
        digest.update((HELM_MODULE / name).read_bytes())
    return cache_dir().parent / "helm" / digest.hexdigest()[:16] / "helm"


def helm_binary(progress: Progress = print_progress) -> Path:
    """Return helm's path, building it first where needed (about 3 minutes on two cores). Raises BuildError."""
    target = helm_path()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / "build.lock", progress):
        if not target.exists():
            _build(target, progress)
    return target


def _build(target: Path, progress: Progress) -> None:
    go = find_go(progress)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    nice = ["nice", "-n", "5"] if shutil.which("nice") else []
    command = [*nice, str(go), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(temporary), HELM_PACKAGE]
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    progress("building helm (about 3 minutes on two cores the first time)\n")
    started = time.monotonic()
    built = subprocess.run(command, cwd=HELM_MODULE, env=environment, capture_output=True, text=True, check=False)
    if built.returncode:
        raise BuildError(
            f"building helm failed:\n{built.stderr[-2000:]}\n"
            f"Try it by hand: (cd {HELM_MODULE} && CGO_ENABLED=0 go build -o /dev/null {HELM_PACKAGE})"
        )
    temporary.replace(target)
    progress(f"built helm in {time.monotonic() - started:.0f} s\n")
