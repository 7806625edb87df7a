"""The node agent: watches pods and Services, runs the pods of its nodes, answers commands."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp

from e2e.devcluster import control
from e2e.devcluster.addresses import Slot
from e2e.devcluster.agent import nodes
from e2e.devcluster.agent.claims import provision
from e2e.devcluster.agent.context import PodContext, Settings
from e2e.devcluster.agent.events import EventRecorder
from e2e.devcluster.agent.kubelet import KubeletServer
from e2e.devcluster.agent.nodes import Node
from e2e.devcluster.agent.pod import PodRunner
from e2e.devcluster.agent.services import ServiceProxy
from e2e.devcluster.certs import Pair
from e2e.devcluster.client import ApiClient, Object
from e2e.devcluster.config import Config
from e2e.devcluster.controlplane import API_PORT
from e2e.devcluster.state import write_json

log = logging.getLogger("agent")

# Readings younger than this look fresh to every reader.
_GPU_STATE_SECONDS = 1.0
_GONE = ("Succeeded", "Failed")


class Agent:
    """All nodes of one devcluster."""

    def __init__(self, config: Config, directory: Path, slot: Slot) -> None:
        self._config = config
        self._directory = directory
        self._slot = slot
        self._nodes = {
            node.name: Node(node, slot.node(index), directory / "gpus") for index, node in enumerate(config.nodes)
        }
        self._pods: dict[str, Object] = {}  # every pod of the cluster by UID: Services find theirs here
        self._runners: dict[str, PodRunner] = {}
        self._addresses = itertools.cycle(slot.pods())
        self._used: set[str] = set()
        self._discarding: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then end every pod at once."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        async with ApiClient.from_kubeconfig(self._directory / "kubeconfig") as client, aiohttp.ClientSession() as http:
            self._settings = self._make_settings(client, http)
            self._events = EventRecorder(client)
            tasks = await self._start(client)
            stopped = asyncio.ensure_future(stopping.wait())
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    log.error("a part of the agent ended", exc_info=task.exception())
                task.cancel()
            await asyncio.gather(*(runner.discard() for runner in self._runners.values()))

    async def _start(self, client: ApiClient) -> list[asyncio.Task[None]]:
        self._write_gpus()
        kubelet = KubeletServer(self._find_log, self._is_running)
        for node in self._nodes.values():
            await nodes.register(client, node)
            serving = Pair(*(self._directory / "pki" / f"kubelet-{node.name}.{part}" for part in ("crt", "key")))
            await kubelet.start(node.address, serving, self._settings.authority)
        fixed = {self._slot.kubernetes_service: (self._slot.control_plane, API_PORT)}
        proxy = ServiceProxy(self._pods, fixed)
        work = [
            self._watch_pods(client),
            self._watch_services(client, proxy),
            provision(client, self._directory),
            self._keep_gpu_state(),
            self._events.run(),
            *(nodes.keep_alive(client, node) for node in self._nodes.values()),
        ]
        tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(part) for part in work]
        # uvloop closes a server that nobody holds.
        self._control = await control.serve(self._directory, self._command)
        write_json(self._directory / "agent.json", {"pid": os.getpid()})
        return tasks

    def _make_settings(self, client: ApiClient, http: aiohttp.ClientSession) -> Settings:
        inherited = {name: os.environ[name] for name in self._config.environment if name in os.environ}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return Settings(
            config=self._config,
            directory=self._directory,
            client=client,
            session=http,
            server=f"https://{self._slot.control_plane}:{API_PORT}",
            authority=self._directory / "pki" / "shoal-devcluster-ca.crt",
            service_host=self._slot.kubernetes_service,
            inherited={"PATH": path, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **inherited},
        )

    # -- pods ----------------------------------------------------------------------------------------------------------

    async def _watch_pods(self, client: ApiClient) -> None:
        async for kind, pod in client.watch("/api/v1/pods"):
            uid = pod["metadata"]["uid"]
            if kind == "DELETED":
                self._pods.pop(uid, None)
                self._forget(uid)
                continue
            self._pods[uid] = pod
            self._observe(pod)

    def _observe(self, pod: Object) -> None:
        node = self._nodes.get(pod["spec"].get("nodeName", ""))
        if node is None or node.failed:
            return
        runner = self._runners.get(pod["metadata"]["uid"])
        if runner is not None:
            runner.update(pod)
            return
        ended = (pod.get("status") or {}).get("phase") in _GONE
        leaving = "deletionTimestamp" in pod["metadata"]
        if ended and not leaving:
            return
        runner = self._make_runner(pod, node)
        self._runners[pod["metadata"]["uid"]] = runner
        if leaving:
            runner.update(pod)
        else:
            runner.start()

    def _make_runner(self, pod: Object, node: Node) -> PodRunner:
        host = pod["spec"].get("hostNetwork", False)
        address = node.address if host else self._take_address()
        uid = pod["metadata"]["uid"]
        settings = self._settings
        variables = {**settings.inherited, **node.devices.gpus.node_variables()}
        context = PodContext(
            settings=settings,
            inherited=variables,
            pod=pod,
            address=address,
            node_address=node.address,
            directory=self._directory / "pods" / uid,
            record_event=lambda kind, reason, message: self._events.record(pod, node.name, kind, reason, message),
        )
        return PodRunner(context, node.devices)

    def _take_address(self) -> str:
        address = next(address for address in self._addresses if address not in self._used)
        self._used.add(address)
        return address

    def _forget(self, uid: str) -> None:
        runner = self._runners.pop(uid, None)
        if runner is not None:
            self._events.forget(uid)
            self._discarding.add(task := asyncio.ensure_future(self._discard(runner)))
            task.add_done_callback(self._discarding.discard)

    async def _discard(self, runner: PodRunner) -> None:
        await runner.discard()
        self._used.discard(runner.context.address)

    # -- Services, GPUs ------------------------------------------------------------------------------------------------

    async def _watch_services(self, client: ApiClient, proxy: ServiceProxy) -> None:
        async for kind, service in client.watch("/api/v1/services"):
            if kind == "DELETED":
                await proxy.remove(service)
            else:
                await proxy.update(service)

    async def _keep_gpu_state(self) -> None:
        while True:
            await asyncio.sleep(_GPU_STATE_SECONDS)
            self._write_gpus()

    def _write_gpus(self) -> None:
        for node in self._nodes.values():
            node.devices.gpus.write(node.devices.busy())

    # -- logs and commands ---------------------------------------------------------------------------------------------

    def _find_runner(self, namespace: str, name: str) -> PodRunner:
        for runner in self._runners.values():
            if (runner.context.namespace, runner.context.name) == (namespace, name):
                return runner
        raise LookupError(f"no pod {namespace}/{name} runs on the devcluster's nodes")

    def _find_log(self, namespace: str, name: str, container: str, previous: bool) -> Path:
        runner = self._find_runner(namespace, name)
        record = runner.keeper(container).record
        restart = record.restarts - (1 if previous else 0)
        if restart < 0:
            raise LookupError(f"previous terminated container {container!r} in pod {name!r} not found")
        return runner.context.log_path(container, restart)

    def _is_running(self, namespace: str, name: str, container: str) -> bool:
        try:
            runner = self._find_runner(namespace, name)
        except LookupError:
            return False
        return not runner.finished and runner.keeper(container).record.exit_code is None

    async def _command(self, wish: dict[str, Any]) -> dict[str, Any]:
        match wish["do"]:
            case "heat":
                self._node(wish["node"]).devices.gpus.heat(wish["index"], wish["ratio"])
                self._write_gpus()
            case "hide-gpu":
                self._node(wish["node"]).devices.gpus.hide(wish["index"], hidden=wish["hidden"])
                self._write_gpus()
            case "kill":
                return {"pid": self._kill(wish)}
            case "log-path":
                runner = self._find_runner(wish["namespace"], wish["pod"])
                record = runner.keeper(wish["container"]).record
                return {"path": str(runner.context.log_path(record.name, record.restarts))}
            case "fail-node":
                await self._fail_node(self._node(wish["node"]))
            case "heal-node":
                await self._heal_node(self._node(wish["node"]))
            case unknown:
                raise ValueError(f"unknown command {unknown!r}")
        return {}

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            raise LookupError(f"no node {name!r}; there are {', '.join(self._nodes)}")
        return self._nodes[name]

    def _kill(self, wish: dict[str, Any]) -> int:
        keeper = self._find_runner(wish["namespace"], wish["pod"]).keeper(wish["container"])
        pid = keeper.pid
        if pid is None:
            raise LookupError(f"container {keeper.record.name} does not run now")
        os.kill(pid, wish["signal"])
        return pid

    async def _fail_node(self, node: Node) -> None:
        """Lose the node: nothing on it runs, and nothing is reported any more."""
        node.failed = True
        lost = [uid for uid, runner in self._runners.items() if runner.context.node_address == node.address]
        await asyncio.gather(*(self._discard(self._runners.pop(uid)) for uid in lost))

    async def _heal_node(self, node: Node) -> None:
        """Boot the node: its pods start again."""
        node.failed = False
        await nodes.register(self._settings.client, node)
        for pod in list(self._pods.values()):
            if pod["spec"].get("nodeName") == node.name:
                self._observe(pod)
