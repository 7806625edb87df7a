"""A small asynchronous API client: raw objects as dictionaries, server-side apply, list-and-watch.

The node agent watches and patches all the time: typed clients cost it more CPU than the pods it runs.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from e2e.devcluster.kubeconfig import read_kubeconfig

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
# A watch that has been silent this long is opened again: nobody hears a connection that died half open.
_WATCH_SECONDS = 300


class ApiError(Exception):
    """The API server refused: `status` is the HTTP status, `reason` the machine-readable word."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


class ApiClient:
    """One connection pool to one API server, with the rights of one user."""

    def __init__(self, server: str, context: ssl.SSLContext, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._server = server.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0), headers=headers, auto_decompress=True
        )
        self._plurals: dict[str, dict[str, tuple[str, bool]]] = {}

    @classmethod
    def from_kubeconfig(cls, path: Path, context: str | None = None) -> Self:
        """Make a client from a kubeconfig's current (or named) context; client certificates and tokens only."""
        cluster, user = read_kubeconfig(path, context)
        tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        if "client-certificate-data" in user:
            _load_client_certificate(tls, user)
        return cls(cluster["server"], tls, user.get("token"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float = 15.0,
    ) -> Object:
        """Send one request and return the decoded answer; plain text comes as `{"text": ...}`.

        Raises ApiError, aiohttp.ClientError and TimeoutError.
        """
        data = None if body is None else json.dumps(body).encode()
        async with self._session.request(
            method,
            self._server + path,
            data=data,
            params=params,
            headers={"Content-Type": content_type},
            timeout=aiohttp.ClientTimeout(total=timeout),
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise _make_error(response.status, text)
            return _decode(text) if response.content_type == "application/json" else {"text": text}

    async def get(self, path: str, **params: str) -> Object:
        """GET one object or list."""
        return await self.request("GET", path, params=params)

    async def items(self, path: str, **params: str) -> list[Object]:
        """GET a list's items."""
        found: list[Object] = (await self.get(path, **params)).get("items") or []
        return found

    async def create(self, path: str, body: Object) -> Object:
        """POST an object to its collection."""
        return await self.request("POST", path, body)

    async def patch(self, path: str, body: object, *, content_type: str = MERGE_PATCH) -> Object:
        """PATCH an object (merge patch unless told)."""
        return await self.request("PATCH", path, body, content_type=content_type)

    async def delete(self, path: str, body: Object | None = None) -> None:
        """DELETE an object; one that is gone already is no error."""
        try:
            await self.request("DELETE", path, body)
        except ApiError as error:
            if error.status != 404:
                raise

    async def apply(self, manifest: Object, *, manager: str, namespace: str = "default") -> Object:
        """Server-side apply one object, forcing conflicts; `namespace` is for those that name none."""
        path = await self.path_of(manifest, namespace)
        params = {"fieldManager": manager, "force": "true"}
        return await self.request("PATCH", path, manifest, params=params, content_type=APPLY_PATCH)

    async def path_of(self, manifest: Object, namespace: str = "default") -> str:
        """Return the URL path of an object (found by discovery). Raises ApiError when its kind is not served."""
        version, kind = manifest["apiVersion"], manifest["kind"]
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        known = self._plurals.get(version, {})
        if kind not in known:
            listed = (await self.get(root))["resources"]
            known = {r["kind"]: (r["name"], r["namespaced"]) for r in listed if "/" not in r["name"]}
            self._plurals[version] = known
        if kind not in known:
            raise ApiError(404, "NotFound", f"the server knows no {kind} in {version}")
        plural, namespaced = known[kind]
        metadata = manifest["metadata"]
        scope = f"/namespaces/{metadata.get('namespace', namespace)}" if namespaced else ""
        return f"{root}{scope}/{plural}/{metadata['name']}"

    async def watch(self, path: str, **params: str) -> AsyncIterator[tuple[str, Object]]:
        """List, then watch for ever: yields (`ADDED`|`MODIFIED`|`DELETED`, object).

        After an error it lists again; what vanished in between is yielded as DELETED, the rest as ADDED, so that
        a consumer that treats ADDED as "this is how it is" is never wrong for long.
        """
        known: dict[str, Object] = {}
        while True:
            try:
                listing = await self.get(path, **params)
                for event in _replace_known(known, listing.get("items") or []):
                    yield event
                async for kind, item in self._stream(path, listing["metadata"]["resourceVersion"], params):
                    if kind == "DELETED":
                        known.pop(item["metadata"]["uid"], None)
                    else:
                        known[item["metadata"]["uid"]] = item
                    yield kind, item
            except (ApiError, aiohttp.ClientError, TimeoutError, ValueError):
                await asyncio.sleep(0.5)

    async def _stream(self, path: str, version: str, params: Mapping[str, str]) -> AsyncIterator[tuple[str, Object]]:
        """Yield the events after `version` until the server or we end the stream."""
        query = {**params, "watch": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_SECONDS)}
        limits = aiohttp.ClientTimeout(total=None, sock_read=_WATCH_SECONDS + 15)
        async with self._session.get(self._server + path, params=query, timeout=limits) as response:
            if response.status >= 400:
                raise _make_error(response.status, await response.text())
            pending = b""
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), "WatchError", str(event["object"]))
                    yield event["type"], event["object"]


def _replace_known(known: dict[str, Object], items: Iterable[Object]) -> list[tuple[str, Object]]:
    listed = {item["metadata"]["uid"]: item for item in items}
    gone = [("DELETED", item) for uid, item in known.items() if uid not in listed]
    known.clear()
    known.update(listed)
    return [*gone, *(("ADDED", item) for item in listed.values())]


def _decode(text: str) -> Object:
    decoded: Object = json.loads(text)
    return decoded


def _make_error(status: int, text: str) -> ApiError:
    try:
        answer = _decode(text)
    except ValueError:
        answer = {}
    return ApiError(status, answer.get("reason", "Unknown"), answer.get("message", text[:500]))


def _load_client_certificate(tls: ssl.SSLContext, user: Mapping[str, str]) -> None:
    """Load the embedded certificate and key; the standard library takes them from a file only."""
    with tempfile.NamedTemporaryFile(suffix=".pem") as pem:
        for part in ("client-certificate-data", "client-key-data"):
            pem.write(base64.b64decode(user[part]))
        pem.flush()
        tls.load_cert_chain(pem.name)
