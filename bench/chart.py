"""Installs the chart as a user would, but for the operator's Deployment: its process is ours, to be measured."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from bench.machine import CHECKOUT
from e2e.devcluster import DevCluster
from e2e.tools import helm_binary

Object = dict[str, Any]

NAMESPACE = "shoal-system"
_COMPONENT = "app.kubernetes.io/component"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class Installation:
    """What was installed. `variables` is the environment that the chart gives the operator."""

    service_account: str
    variables: Mapping[str, str]

    def environment(self, address: str) -> dict[str, str]:
        """The operator's environment on this machine, listening on `address`."""
        place = {"POD_IP": address, "POD_NAME": "shoal-bench", "POD_NAMESPACE": NAMESPACE}
        return {**self.variables, **place}


def install(cluster: DevCluster, *, xds_address: str) -> Installation:
    """Apply what the chart renders to, without the operator's Deployment. Raises subprocess.CalledProcessError."""
    manifests = render()
    deployment = next(m for m in manifests if m["kind"] == "Deployment" and _is_operator(m))
    definitions = [m for m in manifests if m["kind"] == "CustomResourceDefinition"]
    cluster.create_namespace(NAMESPACE)
    cluster.apply(definitions)
    for definition in definitions:
        cluster.wait_for(f"{_CRDS}/{definition['metadata']['name']}", _is_established)
    rest = [m for m in manifests if m is not deployment and m not in definitions]
    cluster.apply(rest, namespace=NAMESPACE)
    pod = deployment["spec"]["template"]["spec"]
    variables = _read_variables(pod["containers"][0].get("env") or [])
    return Installation(pod["serviceAccountName"], {**variables, "SHOAL_XDS_ADDRESS": xds_address})


def render() -> list[Object]:
    """What `helm template` makes of the chart."""
    command = [str(helm_binary()), "template", "shoal", str(CHECKOUT / "charts" / "shoal"), "--namespace", NAMESPACE]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [manifest for manifest in yaml.safe_load_all(rendered) if manifest]


def _read_variables(entries: list[Object]) -> dict[str, str]:
    """The plain ones; those that the kubelet fills in come from `Installation.environment`."""
    return {entry["name"]: entry["value"] for entry in entries if "value" in entry}


def _is_operator(manifest: Object) -> bool:
    return bool(manifest["metadata"].get("labels", {}).get(_COMPONENT) == "operator")


def _is_established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
