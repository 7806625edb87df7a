"""Fixtures of the whole suite: real control planes, started once per test session."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.devcluster import Config, DevCluster

SECONDS_OF_A_MARK = {"long": 30.0, "cluster": 0.3}
"""About what a test of this marker takes; others take next to nothing."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take longest come first: xdist hands them out in this order, and none is left for one worker."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    seconds: dict[str, float] = defaultdict(float)
    for item in items:
        marked = (length for mark, length in SECONDS_OF_A_MARK.items() if item.get_closest_marker(mark))
        seconds[_module_of(item)] += next(marked, 0.01)
    items.sort(key=lambda item: -seconds[_module_of(item)])


def _module_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _session_directory(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a directory that all pytest-xdist workers of this session share."""
    base = factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    return shared / name


def _run(request: pytest.FixtureRequest, directory: Path, config: Config) -> Iterator[DevCluster]:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    cluster = DevCluster(config, directory=directory)
    with capture.global_and_fixture_disabled():
        cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """The real control plane without nodes: nothing runs, everything else is as in any cluster."""
    yield from _run(request, _session_directory(tmp_path_factory, "control-plane"), Config(nodes=()))


@pytest.fixture(scope="session")
def devcluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A devcluster with the default nodes: four H100 by DRA, four L40S by device plugin, one node without GPUs."""
    yield from _run(request, _session_directory(tmp_path_factory, "devcluster"), Config(crash_back_off_seconds=0.5))


@pytest.fixture(scope="session")
def live_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A devcluster of this worker's own, for operators that plan with its GPUs: two pools cannot own the same ones."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    yield from _run(request, _session_directory(tmp_path_factory, f"live-{worker}"), Config(crash_back_off_seconds=0.5))
