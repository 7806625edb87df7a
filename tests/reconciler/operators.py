"""The operator as a process of its own, under the chart's permissions, against a real API server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from e2e.devcluster import DevCluster
from e2e.devcluster.client import ApiError
from e2e.ports import free_port
from e2e.tools import helm_binary

Object = dict[str, Any]

CHECKOUT = Path(__file__).resolve().parent.parent.parent
H100 = "NVIDIA-H100-80GB-HBM3"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SERVICES = "/apis/shoal.dev/v1alpha1/namespaces/{}/modelservices"
_RUNS = "/apis/shoal.dev/v1alpha1/namespaces/{}/profileruns"


@dataclass
class Site:
    """A place of its own in a shared cluster: an operator namespace, a namespace for services, a pool, a class."""

    cluster: DevCluster
    logs: Path
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:6])
    processes: list[Operator] = field(default_factory=list)

    @property
    def operator_namespace(self) -> str:
        return f"shoal-{self.name}"

    @property
    def namespace(self) -> str:
        return f"team-{self.name}"

    def install(self) -> None:
        """Apply what the chart renders to, but for the operator itself; bindings get names of this site."""
        manifests = render_chart(self.operator_namespace)
        definitions = [m for m in manifests if m["kind"] == "CustomResourceDefinition"]
        self.cluster.create_namespace(self.operator_namespace)
        self.cluster.create_namespace(self.namespace, {"pod-security.kubernetes.io/enforce": "restricted"})
        self.cluster.apply(definitions)
        for definition in definitions:
            self.cluster.wait_for(f"{_CRDS}/{definition['metadata']['name']}", _is_established)
        kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
        rest = [m for m in manifests if m["kind"] in kinds]
        for manifest in rest:
            if manifest["kind"] == "ClusterRoleBinding":
                manifest["metadata"]["name"] += f"-{self.name}"
        self.cluster.apply(rest, namespace=self.operator_namespace)

    def start(self, *, identity: str | None = None, server: str | None = None, **environment: str) -> Operator:
        """Start an operator; `server` replaces the API server's URL, as a proxy does."""
        kubeconfig = self.cluster.service_account_kubeconfig(self.operator_namespace, "shoal-operator")
        if server is not None:
            kubeconfig = redirect(kubeconfig, server)
        number = len(self.processes)
        settings = {
            "KUBECONFIG": str(kubeconfig),
            "POD_IP": "127.0.0.1",
            "POD_NAME": identity or f"operator-{number}",
            "SHOAL_NAMESPACE": self.operator_namespace,
            "SHOAL_WATCH_NAMESPACES": self.namespace,
            "SHOAL_LOG_FORMAT": "text",
            **{name: str(free_port()) for name in ("SHOAL_XDS_PORT", "SHOAL_HEALTH_PORT", "SHOAL_METRICS_PORT")},
            **environment,
        }
        operator = Operator(settings, self.logs / f"operator-{self.name}-{number}.log")
        self.processes.append(operator)
        return operator

    def stop(self) -> None:
        for operator in self.processes:
            operator.stop()
        for collection in (_SERVICES, _RUNS):
            leave(self.cluster, collection.format(self.namespace))
        for kind in ("gpupools", "engineclasses"):
            leave(self.cluster, f"/apis/shoal.dev/v1alpha1/{kind}", prefix=f"{self.name}-")

    # -- what tests apply ----------------------------------------------------------------------------------------------

    @property
    def pool(self) -> str:
        return f"{self.name}-h100"

    @property
    def engine_class(self) -> str:
        return f"{self.name}-sim"

    def apply_pool(self, *, name: str | None = None, accelerator: str = H100, **spec: Any) -> None:
        wish = {
            "accelerator": accelerator,
            "memory": {"perGPU": "80Gi"},
            "claim": {"dra": {"deviceClassName": "gpu.nvidia.com", "driver": "gpu.nvidia.com"}},
            "pricePerGPUHour": "7.50",
            "link": "NVLink",
            **spec,
        }
        self.apply("GPUPool", name or self.pool, wish)

    def apply_engine_class(self, **spec: Any) -> None:
        wish = {
            "image": "shoal-sim-engine:0.1.0",
            "version": "0.33.0",
            "env": [{"name": "SHOAL_SIM_STARTUP_SECONDS", "value": "1"}],
            "resources": {"cpu": "100m", "memory": "256Mi", "shm": "64Mi"},
            "cache": {"emptyDir": {"sizeLimit": "100Mi"}},
            **spec,
        }
        self.apply("EngineClass", self.engine_class, wish)

    def apply_service(self, name: str, **spec: Any) -> Object:
        wish = {
            "model": {"name": "Qwen/Qwen2.5-1.5B-Instruct"},
            "slo": {"ttftMilliseconds": 1000, "itlMilliseconds": 50},
            "engine": {"class": self.engine_class},
            "pools": [self.pool],
            **spec,
        }
        return self.apply("ModelService", name, wish, namespace=self.namespace)

    def apply(self, kind: str, name: str, spec: Object, namespace: str = "default") -> Object:
        body = {"apiVersion": "shoal.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        return self.cluster.apply(body, namespace=namespace)[0]

    # -- what tests ask ------------------------------------------------------------------------------------------------

    def service_path(self, name: str) -> str:
        return f"{_SERVICES.format(self.namespace)}/{name}"

    def service(self, name: str) -> Object:
        return self.cluster.request("GET", self.service_path(name))

    def run_path(self, name: str) -> str:
        return f"{_RUNS.format(self.namespace)}/{name}"

    def run(self, name: str) -> Object:
        return self.cluster.request("GET", self.run_path(name))

    def list(self, group_version: str, plural: str, selector: str = "") -> list[Object]:
        root = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
        path = f"{root}/namespaces/{self.namespace}/{plural}"
        items: list[Object] = self.cluster.request("GET", path, params={"labelSelector": selector})["items"]
        return items

    def variants(self, service: str) -> list[Object]:
        return self.list("apps/v1", "deployments", f"shoal.dev/model-service={service}")

    def wait_for_status(self, name: str, holds: Callable[[Object], bool], *, timeout: float = 30.0) -> Object:
        return self.cluster.wait_for(
            self.service_path(name), lambda found: holds(found.get("status") or {}), timeout=timeout
        )

    def wait_for_run(self, name: str, holds: Callable[[Object], bool], *, timeout: float = 30.0) -> Object:
        return self.cluster.wait_for(
            self.run_path(name), lambda found: holds(found.get("status") or {}), timeout=timeout
        )

    def eventually(self, holds: Callable[[], Any], what: str, *, timeout: float = 30.0) -> Any:
        """Wait until `holds()` is true, and return it."""
        deadline = time.monotonic() + timeout
        while not (found := holds()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} after {timeout:.0f} s; operators said:\n{self.tail()}")
            time.sleep(0.05)
        return found

    def tail(self) -> str:
        return "\n".join(operator.tail() for operator in self.processes)


class Operator:
    """One process."""

    def __init__(self, settings: Mapping[str, str], log: Path) -> None:
        self.settings, self.log = dict(settings), log
        self._start()

    def _start(self) -> None:
        base = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shoal.reconciler"],
                cwd=CHECKOUT,
                env={**base, "PYTHONPATH": str(CHECKOUT / "operator"), **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """As a kubelet does with a container: the same pod, the same settings."""
        self.kill()
        self._start()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it gracefully; return its exit status."""
        if self.is_running:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.text().splitlines()[-lines:])


@cache
def _render(namespace: str) -> str:
    chart = CHECKOUT / "charts" / "shoal"
    command = [str(helm_binary()), "template", "shoal", str(chart), "--namespace", namespace]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def render_chart(namespace: str) -> list[Object]:
    return [manifest for manifest in yaml.safe_load_all(_render(namespace)) if manifest]


def redirect(kubeconfig: Path, server: str) -> Path:
    """A copy of a kubeconfig that dials another server, over plain HTTP."""
    content = yaml.safe_load(kubeconfig.read_text())
    for entry in content["clusters"]:
        entry["cluster"] = {"server": server}
    target = kubeconfig.with_name(f"{kubeconfig.stem}-{server.rsplit(':', 1)[-1]}.kubeconfig")
    target.write_text(yaml.safe_dump(content))
    return target


def leave(cluster: DevCluster, path: str, prefix: str = "") -> None:
    """Delete the objects of a collection."""
    try:
        for item in cluster.request("GET", path)["items"]:
            if item["metadata"]["name"].startswith(prefix):
                cluster.request("DELETE", f"{path}/{item['metadata']['name']}")
    except ApiError as error:
        if error.status != 404:
            raise


def condition(status: Object, kind: str) -> Object:
    return next((c for c in status.get("conditions") or () if c["type"] == kind), {})


def _is_established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()  # null at first
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
