"""What the pod of a measurement shows: waiting, starting, measuring, or engines that do not start. Pure."""

from __future__ import annotations

from shoal.domain.configuration import Configuration
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import POD, Container, Job, Pod
from shoal.reconciler.store import Store
from shoal.render.measurement import PROFILER
from shoal.render.run_status import Outcome

MOST_RESTARTS = 3  # of an engine, before its configuration counts as failed


def pod_of(store: Store, job: Item[Job]) -> Item[Pod] | None:
    """The newest pod of a Job, one that lives first."""
    pods = [pod for pod in store.all(POD) if pod.owner == job.uid]
    return max(pods, key=lambda pod: (not pod.body.is_over, pod.created_at, pod.name), default=None)


def is_measuring(pod: Item[Pod] | None) -> bool:
    """Whether the profiler in it runs, so that it can be asked for its progress."""
    return pod is not None and not pod.body.is_over and any(_runs(each) for each in _profilers(pod))


def describe_start(configuration: Configuration, pod: Item[Pod] | None) -> Outcome:
    """What a measurement that has not begun waits for; `Failed` once an engine has ended too often."""
    if pod is None:
        return Outcome(configuration, "Starting", message="waits for its pod")
    if pod.body.node is None:
        return Outcome(
            configuration, "Starting", message=f"no node takes its pod: {pod.body.waits_for or 'scheduling'}"
        )
    broken = next((each for each in _engines(pod) if not each.ready and (each.restarts or each.message)), None)
    if broken is None:
        return Outcome(configuration, "Starting", message=f"engines start on node {pod.body.node}")
    words = f"{broken.name} does not start: {last_line(broken.message)}"
    if broken.restarts < MOST_RESTARTS:
        return Outcome(configuration, "Starting", message=f"{words} (start {broken.restarts + 1})")
    return Outcome(configuration, "Failed", message=f"{words} (given up after {broken.restarts} restarts)")


def describe_failure(configuration: Configuration, job: Item[Job], pod: Item[Pod] | None) -> Outcome:
    """Why a Job failed: its own words, and the last ones of its pod."""
    parts = [job.body.message]
    if pod is not None and pod.body.node is None:
        parts.append(pod.body.waits_for)
    parts += [f"{each.name}: {last_line(each.message)}" for each in pod.body.containers if each.message] if pod else []
    return Outcome(configuration, "Failed", message="; ".join(part for part in parts if part))


def last_line(text: str) -> str:
    """The last line with words: of a log's end, it says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"


def _profilers(pod: Item[Pod]) -> list[Container]:
    return [each for each in pod.body.containers if each.name == PROFILER]


def _engines(pod: Item[Pod]) -> list[Container]:
    return [each for each in pod.body.containers if each.name != PROFILER]


def _runs(container: Container) -> bool:
    return container.ready_since is not None
