"""From a container's specification to what is executed."""

from __future__ import annotations

from pathlib import Path

from e2e.devcluster.agent.context import PodContext
from e2e.devcluster.agent.environment import (
    ContainerConfigError,
    Mounts,
    References,
    expand,
    make_environment,
    referenced_names,
)
from e2e.devcluster.agent.images import make_command
from e2e.devcluster.agent.runs import Invocation
from e2e.devcluster.agent.status import Record
from e2e.devcluster.agent.volumes import decode_secret, make_short_name, mounts_token, real_paths
from e2e.devcluster.client import ApiClient, ApiError


async def make_invocation(context: PodContext, record: Record) -> Invocation:
    """Return what the next run of a container executes; ConfigMaps and Secrets are read afresh.

    Raises ContainerConfigError and UnknownImageError.
    """
    container = record.spec
    command = make_command(container, context.settings.config.images)
    references = await _read_references(context, record)
    folder = context.directory / "containers" / record.name
    message_file = folder / f"termination-{record.restarts}"
    log = context.log_path(record.name, record.restarts)
    for directory in (folder, log.parent):
        directory.mkdir(parents=True, exist_ok=True)
    paths = real_paths(container, context.volumes)
    paths[container.get("terminationMessagePath") or "/dev/termination-log"] = message_file
    mounts = Mounts({mount: str(path) for mount, path in paths.items()})
    base = _base_variables(context, record, paths)
    variables = make_environment(context.pod, container, references, base)
    variables = {n: value if base.get(n) == value else mounts.rewrite(value) for n, value in variables.items()}
    return Invocation(
        command=[mounts.rewrite(expand(part, variables)) for part in command],
        environment=variables,
        directory=_working_directory(container.get("workingDir"), mounts, folder),
        log=log,
        message_file=message_file,
    )


def _working_directory(wanted: str | None, mounts: Mounts, fallback: Path) -> Path:
    """Return the real directory of `workingDir` where a volume is mounted there, else the container's own."""
    directory = Path(mounts.rewrite(wanted)) if wanted else fallback
    return directory if directory.is_dir() and str(directory) != wanted else fallback


def _base_variables(context: PodContext, record: Record, paths: dict[str, Path]) -> dict[str, str]:
    settings = context.settings
    home = context.directory / "containers" / record.name
    variables = {
        **context.inherited,
        "HOSTNAME": context.name,
        "HOME": str(home),
        "TMPDIR": str(make_short_name(context, record.name, paths.get("/tmp", home))),
        "KUBERNETES_SERVICE_HOST": settings.service_host,
        "KUBERNETES_SERVICE_PORT": "443",
        **context.devices.get(record.name, {}),
    }
    if context.kubeconfig is not None and mounts_token(context.pod, record.spec):
        variables["KUBECONFIG"] = str(context.kubeconfig)
    for mount in record.spec.get("volumeMounts") or []:
        name = mount["name"].upper().replace("-", "_").replace(".", "_")
        variables[f"SHOAL_DEV_MOUNT_{name}"] = str(paths[mount["mountPath"].rstrip("/") or "/"])
    return variables


async def _read_references(context: PodContext, record: Record) -> References:
    config_maps, secrets = referenced_names(record.spec)
    root = f"/api/v1/namespaces/{context.namespace}"
    client = context.settings.client
    maps = {name: await _read_data(client, f"{root}/configmaps/{name}") for name in config_maps}
    hidden = {name: await _read_data(client, f"{root}/secrets/{name}") for name in secrets}
    return References(
        config_maps={name: data for name, data in maps.items() if data is not None},
        secrets={name: decode_secret(data) for name, data in hidden.items() if data is not None},
    )


async def _read_data(client: ApiClient, path: str) -> dict[str, str] | None:
    """Return the data of a ConfigMap or Secret, None if there is none."""
    try:
        found = await client.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise ContainerConfigError(str(error)) from error
    except (TimeoutError, OSError) as error:
        raise ContainerConfigError(f"{path}: {error}") from error
    data: dict[str, str] = found.get("data") or {}
    return data
