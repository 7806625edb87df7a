"""Clusters that the devcluster does not make itself: kind's, and one behind a context that was named."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal, Self

from e2e.devcluster.access import Cluster
from e2e.devcluster.cluster import DevCluster, DevClusterError
from e2e.devcluster.config import Config
from e2e.devcluster.kubeconfig import read_kubeconfig
from e2e.devcluster.state import state_root

ClusterKind = Literal["embedded", "kind", "context"]
_KIND_SECONDS = 300


class KindCluster(Cluster):
    """A cluster made by kind: containers instead of processes, its kubeconfig in our own directory."""

    def __init__(self, name: str = "default") -> None:
        self._name = f"shoal-{name}"
        directory = state_root() / self._name
        super().__init__(directory / "kubeconfig", directory)

    def start(self) -> Self:
        """Create the cluster, or use the one of our name. Raises DevClusterError."""
        for tool in ("docker", "kind"):
            if shutil.which(tool) is None:
                raise DevClusterError(f"--cluster kind needs `{tool}` on PATH; the embedded cluster needs neither")
        self.admin_kubeconfig_path.parent.mkdir(parents=True, exist_ok=True)
        if self._name in self._kind("get", "clusters").split():
            self._kind("export", "kubeconfig", "--name", self._name, "--kubeconfig", str(self.admin_kubeconfig_path))
        else:
            file = str(self.admin_kubeconfig_path)
            self._kind("create", "cluster", "--name", self._name, "--kubeconfig", file, "--wait", "120s")
        return self

    def stop(self) -> None:
        """Delete the cluster."""
        self._kind("delete", "cluster", "--name", self._name, "--kubeconfig", str(self.admin_kubeconfig_path))

    def _kind(self, *arguments: str) -> str:
        command = ["kind", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_KIND_SECONDS)
        if done.returncode != 0:
            raise DevClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
        return done.stdout


class ContextCluster(Cluster):
    """A cluster that exists, behind one context of the user's kubeconfig; the current context is never assumed."""

    def __init__(self, context: str) -> None:
        listed = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        super().__init__(_find_context(listed.split(os.pathsep), context), state_root() / "contexts" / context, context)

    def start(self) -> Self:
        """Make sure that the API server answers. Raises ApiError and aiohttp.ClientError."""
        self.request("GET", "/version")
        return self

    def stop(self) -> None:
        """Do nothing: the cluster is not ours."""


def _find_context(files: list[str], context: str) -> Path:
    for file in map(Path, files):
        try:
            read_kubeconfig(file, context)
        except (FileNotFoundError, KeyError):
            continue
        return file
    raise DevClusterError(f"no context {context!r} in {', '.join(files)}: see `kubectl config get-contexts`")


def open_cluster(
    kind: ClusterKind, *, name: str = "default", config: Config | None = None, context: str | None = None
) -> Cluster:
    """Return the cluster that `--cluster` and `--context` ask for, not started. Raises DevClusterError."""
    if kind == "kind":
        return KindCluster(name)
    if kind == "context":
        if context is None:
            raise DevClusterError("--cluster context needs --context NAME")
        return ContextCluster(context)
    return DevCluster(config)
