"""Reads the cluster once a second, as a person with kubectl would, and remembers what the summary needs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from e2e.demo.summary import Decided, Observations
from e2e.devcluster import ApiClient, Object

SERVICES = "/apis/shoal.dev/v1alpha1/namespaces/team-a/modelservices"
ENGINES = "/api/v1/namespaces/team-a/pods"
OPERATORS = "/api/v1/namespaces/shoal-system/pods"
_SIGNALS = 128  # exit codes from here on are those of signals


@dataclass(slots=True)
class View:
    """The cluster as last read."""

    services: dict[str, Object] = field(default_factory=dict)
    engines: list[Object] = field(default_factory=list)
    operators: list[Object] = field(default_factory=list)


class Watcher:
    """Polls the API server and keeps `view` and `seen` up to date. `zero()` starts the clock of the traffic."""

    def __init__(self, client: ApiClient, seen: Observations) -> None:
        self._client = client
        self._decided: dict[tuple[str, str, str, str], Decided] = {}
        self._started: float | None = None
        self._last = time.time()
        self.seen = seen
        self.view = View()

    def zero(self) -> None:
        """From now on instants count from here, and GPU-seconds are added up."""
        self._started = self._last = time.time()

    @property
    def elapsed(self) -> float:
        """Seconds since `zero()`; 0 before."""
        return time.time() - self._started if self._started is not None else 0.0

    async def run(self) -> None:
        """Read for ever."""
        while True:
            await self.read()
            await asyncio.sleep(1)

    async def read(self) -> None:
        """Read once."""
        services, engines, operators = await asyncio.gather(
            self._client.items(SERVICES),
            self._client.items(ENGINES, labelSelector="app.kubernetes.io/component=engine"),
            self._client.items(OPERATORS, labelSelector="app.kubernetes.io/component=operator"),
        )
        self.view = View({item["metadata"]["name"]: item for item in services}, engines, operators)
        now = time.time()
        if self._started is not None:
            self.seen.gpu_seconds += (now - self._last) * sum(gpus_of(pod) for pod in engines)
        self._last = now
        self._note_peaks()
        self._note_decisions()
        self._note_restarts()

    def _note_peaks(self) -> None:
        held: Counter[str] = Counter()
        for pod in self.view.engines:
            held[pool_of(pod)] += gpus_of(pod)
        for pool, gpus in held.items():
            self.seen.most_gpus[pool] = max(self.seen.most_gpus.get(pool, 0), gpus)

    def _note_restarts(self) -> None:
        now = restarts(self.view.operators)
        if now > self.seen.operator_restarts:
            self.seen.operator_restarts = now
            self.seen.operator_ends = last_ends(self.view.operators)

    def _note_decisions(self) -> None:
        for name, service in self.view.services.items():
            for entry in service.get("status", {}).get("history", ()):
                key = (name, entry["at"], entry["from"], entry["to"])
                if key not in self._decided:
                    self._decided[key] = make_decided(name, entry, self._started or time.time())
        self.seen.decisions = list(self._decided.values())


def make_decided(service: str, entry: Object, started: float) -> Decided:
    """Read one entry of a history. Its instant has whole seconds: the end of that second is taken."""
    at = datetime.fromisoformat(entry["at"]).timestamp() + 1
    return Decided(
        service=service,
        at=at - started,
        before=entry["from"],
        after=entry["to"],
        why=entry["why"],
        gpus_before=gpus_of_summary(entry["from"]),
        gpus_after=gpus_of_summary(entry["to"]),
    )


def gpus_of_summary(summary: str) -> int:
    """Count the GPUs of a plan in short: `2xTP1` is 2, `1xTP2+3x(4/GPU)` is 5, `none` is 0."""
    total = 0
    for part in summary.split("+"):
        count, _, shape = part.partition("x")
        if shape:
            total += int(count) * (int(shape[2:]) if shape.startswith("TP") else 1)
    return total


def gpus_of(pod: Object) -> int:
    """Count the GPUs that a pod holds or waits for: devices of its claim, or of its extended resource."""
    limits = (container.get("resources", {}).get("limits", {}) for container in pod["spec"]["containers"])
    extended = sum(int(limit.get("nvidia.com/gpu", 0)) for limit in limits)
    degree = _argument(pod, "--tensor-parallel-size")
    return extended or (int(degree or 1) if pod["spec"].get("resourceClaims") else 0)


def pool_of(pod: Object) -> str:
    """Name the pool of a pod by the way it claims: the demo has one of each."""
    return "h100" if pod["spec"].get("resourceClaims") else "l40s"


def _argument(pod: Object, flag: str) -> str | None:
    arguments = pod["spec"]["containers"][-1].get("args", [])
    for at, argument in enumerate(arguments):
        if argument == flag:
            return str(arguments[at + 1])
        if argument.startswith(f"{flag}="):
            return str(argument.partition("=")[2])
    return None


def restarts(pods: Iterable[Object]) -> int:
    """Count the container restarts of some pods."""
    statuses = (status for pod in pods for status in pod.get("status", {}).get("containerStatuses", ()))
    return sum(status.get("restartCount", 0) for status in statuses)


def last_ends(pods: Iterable[Object]) -> list[str]:
    """How the containers of some pods last ended, with the last line of those that no signal ended."""
    statuses = (status for pod in pods for status in pod.get("status", {}).get("containerStatuses", ()))
    ended = [state["terminated"] for status in statuses if "terminated" in (state := status.get("lastState", {}))]
    return [f"exit {end['exitCode']}{_last_words(end) if end['exitCode'] < _SIGNALS else ''}" for end in ended]


def _last_words(end: Object) -> str:
    return "".join(f": {line}" for line in end.get("message", "").splitlines()[-1:])


def condition(service: Object, kind: str) -> Object:
    """Return a condition of a ModelService, or an empty one."""
    conditions = service.get("status", {}).get("conditions", ())
    return next((entry for entry in conditions if entry["type"] == kind), {})
