"""Finding and building the control plane's binary, with a `go` that only pretends."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from e2e.devcluster import binary
from e2e.devcluster.binary import BuildError, ensure_binary

GO = """#!/bin/sh
case "$1" in
env) echo {version};;
list) echo a; echo b;;
build) echo "package $5" >&2
  while [ "$1" != -o ]; do shift; done
  echo run >> {log}
  {build};;
esac
"""


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; returns the file in which the pretended `go` notes its builds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "builds"


def pretend_go(log: Path, *, version: str = "go1.99.0", build: str = 'echo binary > "$2"') -> None:
    go = log.parent / "go"
    go.write_text(GO.format(version=version, log=log, build=build))
    go.chmod(0o755)


def test_it_is_built_once_even_by_two(builds: Path) -> None:
    pretend_go(builds, build='sleep 0.2; echo binary > "$2"')
    said: list[str] = []
    threads = [threading.Thread(target=ensure_binary, args=(said.append,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = ensure_binary(said.append)
    assert path.read_text() == "binary\n"
    assert builds.read_text() == "run\n"
    assert any("waiting" in line for line in said)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["build.lock", "shoal-controlplane"]


def test_a_failed_build_says_what_to_do(builds: Path) -> None:
    pretend_go(builds, build="echo no space left >&2; exit 1")
    with pytest.raises(BuildError, match=r"(?s)no space left.*Try it by hand.*go build"):
        ensure_binary(lambda _: None)
    assert not binary.binary_path().exists()


def test_an_old_go_is_replaced(builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_go(builds, version="go1.20.1")
    monkeypatch.setattr(binary.sys, "executable", "/bin/false")  # no virtual environment can be made
    with pytest.raises(BuildError, match=r"Go 1\.26\.0 or newer is needed on PATH"):
        ensure_binary(lambda _: None)
    assert not builds.exists()
