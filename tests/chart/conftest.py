"""A cluster of their own for tests of the release: it holds the chart, and the session's shared one does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chart_tools import CHART, NAMESPACE, helm

from e2e.devcluster import Config, DevCluster


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """A control plane with the chart installed, taints allowed. Nothing runs: it has no nodes."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with (
        capture.global_and_fixture_disabled(),
        DevCluster(Config(nodes=()), directory=tmp_path_factory.mktemp("release")) as cluster,
    ):
        access = ("--kubeconfig", str(cluster.admin_kubeconfig_path))
        place = ("--namespace", NAMESPACE, "--create-namespace")
        done = helm("install", "shoal", str(CHART), *place, *access, values={"taints": {"enabled": True}})
        assert done.returncode == 0, done.stderr
        yield cluster
