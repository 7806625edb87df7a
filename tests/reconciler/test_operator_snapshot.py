"""What an operator decided from, fetched with the rights of a person, and decided again."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from operators import Operator, Site

from e2e.devcluster import DevCluster
from shoal.cli import snapshots
from shoal.cli.main import main

pytestmark = [pytest.mark.cluster]
Object = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"


def start_and_decide(site: Site, **environment: str) -> Operator:
    operator = site.start(**environment)
    site.apply_service("chat")
    site.wait_for_status("chat", lambda status: "plan" in status)
    return operator


def make_person(site: Site, *rules: Object) -> Path:
    """A ServiceAccount with these rights in the operator's namespace; its kubeconfig."""
    place = {"name": "person", "namespace": site.operator_namespace}
    site.cluster.apply(
        [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
            {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": place, "rules": list(rules)},
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": place,
                "subjects": [{"kind": "ServiceAccount", **place}],
                "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "person"},
            },
        ]
    )
    return site.cluster.service_account_kubeconfig(site.operator_namespace, "person")


def rule(group: str, resource: str, verb: str) -> Object:
    return {"apiGroups": [group], "resources": [resource], "verbs": [verb]}


TOKEN = rule("", "serviceaccounts/token", "create")
LEASE = rule("coordination.k8s.io", "leases", "get")
PROXY = rule("", "pods/proxy", "get")


def dump(site: Site, kubeconfig: Path, file: Path, *more: str, service: str = "chat") -> int:
    place = ["--operator-namespace", site.operator_namespace, "--kubeconfig", str(kubeconfig)]
    return main(["explain", f"{site.namespace}/{service}", "--dump", str(file), *place, *more])


def address_of(operator: Operator) -> str:
    return f"{operator.settings['POD_IP']}:{operator.settings['SHOAL_METRICS_PORT']}"


def test_a_live_decision_is_taken_again_with_the_same_answer(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = start_and_decide(site)
    model = {"name": "Qwen/Qwen2.5-1.5B-Instruct", "source": {"huggingFace": {"tokenSecretName": "name-of-a-secret"}}}
    site.apply_service("docs", model=model)  # shares the pool, and so the snapshot
    site.wait_for_status("docs", lambda status: "plan" in status)
    kubeconfig, file = make_person(site, TOKEN), tmp_path / "dump.json"
    assert dump(site, kubeconfig, file, "--operator-address", address_of(operator)) == 0
    capsys.readouterr()
    assert main(["plan", "--replay", str(file), "-o", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["equal"] is True
    planned = {found["service"]: found["gpus"] for found in answer["decisions"]}
    for name in ("chat", "docs"):
        assert planned[f"{site.namespace}/{name}"] == site.service(name)["status"]["plan"]["gpus"]
    assert "name-of-a-secret" not in file.read_text()


def test_who_may_not_make_a_token_gets_nothing(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operator = start_and_decide(site)
    file = tmp_path / "dump.json"
    assert dump(site, make_person(site, LEASE, PROXY), file, "--operator-address", address_of(operator)) == 1
    assert "serviceaccounts/token" in capsys.readouterr().err
    assert not file.exists()


def test_without_a_token_for_it_the_operator_refuses(site: Site) -> None:
    operator = start_and_decide(site)
    ordinary = make_token(site, site.operator_namespace, "shoal-operator")
    stranger = make_token(site, site.namespace, "default", "shoal.dev/snapshot")
    for token in ("", "nonsense", "x" * 20_000, ordinary, stranger):
        url = f"http://{address_of(operator)}/snapshot?namespace={site.namespace}&name=chat"
        request = urllib.request.Request(url, headers={"Shoal-Token": token})
        try:
            with urllib.request.urlopen(request, timeout=10):
                status = 200
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        assert status in (400, 401), token[:20]


def make_token(site: Site, namespace: str, account: str, *audiences: str) -> str:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}"
    site.cluster.wait_for(path, lambda found: True)
    spec = {"audiences": list(audiences), "expirationSeconds": 600}
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    token: str = site.cluster.request("POST", f"{path}/token", body)["status"]["token"]
    return token


def test_what_is_not_there_is_said(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    operator = start_and_decide(site)
    kubeconfig = make_person(site, TOKEN)
    address = ("--operator-address", address_of(operator))
    assert dump(site, kubeconfig, tmp_path / "dump.json", *address, service="nobody") == 1
    assert "nothing was decided about ModelService" in capsys.readouterr().err
    assert dump(site, kubeconfig, tmp_path / "dump.json", "--operator-address", "127.0.0.1:1") == 1
    assert "does not answer" in capsys.readouterr().err
    assert dump(site, kubeconfig, tmp_path / "dump.json") == 1
    assert "you may not get the Lease" in capsys.readouterr().err


def test_through_the_api_server(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server's proxy goes to no loopback address: the operator listens where the machine has another."""
    own = own_address()
    if own is None:
        pytest.skip("this machine has loopback addresses only")
    # The command asks for the port that the chart sets, which something else may have on this machine.
    operator = start_and_decide(site, POD_IP=own)
    monkeypatch.setattr(snapshots, "METRICS_PORT", int(operator.settings["SHOAL_METRICS_PORT"]))
    make_pod(site.cluster, site.operator_namespace, "operator-0", own)
    kubeconfig, file = make_person(site, TOKEN, LEASE, PROXY), tmp_path / "dump.json"
    assert dump(site, kubeconfig, file) == 0, capsys.readouterr().err
    assert main(["plan", "--replay", str(file)]) == 0
    assert dump(site, kubeconfig, file, service="nobody") == 1
    assert "nothing was decided about ModelService" in capsys.readouterr().err


def own_address() -> str | None:
    """An address of this machine that is not loopback; None when it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # nothing is sent: it only chooses an address
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def make_pod(cluster: DevCluster, namespace: str, name: str, address: str) -> None:
    """The operator's pod, as the API server knows it: the operator itself is a process of this test."""
    container = {"name": "operator", "image": "shoal-operator:0.1.0"}
    path = f"/api/v1/namespaces/{namespace}/pods"
    cluster.wait_for(f"/api/v1/namespaces/{namespace}/serviceaccounts/default", lambda found: True)
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}
    cluster.request("POST", path, body)
    status = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
    cluster.request("PATCH", f"{path}/{name}/status", status, content_type="application/merge-patch+json")
