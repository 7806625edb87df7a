"""What the parts of a pod's life share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from e2e.devcluster.client import ApiClient, Object
from e2e.devcluster.config import Config


@dataclass(frozen=True)
class Settings:
    """What is the same for every pod of the devcluster."""

    config: Config
    directory: Path  # the cluster's
    client: ApiClient
    session: aiohttp.ClientSession  # for probes
    server: str
    authority: Path
    service_host: str  # ClusterIP of default/kubernetes
    inherited: Mapping[str, str]  # variables that every container gets


@dataclass
class PodContext:
    """One pod: its object, its place on the machine, its end."""

    settings: Settings
    inherited: Mapping[str, str]  # variables of every container on the pod's node
    pod: Object
    address: str
    node_address: str
    directory: Path
    record_event: Callable[[str, str, str], None]  # (Normal|Warning, reason, message)
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # a record changed: the API should hear of it
    volumes: dict[str, Path] = field(default_factory=dict)
    devices: dict[str, dict[str, str]] = field(default_factory=dict)  # container -> variables
    kubeconfig: Path | None = None
    terminating: asyncio.Event = field(default_factory=asyncio.Event)
    deadline: float = 0.0  # loop time at which the grace of a terminating pod ends

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return str(self.pod["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    @property
    def uid(self) -> str:
        """The pod's UID."""
        return str(self.pod["metadata"]["uid"])

    @property
    def path(self) -> str:
        """URL path of the pod."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    @property
    def restart_policy(self) -> str:
        """Always, OnFailure or Never."""
        return str(self.pod["spec"].get("restartPolicy", "Always"))

    @property
    def grace(self) -> int:
        """The pod's terminationGracePeriodSeconds."""
        return int(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    def log_path(self, container: str, restart: int) -> Path:
        """File with the output of a container's run number `restart`."""
        folder = f"{self.namespace}_{self.name}_{self.uid[:8]}"
        return self.settings.directory / "pod-logs" / folder / container / f"{restart}.log"
