"""Install, apply, ramp the traffic, write down once a second what a person would see, sum up."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from e2e.demo.stage import CHECKOUT, OPERATOR, XDS_PORT, StageError, router_address, xds_address
from e2e.demo.watcher import condition
from e2e.devcluster import ApiError, DevCluster
from e2e.real_gpu.clients import Clients, Lengths, Schedule, send_lag_p99_ms
from e2e.real_gpu.manifests import SERVICE, TEAM, Object, dump
from shoal.sim.load_report import Record
from shoal.sim.quantiles import make_quantiles

READY_SECONDS = 240.0
ReadGpus = Callable[[], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is played: the objective, and the traffic."""

    ttft_ms: float
    itl_ms: float
    schedule: Schedule
    lengths: Lengths
    processes: int = 4
    seed: int = 1


class Journal:
    """Lines of JSON, written as they come: an interrupted run keeps what it has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / "timeline.jsonl").open("w", encoding="utf-8")

    def note(self, **facts: Any) -> None:
        """Write one line."""
        self._file.write(json.dumps({"at": round(time.time(), 2), **facts}, default=str) + "\n")
        self._file.flush()

    def write(self, name: str, content: Any) -> None:
        """Write a JSON file beside the timeline."""
        (self.directory / name).write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def install(cluster: DevCluster, values: Object, directory: Path, helm: Path) -> None:
    """Install the chart as a user would. Raises StageError."""
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    xds = xds_address(cluster)
    command = [
        *(str(helm), "install", "shoal", str(CHECKOUT / "charts" / "shoal")),
        *("--namespace", OPERATOR, "--create-namespace", "--values", str(file)),
        *("--set", f"xds.clusterIP={xds},xds.address={xds}:{XDS_PORT}"),
        *("--kubeconfig", str(cluster.admin_kubeconfig_path), "--wait", "--timeout", "120s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"helm install failed: {done.stderr.strip() or done.stdout.strip()}")
    cluster.create_namespace(TEAM, {"pod-security.kubernetes.io/enforce": "restricted"})


def play(cluster: DevCluster, wish: Wish, objects: Sequence[Object], journal: Journal, read_gpus: ReadGpus) -> Object:
    """Apply the objects, wait until the service is ready, send the traffic; return the summary."""
    applied = time.time()
    cluster.apply(dump(objects))
    _until_ready(cluster, journal, read_gpus)
    ready = time.time()
    clients = Clients(wish.processes)
    try:
        url = f"{router_address(cluster)}/{SERVICE}/v1"
        clients.start(url, SERVICE, wish.schedule, wish.lengths, wish.seed)
        while not clients.done:
            _look(cluster, journal, read_gpus)
            time.sleep(1.0)
        records = clients.records()
    finally:
        clients.close()
    service = _service(cluster)
    summary = {
        "applyToReadySeconds": round(ready - applied, 1),
        "trafficBegan": clients.began,
        "history": service.get("status", {}).get("history", []),
        "sendLagP99Ms": round(send_lag_p99_ms(records), 2),
        "all": sum_up(records, wish),
        "pieces": [sum_up(piece, wish) for piece in split(records, wish.schedule)],
    }
    journal.write("summary.json", summary)
    journal.write("service.json", service)
    return summary


def split(records: Sequence[Record], schedule: Schedule) -> list[list[Record]]:
    """Requests by the piece of the schedule in which they were due."""
    edges = [sum(seconds for seconds, _ in schedule[:number]) for number in range(len(schedule) + 1)]
    return [[record for record in records if start <= record.due_at < end] for start, end in pairwise(edges)]


def sum_up(records: Sequence[Record], wish: Wish) -> Object:
    """Counts, share within the SLO and latencies."""
    ttft = [record.ttft_ms for record in records if record.ttft_ms is not None]
    itl = [record.itl_ms for record in records if record.itl_ms is not None]
    within = sum(record.is_within(wish.ttft_ms, wish.itl_ms) for record in records)
    return {
        "sent": len(records),
        "answered": sum(record.outcome == "answered" for record in records),
        "refused": sum(record.outcome == "refused" for record in records),
        "lost": sum(record.outcome.is_lost for record in records),
        "withinSlo": round(within / max(1, len(records)), 4),
        "ttftMs": _rounded(ttft),
        "itlMs": _rounded(itl),
    }


def _rounded(values: Sequence[float]) -> Mapping[str, float] | None:
    if not values:
        return None
    quantiles = make_quantiles(values)
    return {name: round(value, 1) for name in ("mean", "p50", "p95", "p99") if (value := getattr(quantiles, name))}


def _until_ready(cluster: DevCluster, journal: Journal, read_gpus: ReadGpus) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        _look(cluster, journal, read_gpus)
        ready = condition(_service(cluster), "Ready")
        if ready.get("status") == "True":
            return
        time.sleep(1.0)
    raise StageError(f"{SERVICE} is not ready after {READY_SECONDS:.0f} s: {ready.get('message')}")


def _service(cluster: DevCluster) -> Object:
    return cluster.request("GET", f"/apis/shoal.dev/v1alpha1/namespaces/{TEAM}/modelservices/{SERVICE}")


def _look(cluster: DevCluster, journal: Journal, read_gpus: ReadGpus) -> None:
    """One line: conditions, plan, GPUs as the status tells them, and the GPUs as NVML tells them."""
    try:
        status = _service(cluster).get("status", {})
    except (ApiError, OSError) as error:  # a busy API server is no reason to end the run
        journal.note(error=str(error))
        return
    journal.note(
        conditions={
            entry["type"]: [entry["status"], entry["reason"], entry.get("message", "")]
            for entry in status.get("conditions", ())
        },
        plan=status.get("plan", {}).get("summary"),
        message=status.get("plan", {}).get("reason"),
        replicas=status.get("replicas"),
        ready=status.get("readyReplicas"),
        observed=status.get("observed"),
        gpus=status.get("gpus"),
        nvml=read_gpus(),
    )
