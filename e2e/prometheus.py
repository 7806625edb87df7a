"""A real Prometheus for the tests: the one on PATH, else Debian's package, unpacked beside the other binaries."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from e2e.devcluster.binary import BuildError, Progress, cache_dir, locked, print_progress

_APT_SECONDS = 300


def ensure_prometheus(progress: Progress = print_progress) -> Path:
    """Return the binary's path, fetching the package where needed. Needs no root; raises BuildError."""
    found = shutil.which("prometheus")
    if found:
        return Path(found)
    root = cache_dir().parent / "prometheus"
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / "fetch.lock", progress):
        binary = root / "package" / "usr" / "bin" / "prometheus"
        if not binary.exists():
            _unpack_package(root, progress)
    return binary


def _unpack_package(root: Path, progress: Progress) -> None:
    """Download with apt, which checks signatures, and unpack without installing."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise BuildError("Prometheus is not on PATH and this is no Debian: install Prometheus")
    with tempfile.TemporaryDirectory(dir=root) as name:
        directory = Path(name)
        progress("downloading Debian's Prometheus package")
        package = _download(directory)
        _run(["dpkg-deb", "-x", str(package), str(directory / "package")], directory)
        shutil.rmtree(root / "package", ignore_errors=True)
        (directory / "package").rename(root / "package")


def _download(directory: Path) -> Path:
    """With the machine's package lists; with our own when it has none or old ones."""
    own = [f"-oDir::State::lists={directory}/lists", f"-oDir::Cache={directory}/cache"]
    for part in ("lists/partial", "cache/archives/partial"):
        (directory / part).mkdir(parents=True)
    try:
        _run(["apt-get", "-q", "download", "prometheus"], directory)
    except BuildError:
        _run(["apt-get", "-q", *own, "update"], directory)
        _run(["apt-get", "-q", *own, "download", "prometheus"], directory)
    return next(directory.glob("prometheus_*.deb"))


def _run(command: list[str], directory: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        subprocess.run(
            command, cwd=directory, env=environment, check=True, capture_output=True, text=True, timeout=_APT_SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise BuildError(f"Prometheus cannot be had: `{' '.join(command)}`: {said.strip()}") from error
