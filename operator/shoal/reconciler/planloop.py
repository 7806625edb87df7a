"""The one task that decides: a round for what changed 0.1 s later, and for everything each planning interval."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from shoal.api.model_service import ModelService
from shoal.domain.plan import Decision, Hold, Infeasible, PlanSet, Quality
from shoal.domain.service import Memory, Service, ServiceKey
from shoal.domain.snapshot import Snapshot
from shoal.reconciler.clock import Now, steady
from shoal.reconciler.workqueue import RateLimit
from shoal.render.conditions import FRESH_FRACTION, HOT_BELOW
from shoal.render.derating import has_heat_changed
from shoal.render.problems import Problem
from shoal.render.reasons import ProblemReason
from shoal.render.slo import TTFT_TAIL

logger = logging.getLogger(__name__)

DEBOUNCE_SECONDS: Final = 0.1
# Deciding takes at most this share of the time, however many changes there are; so many seconds may be saved up.
_SHARE: Final = 0.2
_RESERVE_SECONDS: Final = 1
# A group that takes longer than this is decided in a thread, so that writes and health checks go on.
_INLINE_SECONDS: Final = 0.02
_RECOVERED: Final = 0.9


@dataclass(frozen=True, slots=True)
class View:
    """What was observed for one round: the Snapshot, and of every ModelService its resource and what is wrong with it.

    Services that cannot be planned are in `problems` and not in the Snapshot. `failures`: pod -> why it does not serve.
    """

    snapshot: Snapshot
    resources: Mapping[ServiceKey, ModelService]
    problems: Mapping[ServiceKey, tuple[Problem, ...]]
    failures: Mapping[ServiceKey, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a worker needs of one ModelService.

    `service` and `decision` None: it could not be planned. `memory` None: nothing is remembered but what its status
    says.
    """

    resource: ModelService
    service: Service | None = None
    decision: Decision | None = None
    memory: Memory | None = None
    problems: tuple[Problem, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


class PlanLoop:
    """Observes, decides, publishes. `plans` is replaced as a whole and never changed in place.

    `observe` makes the View, `partition` cuts its Snapshot into groups that share no pool, `decide` decides one, and
    `remember` makes the memory that the next round shall see. `on_change` is told which services need a worker.
    `told_of` gives the derating by pod that stands in a service's status.
    """

    def __init__(
        self,
        *,
        observe: Callable[[Mapping[ServiceKey, Memory]], View],
        partition: Callable[[Snapshot], tuple[Snapshot, ...]],
        decide: Callable[[Snapshot], PlanSet],
        remember: Callable[[Service, Decision, float], Memory],
        on_change: Callable[[ServiceKey], None],
        told_of: Callable[[ServiceKey], Mapping[str, float]],
        interval: float,
        now: Now = steady,
    ) -> None:
        self._observe, self._partition, self._decide = observe, partition, decide
        self._remember, self._on_change, self._told_of = remember, on_change, told_of
        self._interval, self._now = interval, now
        self._budget = RateLimit(_SHARE, _RESERVE_SECONDS, now)
        self._dirty: set[ServiceKey] = set()
        self._all_dirty = True
        self._wake = asyncio.Event()
        self._slow: dict[frozenset[ServiceKey], float] = {}  # group -> seconds its last decision took
        self._answers: dict[frozenset[ServiceKey], tuple[Snapshot, PlanSet]] = {}  # of each group, the last
        self.plans: Mapping[ServiceKey, Planned] = {}
        self.rounds = 0
        self.failures = 0
        self.round_seconds = 0.0
        self.decided_at: float | None = None

    def mark(self, key: ServiceKey) -> None:
        """Decide for this service's group soon."""
        self._dirty.add(key)
        self._wake.set()

    def mark_all(self) -> None:
        """Decide for all soon."""
        self._all_dirty = True
        self._wake.set()

    def reset(self) -> None:
        """Forget every plan and memory: somebody else has decided meanwhile."""
        self.plans, self._answers = {}, {}
        self.mark_all()

    def answer_about(self, key: ServiceKey) -> tuple[Snapshot, PlanSet] | None:
        """What was last decided for a service's group, and from what; None when nothing was."""
        return next((answer for keys, answer in self._answers.items() if key in keys), None)

    @property
    def quality(self) -> Quality:
        """How good the targets of all groups are together, as of their last decisions."""
        answers = [answer.quality for _, answer in self._answers.values()]
        exact = all(quality.exact for quality in answers)
        return Quality(sum(q.cost for q in answers), sum(q.bound for q in answers), exact)

    async def run(self) -> None:
        """Decide for ever; a failure is logged and tried again at the next round."""
        last_full = self._now() - self._interval
        while True:
            await self._wait(last_full + self._interval)
            await asyncio.sleep(DEBOUNCE_SECONDS)
            began = self._now()
            full = self._all_dirty or began >= last_full + self._interval
            if full:
                last_full = began
            try:
                await self.round(full=full)
            except Exception:
                self.failures += 1
                logger.exception("a planning round failed")
            self.round_seconds = self._now() - began
            await asyncio.sleep(self._budget.reserve(self.round_seconds))

    async def round(self, *, full: bool) -> None:
        """Observe, and decide for the groups that are due."""
        dirty, self._dirty, self._all_dirty = self._dirty, set(), False
        self._wake.clear()
        view = self._observe({key: planned.memory for key, planned in self.plans.items() if planned.memory})
        fresh: dict[ServiceKey, Planned] = {
            key: Planned(
                resource=view.resources[key],
                memory=self._memory_of(key),
                problems=problems,
                failures=view.failures.get(key, {}),
            )
            for key, problems in view.problems.items()
        }
        for group in self._partition(view.snapshot):
            keys = frozenset(service.key for service in group.services)
            if full or dirty & keys or not keys <= self.plans.keys():
                fresh.update(await self._decide_group(group, keys, view))
        self._publish(view, fresh)

    async def _decide_group(
        self, group: Snapshot, keys: frozenset[ServiceKey], view: View
    ) -> dict[ServiceKey, Planned]:
        """One group's decisions; when `decide` fails on it the others are not concerned."""
        began = self._now()
        try:
            if self._slow.get(keys, 0.0) > _INLINE_SECONDS:
                answer = await asyncio.to_thread(self._decide, group)
            else:
                answer = self._decide(group)
        except Exception as error:
            self.failures += 1
            logger.exception("deciding for %s failed", ", ".join(sorted(map(str, keys))[:5]))
            return {key: self._explain_failure(key, view, error) for key in keys}
        self._slow = {group: seconds for group, seconds in self._slow.items() if group != keys}
        self._slow[keys] = self._now() - began
        self._answers[keys] = group, answer
        fresh = {}
        for service in group.services:
            decision = answer.decisions[service.key]
            memory = self._remember(service, decision, answer.at)
            fresh[service.key] = Planned(
                resource=view.resources[service.key],
                service=service,
                decision=decision,
                memory=memory,
                failures=view.failures.get(service.key, {}),
            )
        return fresh

    def _memory_of(self, key: ServiceKey) -> Memory | None:
        return self.plans[key].memory if key in self.plans else None

    def _explain_failure(self, key: ServiceKey, view: View, error: Exception) -> Planned:
        """Keep what was decided before, and say so."""
        problem = Problem(ProblemReason.PLANNING_FAILED, f"deciding failed: {error!r}; what runs stays as it is")
        before = self.plans.get(key) or Planned(resource=view.resources[key])
        return replace(before, problems=(problem,))

    def _publish(self, view: View, fresh: Mapping[ServiceKey, Planned]) -> None:
        before = self.plans
        kept = {key: planned for key, planned in before.items() if key in view.resources}
        self.plans = {**kept, **fresh}
        groups = {frozenset(s.key for s in group.services) for group in self._partition(view.snapshot)}
        self._slow = {keys: seconds for keys, seconds in self._slow.items() if keys in groups}
        self._answers = {keys: answer for keys, answer in self._answers.items() if keys in groups}
        self.rounds += 1
        self.decided_at = self._now()
        for key, planned in fresh.items():
            if key not in before or make_digest(planned) != make_digest(before[key]) or self._is_heat_news(key):
                self._on_change(key)

    def _is_heat_news(self, key: ServiceKey) -> bool:
        """Whether the status, and so the routers' weights, lag behind the GPUs' clocks."""
        decision = self.plans[key].decision
        return decision is not None and has_heat_changed(self._told_of(key), decision.explanation.derating)

    async def _wait(self, until: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), max(0.0, until - self._now()))
        except TimeoutError:
            return


def make_digest(planned: Planned) -> object:
    """What of a plan concerns objects or conditions. Numbers that always move a little are left out."""
    return _wish_digest(planned), _running_digest(planned.service), _decision_digest(planned.decision)


def _wish_digest(planned: Planned) -> object:
    metadata = planned.resource.metadata
    return metadata.uid, metadata.generation, planned.problems, tuple(sorted(planned.failures.items()))


def _running_digest(service: Service | None) -> object:
    if service is None:
        return None
    variants = tuple(
        (v.name, v.desired, v.outdated, tuple((r.name, r.phase, r.node, r.gpus, r.ready_engines) for r in v.replicas))
        for v in service.running
    )
    objective, load = service.objective, service.load
    latencies = _zone(load.ttft_mean_ms, objective.ttft_ms), _zone(load.itl_mean_ms, objective.itl_ms)
    return service.paused, variants, latencies, load.fresh_fraction >= FRESH_FRACTION


def _zone(latency: float | None, limit: float | None) -> int | None:
    """Where a mean lies between the limits by which an objective is judged met or missed (render/slo.py)."""
    if latency is None or limit is None:
        return None
    return bisect((_RECOVERED / TTFT_TAIL, 1 / TTFT_TAIL, _RECOVERED, 1.0), latency / limit)


def _decision_digest(decision: Decision | None) -> object:
    if decision is None:
        return None
    plan = decision.plan
    why: object = None
    if isinstance(decision, Hold):
        why = decision.reason
    elif isinstance(decision, Infeasible):
        why = decision.binding
    return (
        type(decision).__name__,
        why,
        decision.steps,
        tuple((variant.placement, variant.replicas) for variant in plan.variants),
        plan.binding,
        decision.explanation.profile,
        tuple(sorted(pod for pod, left in decision.explanation.derating.items() if left < HOT_BELOW)),
    )
