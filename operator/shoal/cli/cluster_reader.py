"""Reads ModelServices with the user's own kubeconfig. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from shoal.api.base import GROUP, VERSION
from shoal.api.crds import MODEL_SERVICES

Object = dict[str, Any]

_PLURAL = MODEL_SERVICES.plural
_TIMEOUT_SECONDS = 10.0


class ReadError(Exception):
    """The cluster could not be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ClusterReader:
    """One context of a kubeconfig. `kubeconfig` None: as kubectl finds it. `context` None: the current one."""

    kubeconfig: str | None = None
    context: str | None = None

    def read_service(self, namespace: str | None, name: str) -> Object:
        """One ModelService; without a namespace that of the context. Raises ReadError."""
        place = namespace or self.own_namespace()
        missing = f"there is no ModelService {place}/{name}: `kubectl get {_PLURAL} -A` lists those that exist"
        with self._open(place, missing) as custom:
            found = custom.get_namespaced_custom_object(
                GROUP, VERSION, place, _PLURAL, name, _request_timeout=_TIMEOUT_SECONDS
            )
        return cast(Object, found)

    def read_services(self, namespace: str | None) -> list[Object]:
        """The ModelServices of a namespace, or of all of them, by namespace and name. Raises ReadError."""
        missing = "the cluster knows no ModelServices: is Shoal installed (`helm list -A`)?"
        with self._open(namespace, missing) as custom:
            if namespace is None:
                found = custom.list_cluster_custom_object(GROUP, VERSION, _PLURAL, _request_timeout=_TIMEOUT_SECONDS)
            else:
                found = custom.list_namespaced_custom_object(
                    GROUP, VERSION, namespace, _PLURAL, _request_timeout=_TIMEOUT_SECONDS
                )
        items = cast(list[Object], cast(Object, found)["items"])
        return sorted(items, key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"]))

    def own_namespace(self) -> str:
        """The namespace of the context. Raises ReadError."""
        # Importing the client takes half a second that `shoal --help` must not pay.
        from kubernetes import config  # noqa: PLC0415

        try:
            contexts, current = config.list_kube_config_contexts(self.kubeconfig)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise _no_kubeconfig(error) from error
        chosen = next((context for context in contexts if context["name"] == self.context), current)
        return str(chosen["context"].get("namespace") or "default")

    @contextmanager
    def _open(self, namespace: str | None, missing: str) -> Iterator[Any]:
        """The API; its refusals become ReadErrors, of which `missing` is the one for what does not exist."""
        from kubernetes import client  # noqa: PLC0415

        with open_api(self.kubeconfig, self.context) as api:
            try:
                yield client.CustomObjectsApi(api)
            except client.ApiException as error:
                raise ReadError(missing if error.status == 404 else _explain(error, namespace)) from error


@contextmanager
def open_api(kubeconfig: str | None, context: str | None) -> Iterator[Any]:
    """A client of the API server. Raises ReadError when there is no such kubeconfig, or nobody answers."""
    from kubernetes import client, config  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    settings = client.Configuration()
    settings.retries = 0  # the client's own three more tries would make an absent server take a minute
    try:
        config.load_kube_config(kubeconfig, context, settings)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise _no_kubeconfig(error) from error
    try:
        with client.ApiClient(settings) as api:
            yield api
    except HTTPError as error:
        raise ReadError(f"the API server does not answer: {error}") from error


def _no_kubeconfig(error: Exception) -> ReadError:
    return ReadError(f"{error}: name a kubeconfig with --kubeconfig or KUBECONFIG, or another --context")


def _explain(error: Any, namespace: str | None) -> str:
    """What a refusal of the API server means here, and the way out."""
    if error.status == 401:
        return "the API server does not know you: log in again, or name another --context"
    if error.status == 403 and namespace is None:
        return "you may not list the ModelServices of all namespaces: choose one with -n NAMESPACE"
    if error.status == 403:
        return f"you may not read ModelServices in {namespace}: ask for the role view there"
    return f"the API server refused: {error.status} {error.reason}"
