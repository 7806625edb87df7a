"""The API server as the operator uses it: reads with a limit of time, writes that ask for permission first."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.dynamic import DynamicClient, Resource

from shoal.reconciler.errors import TRANSPORT_ERRORS, ClusterError, to_cluster_error
from shoal.reconciler.leader import WritePermit

logger = logging.getLogger(__name__)

Object = dict[str, Any]

READ_SECONDS: Final = 10.0
LIST_SECONDS: Final = 60.0
WRITE_SECONDS: Final = 10.0
CHUNK: Final = 500
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kind lives in the API: group (empty: core), version, plural."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`apps/v1`, `v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version


async def load_configuration() -> Configuration:
    """Read `KUBECONFIG` if set, else the pod's service account. Tokens are read again when they change."""
    settings = Configuration()
    if path := os.environ.get("KUBECONFIG"):
        await config.load_kube_config(path, client_configuration=settings)  # type: ignore[no-untyped-call]
    else:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    settings.connection_pool_maxsize = 64
    settings.retries = None
    return settings


class Cluster:
    """Reads and writes raw objects. Every method raises ClusterError alone, writes also NotLeaderError."""

    def __init__(self, configuration: Configuration, permit: WritePermit) -> None:
        self._permit = permit
        self.api_client = ApiClient(configuration)
        self._dynamic = DynamicClient(self.api_client)  # type: ignore[no-untyped-call]
        self._renewal = asyncio.Lock()
        self.writes = 0

    async def close(self) -> None:
        """Close all connections."""
        await self.api_client.close()  # type: ignore[no-untyped-call]

    async def get(self, place: Place, namespace: str | None, name: str) -> Object | None:
        """GET an object; None when it is not there."""
        try:
            return await self._send("get", self._path(place, namespace, name), READ_SECONDS)
        except ClusterError as error:
            if error.is_not_found:
                return None
            raise

    async def get_annotations(self, place: Place, name: str) -> Mapping[str, str] | None:
        """Annotations of an object whose content does not matter and may be large; None when it is not there."""
        path = self._path(place, None, name)
        try:
            answer = await self._send("get", path, READ_SECONDS, header_params={"Accept": _METADATA_ONLY})
        except ClusterError as error:
            if error.is_not_found:
                return None
            raise
        return answer["metadata"].get("annotations") or {}

    async def list_chunks(
        self, place: Place, namespace: str | None = None, *, selector: str = "", fields: str = ""
    ) -> AsyncIterator[tuple[list[Object], int]]:
        """LIST in chunks: yields (objects, resourceVersion of the whole list). Consistent over all chunks."""
        path = self._path(place, namespace)
        following: str | None = None
        while True:
            page = await self._send(
                "get",
                path,
                LIST_SECONDS,
                limit=CHUNK,
                label_selector=selector or None,
                field_selector=fields or None,
                _continue=following,
            )
            metadata = page["metadata"]
            yield page.get("items") or [], int(metadata["resourceVersion"])
            following = metadata.get("continue")
            if not following:
                return

    async def list_all(
        self, place: Place, namespace: str | None = None, *, selector: str = "", fields: str = ""
    ) -> list[Object]:
        """LIST everything at once."""
        chunks = self.list_chunks(place, namespace, selector=selector, fields=fields)
        return [item async for items, _ in chunks for item in items]

    async def discover(self, group: str, version: str) -> frozenset[str]:
        """The plurals served in an API group's version, subresources included; empty when it is not served at all."""
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            answer = await self._send("get", path, READ_SECONDS)
        except ClusterError as error:
            if error.is_not_found:
                return frozenset()
            raise
        return frozenset(resource["name"] for resource in answer.get("resources") or ())

    async def apply(
        self, place: Place, body: Mapping[str, Any], *, manager: str, force: bool, subresource: str = ""
    ) -> Object:
        """Server-side apply. Without `force`, fields that others own raise a conflict."""
        metadata = body["metadata"]
        path = self._path(place, metadata.get("namespace"), metadata["name"], subresource)
        return await self._write(
            "patch",
            path,
            body=body,
            content_type="application/apply-patch+yaml",
            field_manager=manager,
            force_conflicts=force,
        )

    async def merge(
        self, place: Place, namespace: str | None, name: str, patch: Mapping[str, Any], *, manager: str
    ) -> Object:
        """Merge-patch an object."""
        path = self._path(place, namespace, name)
        return await self._write("patch", path, body=patch, content_type=MERGE_PATCH, field_manager=manager)

    async def create(self, place: Place, body: Mapping[str, Any], *, manager: str) -> Object:
        """POST an object."""
        path = self._path(place, body["metadata"].get("namespace"))
        return await self._write("post", path, body=body, field_manager=manager)

    async def delete(self, place: Place, namespace: str | None, name: str, *, uid: str) -> None:
        """DELETE exactly the object with that UID, its dependents by garbage collection; gone already is no error."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._write("delete", self._path(place, namespace, name), body=options)
        except ClusterError as error:
            if not error.is_not_found:
                raise

    async def review_token(self, token: str, audience: str) -> str | None:
        """Whose token this is; None when it is nobody's, or not made for this audience. Nothing is stored by it."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._send("post", "/apis/authentication.k8s.io/v1/tokenreviews", READ_SECONDS, body=body)
        status = answer.get("status") or {}
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return None
        user: str = (status.get("user") or {}).get("username", "")
        return user

    async def _write(self, method: str, path: str, **params: Any) -> Object:
        self._permit.check()
        self.writes += 1
        return await self._send(method, path, WRITE_SECONDS, permit=self._permit, **params)

    async def _send(
        self, method: str, path: str, seconds: float, *, permit: WritePermit | None = None, **params: Any
    ) -> Object:
        try:
            return await self._send_once(method, path, seconds, params)
        except ClusterError as error:
            if error.status != 401:
                raise
        await self.renew_credentials()
        if permit is not None:
            permit.check()
        return await self._send_once(method, path, seconds, params)

    async def _send_once(self, method: str, path: str, seconds: float, params: Mapping[str, Any]) -> Object:
        try:
            async with asyncio.timeout(seconds):
                response = await self._dynamic.request(
                    method, path, serialize=False, _request_timeout=seconds, **params
                )
                answer: Object = json.loads(await response.read())
                return answer
        except TRANSPORT_ERRORS as error:
            raise to_cluster_error(error) from error

    async def renew_credentials(self) -> None:
        """Read the credentials again: tokens are rotated under a running process."""
        async with self._renewal:
            fresh = await load_configuration()
            self.api_client.configuration.api_key = fresh.api_key
            self.api_client.configuration.refresh_api_key_hook = fresh.refresh_api_key_hook

    def _path(self, place: Place, namespace: str | None, name: str | None = None, subresource: str = "") -> str:
        resource = Resource(  # type: ignore[no-untyped-call]
            prefix="apis" if place.group else "api",
            group=place.group,
            api_version=place.version,
            kind=place.kind,
            name=place.plural,
            namespaced=place.namespaced,
            client=self._dynamic,
        )
        path: str = resource.path(name=name, namespace=namespace)  # type: ignore[no-untyped-call]
        return f"{path}/{subresource}" if subresource else path
