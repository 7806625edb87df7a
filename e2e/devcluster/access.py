"""What tests, scenarios and the demo do with any cluster: apply, read, wait, act as a ServiceAccount."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from e2e.devcluster.client import ApiClient, ApiError, Object
from e2e.devcluster.kubeconfig import cluster_of, write_kubeconfig

T = TypeVar("T")


class Cluster(ABC):
    """A cluster and blocking helpers over its administrator's kubeconfig (a running event loop waits meanwhile).

    `context` is the kubeconfig's context to use, `scratch` a directory for the kubeconfigs made here.
    """

    def __init__(self, kubeconfig: Path, scratch: Path, context: str | None = None) -> None:
        self.admin_kubeconfig_path = kubeconfig
        self.context = context
        self._scratch = scratch

    @abstractmethod
    def start(self) -> Self:
        """Start the cluster, or make sure that it answers; return it."""

    @abstractmethod
    def stop(self) -> None:
        """Leave the cluster; one that `start` made for us alone is gone afterwards."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def kubeconfig(self) -> str:
        """Text of the administrator's kubeconfig."""
        return self.admin_kubeconfig_path.read_text()

    def client(self) -> ApiClient:
        """Return an asynchronous client with the administrator's rights; close it in the loop that made it."""
        return ApiClient.from_kubeconfig(self.admin_kubeconfig_path, self.context)

    def request(self, method: str, path: str, body: object = None, **options: Any) -> Object:
        """Send one request as administrator and wait for the answer. Raises ApiError."""
        return self._with_client(lambda client: client.request(method, path, body, **options))

    def apply(self, manifests: str | Object | list[Object], *, namespace: str = "default") -> list[Object]:
        """Server-side apply YAML text, one object or a list of them, in order; return what the server made of them."""
        objects = read_manifests(manifests)

        async def apply_all(client: ApiClient) -> list[Object]:
            return [await client.apply(manifest, manager="devcluster", namespace=namespace) for manifest in objects]

        return self._with_client(apply_all)

    def delete(self, manifests: str | Object | list[Object], *, namespace: str = "default") -> None:
        """Delete the named objects, last first; those that are gone already are no error."""
        objects = read_manifests(manifests)

        async def delete_all(client: ApiClient) -> None:
            for manifest in reversed(objects):
                await client.delete(await client.path_of(manifest, namespace))

        self._with_client(delete_all)

    def create_namespace(self, name: str, labels: dict[str, str] | None = None) -> str:
        """Create a namespace and wait until pods can be created in it; return its name."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        self.wait_for(f"/api/v1/namespaces/{name}/serviceaccounts/default", lambda _: True)
        self.wait_for(f"/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt", lambda _: True)
        return name

    def wait_for(self, path: str, holds: Callable[[Object], bool], *, timeout: float = 60.0) -> Object:
        """Read an object until `holds(object)`; a missing object is waited for. Raises TimeoutError with the object."""

        async def poll(client: ApiClient) -> Object:
            deadline = time.monotonic() + timeout
            last: object = None
            while time.monotonic() < deadline:
                try:
                    last = found = await client.get(path)
                    if holds(found):
                        return found
                except ApiError as error:
                    last = error
                    if error.status != 404:
                        raise
                await asyncio.sleep(0.1)
            raise TimeoutError(f"{path} after {timeout:.0f} s: {json.dumps(last, default=str)[:4000]}")

        return self._with_client(poll)

    def wait_until_gone(self, path: str, *, timeout: float = 60.0) -> None:
        """Wait until an object is gone. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                found = self.request("GET", path)
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} is still there after {timeout:.0f} s: {json.dumps(found)[:4000]}")
            time.sleep(0.1)

    def service_account_kubeconfig(self, namespace: str, name: str, *, seconds: int = 36000) -> Path:
        """Write a kubeconfig with a fresh token of a ServiceAccount (valid for `seconds`) and return its path."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        token = self.request("POST", path, body)["status"]["token"]
        folder = self._scratch / "service-accounts"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return write_kubeconfig(
            folder / f"{namespace}.{name}.kubeconfig",
            cluster=cluster_of(self.admin_kubeconfig_path, self.context),
            user={"token": token},
            name=f"{namespace}-{name}",
            namespace=namespace,
        )

    def _with_client(self, use: Callable[[ApiClient], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            async with self.client() as client:
                return await use(client)

        return run_apart(run())


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a thread with an event loop of its own, whatever loop the caller is in."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="devcluster-access")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def read_manifests(manifests: str | Object | list[Object]) -> list[Object]:
    """Return the objects of YAML text (several documents, `List` objects unfolded), of one object or of a list."""
    if isinstance(manifests, str):
        documents = [document for document in yaml.safe_load_all(manifests) if document]
    else:
        documents = manifests if isinstance(manifests, list) else [manifests]
    return [
        item for document in documents for item in (document["items"] if document["kind"] == "List" else [document])
    ]
