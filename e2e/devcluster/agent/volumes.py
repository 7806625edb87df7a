"""A pod's volumes as directories."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from e2e.devcluster.agent.context import PodContext
from e2e.devcluster.agent.environment import ContainerConfigError, field_value
from e2e.devcluster.agent.images import repository_name
from e2e.devcluster.agent.tokens import write_token
from e2e.devcluster.client import ApiError, Object

_TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"


async def make_volumes(context: PodContext) -> None:
    """Make every volume of the pod and note where it is. Raises ContainerConfigError for what is missing (yet)."""
    for volume in context.pod["spec"].get("volumes") or []:
        context.volumes[volume["name"]] = await _make_volume(context, volume)


async def _make_volume(context: PodContext, volume: Object) -> Path:
    if "hostPath" in volume:
        return Path(volume["hostPath"]["path"])
    if "image" in volume:
        return _image_directory(context, volume["image"]["reference"])
    if "persistentVolumeClaim" in volume:
        claim = volume["persistentVolumeClaim"]["claimName"]
        directory = claim_directory(context.settings.directory, context.namespace, claim)
    else:
        directory = context.directory / "volumes" / volume["name"]
    directory.mkdir(parents=True, exist_ok=True)
    if "projected" in volume:
        for source in volume["projected"]["sources"]:
            await _fill(context, directory, source)
    else:
        await _fill(context, directory, volume)
    return directory


def _image_directory(context: PodContext, reference: str) -> Path:
    directory = context.settings.config.image_volumes.get(repository_name(reference))
    if directory is None:
        name = repository_name(reference)
        raise ContainerConfigError(f"image {reference!r} cannot be mounted: name {name!r} under `image_volumes`")
    return Path(directory)


def claim_directory(cluster: Path, namespace: str, claim: str) -> Path:
    """Return where the data of a PersistentVolumeClaim lives: every node sees the same directory."""
    return cluster / "claims" / namespace / claim


async def _fill(context: PodContext, directory: Path, source: Object) -> None:
    """Write the files of one source; emptyDir and claims have none."""
    if "configMap" in source:
        await _fill_from_object(context, directory, "configmaps", source["configMap"])
    elif "secret" in source:
        await _fill_from_object(context, directory, "secrets", source["secret"])
    elif "downwardAPI" in source:
        for item in source["downwardAPI"].get("items") or []:
            _write(directory, item["path"], field_value(context.pod, item["fieldRef"]["fieldPath"]).encode())
    elif "serviceAccountToken" in source:
        await write_token(context, directory, source["serviceAccountToken"])
    elif not ("emptyDir" in source or "persistentVolumeClaim" in source):
        kinds = sorted(set(source) - {"name"})
        raise ContainerConfigError(f"the devcluster does not know volumes of kind {kinds}")


async def _fill_from_object(context: PodContext, directory: Path, plural: str, source: Object) -> None:
    name = source.get("name") or source.get("secretName")
    try:
        found = await context.settings.client.get(f"/api/v1/namespaces/{context.namespace}/{plural}/{name}")
    except ApiError as error:
        if error.status == 404 and source.get("optional"):
            return
        raise ContainerConfigError(f"{plural} {name!r}: {error}") from error
    files = _decode_files(found, hidden=plural == "secrets")
    items = source.get("items")
    chosen = {item["path"]: item["key"] for item in items} if items else {key: key for key in files}
    for path, key in chosen.items():
        if key not in files:
            raise ContainerConfigError(f"{plural} {name!r} has no key {key!r}")
        _write(directory, path, files[key])


def _decode_files(found: Object, *, hidden: bool) -> dict[str, bytes]:
    data: Mapping[str, str] = found.get("data") or {}
    if hidden:
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary: Mapping[str, str] = found.get("binaryData") or {}
    return {key: value.encode() for key, value in data.items()} | {
        key: base64.b64decode(value) for key, value in binary.items()
    }


def decode_secret(data: Mapping[str, str]) -> dict[str, str]:
    """Return a Secret's data as the text a variable holds."""
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in data.items()}


def _write(directory: Path, path: str, content: bytes) -> None:
    file = directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def real_paths(container: Object, volumes: Mapping[str, Path]) -> dict[str, Path]:
    """Return mount path -> real path of a container's mounts."""
    paths = {}
    for mount in container.get("volumeMounts") or []:
        path = volumes[mount["name"]]
        if mount.get("subPath"):
            path = path / mount["subPath"]
            if not path.exists():
                path.mkdir(parents=True)
        paths[mount["mountPath"].rstrip("/") or "/"] = path
    return paths


def mounts_token(pod: Object, container: Object) -> bool:
    """True when the container sees its ServiceAccount's token where every client looks for it."""
    return any(mount["mountPath"] == _TOKEN_DIRECTORY for mount in container.get("volumeMounts") or []) and any(
        "serviceAccountToken" in source
        for volume in pod["spec"].get("volumes") or []
        for source in (volume.get("projected") or {}).get("sources") or []
    )


def make_short_name(context: PodContext, container: str, directory: Path) -> Path:
    """Return a short path of a container's directory for temporary files.

    The path of a Unix socket has at most 107 characters, and engines put sockets with long names there.
    """
    link = _short_names(context) / container
    link.parent.mkdir(mode=0o700, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(directory)
    return link


def remove_short_names(context: PodContext) -> None:
    """Remove what `make_short_name` made; the directories themselves stay."""
    shutil.rmtree(_short_names(context), ignore_errors=True)


def _short_names(context: PodContext) -> Path:
    return Path(tempfile.gettempdir()) / f"shoal-{context.uid[:13]}"
