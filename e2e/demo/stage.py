"""Sets the stage:

the chart is installed as a user would install it, pools and services are applied, heat and crashes are staged.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from e2e.demo.watcher import Watcher, condition, gpus_of
from e2e.devcluster import DevCluster, Object
from e2e.tools import helm_binary

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
TEAM = "team-a"
OPERATOR = "shoal-system"
ROUTER_PORT = 8080
XDS_PORT = 18000
Say = Callable[[str], None]


class StageError(RuntimeError):
    """The stage could not be set; the message says where to look."""


def install(cluster: DevCluster, say: Say) -> None:
    """Install the chart with helm, then create the namespace and the pools. Raises StageError."""
    say("helm install shoal")
    xds = xds_address(cluster)
    command = [
        str(helm_binary()),
        "install",
        "shoal",
        str(CHECKOUT / "charts" / "shoal"),
        *("--namespace", OPERATOR, "--create-namespace"),
        *("--values", str(HERE / "values.yaml")),
        *("--set", f"xds.clusterIP={xds},xds.address={xds}:{XDS_PORT}"),
        *("--set-string", f"engineClass.env.SHOAL_SIM_PROFILE_DIR={CHECKOUT / 'profiles' / 'simulated'}"),
        *("--kubeconfig", str(cluster.admin_kubeconfig_path)),
        *("--wait", "--timeout", "120s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"helm install failed: {done.stderr.strip() or done.stdout.strip()}")
    cluster.create_namespace(TEAM, {"pod-security.kubernetes.io/enforce": "restricted"})
    say("pools, profiles")
    cluster.apply((HERE / "manifests" / "pools.yaml").read_text())
    for profile in sorted((CHECKOUT / "profiles" / "simulated").glob("*.yaml")):
        cluster.apply(profile.read_text())


def xds_address(cluster: DevCluster) -> str:
    """Choose the cluster IP of the xDS Service beforehand: here no DNS server answers for Services."""
    kubernetes = cluster.request("GET", "/api/v1/namespaces/default/services/kubernetes")
    # The first addresses of the range are kept for Services that ask for one.
    return str(ip_address(kubernetes["spec"]["clusterIP"]) + 9)


def apply(cluster: DevCluster, name: str) -> None:
    """Apply one of the manifests."""
    cluster.apply((HERE / "manifests" / f"{name}.yaml").read_text())


async def until_ready(watcher: Watcher, names: set[str], say: Say, *, timeout: float = 180.0) -> None:
    """Wait until ModelServices are Ready. Raises StageError with their conditions."""
    for _ in range(int(timeout * 2)):
        await watcher.read()
        ready = {
            name for name, item in watcher.view.services.items() if condition(item, "Ready").get("status") == "True"
        }
        if names <= ready:
            return
        say(f"engines start (10 s each): {', '.join(sorted(names - ready))}")
        await asyncio.sleep(0.5)
    why = {name: condition(watcher.view.services.get(name, {}), "Ready").get("message") for name in names}
    raise StageError(f"not ready after {timeout:.0f} s: {why}")


def router_address(cluster: DevCluster) -> str:
    """Return the router's address as clients outside a cluster's DNS reach it: the Service's cluster IP."""
    service = cluster.request("GET", f"/api/v1/namespaces/{TEAM}/services/shoal-router")
    return f"http://{service['spec']['clusterIP']}:{ROUTER_PORT}"


def crash_leader(cluster: DevCluster) -> str:
    """Kill the operator that leads (SIGKILL) and return its pod's name."""
    lease = cluster.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR}/leases/shoal-operator")
    pod = str(lease["spec"]["holderIdentity"])
    cluster.kill(OPERATOR, pod, number=signal.SIGKILL)
    return pod


def heat_one_gpu(cluster: DevCluster, watcher: Watcher, service: str, ratio: float) -> tuple[str, str]:
    """Slow the clock of one GPU that serves `service` on the DRA pool; return its node and UUID."""
    used = [gpu for gpu in watcher.view.services[service]["status"].get("gpus", ()) if gpu.get("uuid")]
    if not used:
        raise StageError(f"status.gpus of {service} names no GPU")
    gpu = used[0]
    cluster.set_clock(gpu["node"], index_of(cluster, gpu["node"], gpu["uuid"]), ratio)
    return gpu["node"], gpu["uuid"]


def index_of(cluster: DevCluster, node: str, uuid: str) -> int:
    """Return the index of a GPU on its node."""
    slices = cluster.request("GET", "/apis/resource.k8s.io/v1/resourceslices")["items"]
    devices = [device for item in slices if item["spec"].get("nodeName") == node for device in item["spec"]["devices"]]
    names = [device["attributes"]["uuid"]["string"] for device in devices]
    return names.index(uuid)


def stock(cluster: DevCluster) -> dict[str, int]:
    """Return the GPUs that Shoal may use in each pool: those that exist less what others hold."""
    pods = cluster.request("GET", "/api/v1/namespaces/ml/pods")["items"]
    others = sum(gpus_of(pod) for pod in pods)
    exist = {node.accelerator: node.gpus for node in cluster.config.nodes}
    return {"h100": exist["NVIDIA-H100-80GB-HBM3"], "l40s": exist["NVIDIA-L40S"] - others}


def ready_message(services: dict[str, Object], name: str) -> str:
    """Return what the conditions say of a service that is short of GPUs."""
    service = services.get(name, {})
    return str(condition(service, "Degraded").get("message") or condition(service, "Ready").get("message") or "")
