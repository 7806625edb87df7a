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
    """Return cluster and user of a kubeconfig's context (the current one unless named), files read into them.

    Raises KeyError for names that are not there, and for users whose credentials come from a program.
    """
    config = yaml.safe_load(path.read_text())
    names = _named(config, "contexts", context or config["current-context"])["context"]
    cluster = _named(config, "clusters", names["cluster"])["cluster"]
    user = _named(config, "users", names["user"])["user"]
    if "exec" in user or "auth-provider" in user:
        raise KeyError(f"user {names['user']!r} gets its credentials from a program: make a kubeconfig with a token")
    return _with_files(cluster, path.parent), _with_files(user, path.parent)


_FILE_KEYS = ("certificate-authority", "client-certificate", "client-key")


def _with_files(entry: dict[str, str], folder: Path) -> dict[str, str]:
    """Replace file names by what the files hold; relative ones start at the kubeconfig's folder."""
    embedded = {f"{key}-data": _encoded(folder / entry[key]) for key in _FILE_KEYS if key in entry}
    token = {"token": (folder / entry["tokenFile"]).read_text().strip()} if "tokenFile" in entry else {}
    kept = {key: value for key, value in entry.items() if key not in (*_FILE_KEYS, "tokenFile")}
    return {**kept, **embedded, **token}


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
