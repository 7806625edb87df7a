"""A namespace per test, and pods in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from devcluster_pods import Pods

from e2e.devcluster import DevCluster

_numbers = itertools.count(1)


@pytest.fixture
def namespace(devcluster: DevCluster, request: pytest.FixtureRequest, worker_id: str) -> Iterator[str]:
    name = f"{request.node.originalname.replace('_', '-')[:40]}-{worker_id}-{next(_numbers)}"
    devcluster.create_namespace(name)
    yield name
    devcluster.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def pods(devcluster: DevCluster, namespace: str) -> Pods:
    return Pods(devcluster, namespace)
