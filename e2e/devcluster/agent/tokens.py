"""ServiceAccount tokens of pods: from the TokenRequest API, bound to the pod, renewed before they expire."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import aiohttp

from e2e.devcluster.agent.context import PodContext
from e2e.devcluster.agent.environment import ContainerConfigError
from e2e.devcluster.client import ApiError, Object
from e2e.devcluster.kubeconfig import embedded_cluster, write_kubeconfig

log = logging.getLogger("tokens")

# A kubelet renews a token after this share of its life.
_RENEW_AFTER = 0.8
_RETRY_SECONDS = 5.0


async def write_token(context: PodContext, directory: Path, source: Object) -> None:
    """Write the token that a projected source asks for, and for the default audience the pod's kubeconfig.

    Raises ContainerConfigError when the API server refuses.
    """
    account = context.pod["spec"].get("serviceAccountName", "default")
    wish: Object = {
        "expirationSeconds": source.get("expirationSeconds") or 3600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": context.name, "uid": context.uid},
    }
    if source.get("audience"):
        wish["audiences"] = [source["audience"]]
    try:
        made = await context.settings.client.create(
            f"/api/v1/namespaces/{context.namespace}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": wish},
        )
    except (ApiError, aiohttp.ClientError, TimeoutError) as error:
        raise ContainerConfigError(f"no token for ServiceAccount {account!r}: {error}") from error
    _replace(directory / source["path"], made["status"]["token"])
    if not source.get("audience"):
        _write_kubeconfig(context, made["status"]["token"])


def _write_kubeconfig(context: PodContext, token: str) -> None:
    settings = context.settings
    context.kubeconfig = write_kubeconfig(
        context.directory / "kubeconfig",
        cluster=embedded_cluster(settings.server, settings.authority),
        user={"token": token},
        name="in-cluster",
        namespace=context.namespace,
    )


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new token."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)


async def keep_tokens(context: PodContext) -> None:
    """Renew the pod's tokens for as long as it lives."""
    sources = [
        (context.volumes[volume["name"]], source["serviceAccountToken"])
        for volume in context.pod["spec"].get("volumes") or []
        for source in (volume.get("projected") or {}).get("sources") or []
        if "serviceAccountToken" in source
    ]
    if not sources:
        return
    life = min(int(source.get("expirationSeconds") or 3600) for _, source in sources)
    pause = life * _RENEW_AFTER
    while True:
        await asyncio.sleep(pause)
        try:
            for directory, source in sources:
                await write_token(context, directory, source)
            pause = life * _RENEW_AFTER
        except ContainerConfigError as error:
            log.warning("%s/%s: %s", context.namespace, context.name, error)
            pause = _RETRY_SECONDS
