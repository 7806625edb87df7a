"""Kubeconfig files of the devcluster."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from e2e.devcluster.certs import Pair


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def certificate_user(pair: Pair) -> dict[str, str]:
    """Return a kubeconfig user that presents a client certificate (embedded, so that the file can be moved)."""
    return {"client-certificate-data": _encoded(pair.cert), "client-key-data": _encoded(pair.key)}


def embedded_cluster(server: str, authority: Path) -> dict[str, str]:
    """Return the kubeconfig cluster of an API server whose certificate `authority` (PEM) signed."""
    return {"server": server, "certificate-authority-data": _encoded(authority)}


def read_kubeconfig(path: Path, context: str | None = None) -> tuple[dict[str, str], dict[str, str]]:
    """Return cluster and user of a kubeconfig's context (the current one unless named). Raises KeyError."""
    config = yaml.safe_load(path.read_text())
    names = _named(config, "contexts", context or config["current-context"])["context"]
    cluster = _named(config, "clusters", names["cluster"])["cluster"]
    return cluster, _named(config, "users", names["user"])["user"]


def cluster_of(path: Path, context: str | None = None) -> dict[str, str]:
    """Return the cluster of a kubeconfig's context."""
    return read_kubeconfig(path, context)[0]


def _named(config: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    for entry in config.get(section) or []:
        if entry["name"] == name:
            found: dict[str, Any] = entry
            return found
    raise KeyError(f"the kubeconfig has no {name!r} under {section}")


def write_kubeconfig(
    path: Path, *, cluster: dict[str, str], user: dict[str, str], name: str, namespace: str = "default"
) -> Path:
    """Write a kubeconfig with the single context `name`, readable by its owner alone, and return its path."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_text(yaml.safe_dump(config, sort_keys=False))
    temporary.replace(path)
    return path
