"""Sites in the shared clusters, one per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from operators import Site

from e2e.devcluster import DevCluster


def _open(cluster: DevCluster, logs: Path) -> Iterator[Site]:
    site = Site(cluster, logs)
    site.install()
    site.apply_engine_class()
    yield site
    site.stop()


@pytest.fixture
def site(control_plane: DevCluster, tmp_path: Path) -> Iterator[Site]:
    """No nodes: pods stay Pending, everything else is real. The pool lets 8 GPUs be waited for."""
    for opened in _open(control_plane, tmp_path):
        opened.apply_pool(maxGPUs=8)
        yield opened


@pytest.fixture
def live_site(live_cluster: DevCluster, tmp_path: Path) -> Iterator[Site]:
    """Nodes with simulated GPUs, on which engines run as processes."""
    for opened in _open(live_cluster, tmp_path):
        opened.apply_pool()
        yield opened
