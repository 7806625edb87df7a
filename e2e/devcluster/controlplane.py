"""Starts etcd, the API server, the controller manager and the scheduler on loopback and waits until they serve."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from e2e.devcluster import processes
from e2e.devcluster.addresses import Slot
from e2e.devcluster.certs import Authority, Pair, make_signing_key
from e2e.devcluster.client import ApiClient, ApiError
from e2e.devcluster.kubeconfig import certificate_user, embedded_cluster, write_kubeconfig

API_PORT = 6443
_ETCD_PORT, _ETCD_PEER_PORT = 2379, 2380
# Starting takes 6 s on an idle machine with two cores; CI machines that build beside it need longer.
START_SECONDS = 120.0

# Controllers that cannot work here: the API server refuses loopback addresses in EndpointSlices, there is no cloud,
# and nobody signs certificates.
_NO_CONTROLLERS = (
    "endpointslice-controller",
    "endpoints-controller",
    "endpointslice-mirroring-controller",
    "node-ipam-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-approving-controller",
)

# Every write, without bodies, is enough to count objects at any instant; reads and leases would drown it.
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: None
  resources: [{group: coordination.k8s.io}, {group: events.k8s.io}, {group: "", resources: [events]}]
- level: Request
  resources: [{group: apps}, {group: shoal.dev}, {group: resource.k8s.io}]
- level: Metadata
"""


class ControlPlaneError(RuntimeError):
    """A component ended or never became ready; the message carries the end of its log."""


@dataclass(frozen=True)
class Authorities:
    """The cluster's authority (API, kubelets, users) and the files that components need."""

    cluster: Authority
    server: Pair
    kubelet_client: Pair
    signing_key: Path
    etcd: Authority
    etcd_server: Pair
    etcd_client: Pair


class ControlPlane:
    """The four processes, their files under `directory`, and how to reach them."""

    def __init__(self, *, binary: Path, directory: Path, slot: Slot, name: str) -> None:
        self._binary = binary
        self._directory = directory
        self._slot = slot
        self._name = name
        self._pki = directory / "pki"
        self._logs = directory / "logs"
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self.server = f"https://{slot.control_plane}:{API_PORT}"
        self.kubeconfig = directory / "kubeconfig"
        self.audit_log = self._logs / "audit.log"
        for folder in (self._pki, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        self._pki.chmod(0o700)
        self.authorities = _make_authorities(self._pki, slot)

    async def start(self) -> None:
        """Start everything; returns when pods can be created. Raises ControlPlaneError."""
        self._write_admin_kubeconfig()
        deadline = time.monotonic() + START_SECONDS
        await self._spawn("etcd", self._etcd_flags())
        await self._spawn("apiserver", self._apiserver_flags())
        async with ApiClient.from_kubeconfig(self.kubeconfig) as client:
            await self._wait(client, "/readyz", deadline)
            await self._spawn("controller-manager", self._controller_manager_flags())
            await self._spawn("scheduler", self._scheduler_flags())
            await self._wait(client, "/api/v1/namespaces/default/serviceaccounts/default", deadline)

    async def stop(self) -> None:
        """End the processes, API clients first; data is throw-away, so nobody needs long."""
        order = [self._running.pop(n) for n in ("scheduler", "controller-manager") if n in self._running]
        await asyncio.gather(*(processes.stop(process, grace=0.0) for process in order))
        for process in [self._running.pop(n) for n in ("apiserver", "etcd") if n in self._running]:
            await processes.stop(process, grace=0.0)
        shutil.rmtree(self._directory / "etcd", ignore_errors=True)

    def issue_kubelet(self, node: str, address: str) -> None:
        """Write the certificate that a node's kubelet port serves with."""
        self.authorities.cluster.issue(f"kubelet-{node}", hosts=[node, address])

    @property
    def pids(self) -> set[int]:
        """Process ids of the running components."""
        return {process.pid for process in self._running.values()}

    async def wait_for_exit(self) -> str:
        """Wait until any component ends and return its name."""
        waits = {asyncio.ensure_future(process.wait()): name for name, process in self._running.items()}
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return waits[next(iter(done))]

    def describe_failure(self, component: str) -> str:
        """Say that a component ended, with the end of its log."""
        log = self._logs / f"{component}.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
        return f"{component} ended unexpectedly; the end of {log}:\n{tail}"

    async def _wait(self, client: ApiClient, path: str, deadline: float) -> None:
        while True:
            try:
                await client.request("GET", path, timeout=2.0)
                return
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                last = str(error)
            for name, process in self._running.items():
                if process.returncode is not None:
                    raise ControlPlaneError(self.describe_failure(name))
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"{path} not there after {START_SECONDS:.0f} s: {last}; logs: {self._logs}")
            await asyncio.sleep(0.05)

    async def _spawn(self, component: str, flags: Mapping[str, object]) -> None:
        command = [str(self._binary), component, *(f"--{flag}={value}" for flag, value in flags.items())]
        self._running[component] = await processes.spawn(command, log=self._logs / f"{component}.log")

    def _write_admin_kubeconfig(self) -> None:
        admin = self.authorities.cluster.issue("admin", groups=["system:masters"])
        write_kubeconfig(
            self.kubeconfig,
            cluster=embedded_cluster(self.server, self.authorities.cluster.pair.cert),
            user=certificate_user(admin),
            name=self._name,
        )

    def _etcd_flags(self) -> dict[str, object]:
        host = self._slot.control_plane
        peer = f"http://{host}:{_ETCD_PEER_PORT}"
        client = f"https://{host}:{_ETCD_PORT}"
        return {
            "data-dir": self._directory / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "client-cert-auth": "true",
            "trusted-ca-file": self.authorities.etcd.pair.cert,
            "cert-file": self.authorities.etcd_server.cert,
            "key-file": self.authorities.etcd_server.key,
            # One member with throw-away data: no disk syncs, and no second of waiting for its own election.
            "unsafe-no-fsync": "true",
            "heartbeat-interval": 50,
            "election-timeout": 250,
            "log-level": "warn",
        }

    def _apiserver_flags(self) -> dict[str, object]:
        host, made = self._slot.control_plane, self.authorities
        policy = self._directory / "audit-policy.yaml"
        policy.write_text(_AUDIT_POLICY)
        return {
            "bind-address": host,
            "advertise-address": host,
            "secure-port": API_PORT,
            # The API server's own endpoint would be a loopback address in an EndpointSlice.
            "endpoint-reconciler-type": "none",
            "service-cluster-ip-range": self._slot.service_range,
            "tls-cert-file": made.server.cert,
            "tls-private-key-file": made.server.key,
            "client-ca-file": made.cluster.pair.cert,
            "etcd-servers": f"https://{host}:{_ETCD_PORT}",
            "etcd-cafile": made.etcd.pair.cert,
            "etcd-certfile": made.etcd_client.cert,
            "etcd-keyfile": made.etcd_client.key,
            "authorization-mode": "Node,RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": made.signing_key,
            "service-account-signing-key-file": made.signing_key,
            "kubelet-client-certificate": made.kubelet_client.cert,
            "kubelet-client-key": made.kubelet_client.key,
            "kubelet-certificate-authority": made.cluster.pair.cert,
            "kubelet-preferred-address-types": "InternalIP",
            "audit-policy-file": policy,
            "audit-log-path": self.audit_log,
            "profiling": "false",
        }

    def _controller_manager_flags(self) -> dict[str, object]:
        return {
            **self._client_flags(),
            "controllers": ",".join(["*", *(f"-{name}" for name in _NO_CONTROLLERS)]),
            "root-ca-file": self.authorities.cluster.pair.cert,
            "service-account-private-key-file": self.authorities.signing_key,
            # A dead node shows after 20 s instead of 50: tests of failures wait for it.
            "node-monitor-grace-period": "20s",
            "node-monitor-period": "2s",
        }

    def _scheduler_flags(self) -> dict[str, object]:
        return self._client_flags()

    def _client_flags(self) -> dict[str, object]:
        return {
            "kubeconfig": self.kubeconfig,
            "leader-elect": "false",
            "secure-port": 0,
            "kube-api-qps": 200,
            "kube-api-burst": 400,
        }


def _make_authorities(directory: Path, slot: Slot) -> Authorities:
    cluster = Authority(directory, "shoal-devcluster-ca")
    etcd = Authority(directory, "shoal-devcluster-etcd-ca")
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    return Authorities(
        cluster=cluster,
        server=cluster.issue("kube-apiserver", hosts=[*names, slot.control_plane, slot.kubernetes_service]),
        kubelet_client=cluster.issue("kube-apiserver-kubelet-client", groups=["system:masters"]),
        signing_key=make_signing_key(directory / "service-accounts.key"),
        etcd=etcd,
        etcd_server=etcd.issue("etcd", hosts=[slot.control_plane]),
        etcd_client=etcd.issue("etcd-client"),
    )
