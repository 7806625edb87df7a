"""Fetches from the operator what a decision was taken from: the snapshot that `shoal plan --replay` decides again."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from shoal.cli.cluster_reader import ReadError, open_api
from shoal.render.names import METRICS_PORT, OPERATOR, SNAPSHOT_AUDIENCE, SNAPSHOT_PATH, SNAPSHOT_TOKEN_HEADER

TOKEN_SECONDS: Final = 600  # the shortest that the API server grants
_TIMEOUT_SECONDS: Final = 60.0
_RIGHTS: Final = {
    "lease": "get the Lease shoal-operator",
    "token": "create tokens of the ServiceAccount shoal-operator (serviceaccounts/token)",
    "proxy": "reach the operator's pod through the API server (get pods/proxy)",
}


@dataclass(frozen=True, slots=True)
class OperatorReader:
    """The operator of a cluster. `address` None: reached through the API server; else its metrics port, HOST:PORT."""

    namespace: str
    kubeconfig: str | None = None
    context: str | None = None
    address: str | None = None

    def read_snapshot(self, namespace: str, name: str) -> str:
        """The last decision about a ModelService as a document (JSON). Raises ReadError."""
        from kubernetes import client  # noqa: PLC0415 - half a second that `shoal --help` must not pay

        query = {"namespace": namespace, "name": name}
        step = "token"
        with open_api(self.kubeconfig, self.context) as api:
            try:
                token = self._make_token(client.CoreV1Api(api))
                if self.address is not None:
                    return _read_directly(self.address, query, token)
                step = "lease"
                lease = client.CoordinationV1Api(api).read_namespaced_lease(OPERATOR, self.namespace)
                step = "proxy"
                leader = (lease.spec and lease.spec.holder_identity) or ""
                if not leader:
                    raise ReadError(f"no operator in {self.namespace} leads at this moment: try again in some seconds")
                return _read_through_the_api(api, self.namespace, leader, query, token)
            except client.ApiException as error:
                raise ReadError(self._explain(error, step)) from error

    def _make_token(self, core: Any) -> str:
        """A token that nobody but the operator takes, and it for this alone."""
        spec = {"audiences": [SNAPSHOT_AUDIENCE], "expirationSeconds": TOKEN_SECONDS}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = core.create_namespaced_service_account_token(OPERATOR, self.namespace, body)
        return str(answer.status.token)

    def _explain(self, error: Any, step: str) -> str:
        """What a refusal of the API server, or of the operator behind it, means here."""
        if error.status == 403:
            return f"you may not {_RIGHTS[step]} in {self.namespace}: only who administers Shoal may read snapshots"
        if error.status == 404 and step != "proxy":
            return f"there is no operator in {self.namespace}: name its namespace with --operator-namespace"
        text = str(error.body or error.reason).strip()
        directly = "; --operator-address reaches it directly" if step == "proxy" else ""
        return f"the operator in {self.namespace} does not give it: {error.status} {text[:300]}{directly}"


def _read_through_the_api(api: Any, namespace: str, pod: str, query: dict[str, str], token: str) -> str:
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}:{METRICS_PORT}/proxy/{SNAPSHOT_PATH}"
    request = api.param_serialize(
        method="GET",
        resource_path=path,
        query_params=list(query.items()),
        header_params={SNAPSHOT_TOKEN_HEADER: token},
        auth_settings=["BearerToken"],
    )
    response = api.call_api(*request, _request_timeout=_TIMEOUT_SECONDS)
    text = str(response.read().decode())
    if response.status != HTTPStatus.OK:
        from kubernetes.client import ApiException  # noqa: PLC0415

        raise ApiException(status=response.status, reason=response.reason, body=text)
    return text


def _read_directly(address: str, query: dict[str, str], token: str) -> str:
    url = f"http://{address}/{SNAPSHOT_PATH}?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, headers={SNAPSHOT_TOKEN_HEADER: token})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            said = error.read().decode().strip()
            raise ReadError(f"the operator at {address} refused: {error.code} {said}") from error
    except (OSError, ValueError) as error:
        raise ReadError(f"the operator does not answer at {address}: {error}") from error
