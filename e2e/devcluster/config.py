"""What a devcluster consists of: its nodes, their GPUs, and which command stands behind an image's name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import yaml

ClaimKind = Literal["dra", "extended"]


class ConfigError(ValueError):
    """The configuration cannot be used; the message names the field."""


@dataclass(frozen=True)
class NodeConfig:
    """One node. `accelerator` is the product's name with dashes, as in a GPUPool; None: a node without GPUs."""

    name: str
    accelerator: str | None = None
    gpus: int = 0
    memory: str = "80Gi"  # of one GPU
    claim: ClaimKind = "dra"
    simulated: bool = True  # False: this machine's own GPUs, read through NVML
    cpu: int = 64
    ram: str = "512Gi"
    zone: str = "dev-a"
    labels: Mapping[str, str] = field(default_factory=dict)


_DEFAULT_NODES = (
    NodeConfig(name="gpu-a", accelerator="NVIDIA-H100-80GB-HBM3", gpus=4, claim="dra"),
    NodeConfig(name="gpu-b", accelerator="NVIDIA-L40S", gpus=4, memory="48Gi", claim="extended"),
    NodeConfig(name="cpu-a"),
)


@dataclass(frozen=True)
class Config:
    """A devcluster. Without arguments: four H100 (DRA), four L40S (device plugin) and a node without GPUs."""

    nodes: tuple[NodeConfig, ...] = _DEFAULT_NODES
    # Image repository's last part -> command; added to the known ones of `agent/images.py`.
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Image repository's last part -> directory: what `image` volumes hold.
    image_volumes: Mapping[str, str] = field(default_factory=dict)
    # Variables of our own environment that every container gets, e.g. HF_HOME for real engines.
    environment: tuple[str, ...] = ()
    # First pause of a crash loop; it doubles up to 30 times this (kubelet: 10 s to 300 s).
    crash_back_off_seconds: float = 10.0

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read YAML with the fields above. Raises ConfigError."""
        try:
            return cls.from_mapping(yaml.safe_load(path.read_text()) or {})
        except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> Self:
        """Make a configuration from decoded YAML or JSON. Raises TypeError or ValueError."""
        values = dict(fields)
        if "nodes" in values:
            values["nodes"] = tuple(NodeConfig(**node) for node in values["nodes"])
        if "images" in values:
            values["images"] = {name: tuple(command) for name, command in values["images"].items()}
        if "environment" in values:
            values["environment"] = tuple(values["environment"])
        config = cls(**values)
        config.check()
        return config

    def to_json(self) -> str:
        """Return what `from_mapping` reads."""
        return json.dumps(dataclasses.asdict(self))

    def check(self) -> None:
        """Raise ConfigError for what could not work."""
        names = [node.name for node in self.nodes]
        if len(set(names)) != len(names):
            raise ConfigError(f"nodes: names must differ: {names}")
        for node in self.nodes:
            if node.gpus > 0 and node.accelerator is None:
                raise ConfigError(f"nodes: {node.name} has {node.gpus} GPUs but no accelerator")
            if node.claim not in ("dra", "extended"):
                raise ConfigError(f"nodes: {node.name}: claim must be dra or extended, not {node.claim!r}")
