"""Keeps one container running: starts, probes, restarts with back-off, stops with preStop and grace."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress

from e2e.devcluster.agent.context import PodContext
from e2e.devcluster.agent.environment import ContainerConfigError
from e2e.devcluster.agent.images import UnknownImageError
from e2e.devcluster.agent.invocations import make_invocation
from e2e.devcluster.agent.probes import Result, Target, conclusions, perform
from e2e.devcluster.agent.runs import Invocation, Run, make_container_id
from e2e.devcluster.agent.status import Kind, Record
from e2e.devcluster.client import Object

# A kubelet doubles its 10 s up to 300 s and forgets after twice that without a crash.
_BACK_OFF_STEPS = 30
# A kubelet gives at least this long between SIGTERM and SIGKILL, however little grace the preStop hook left.
_LEAST_GRACE = 2.0
_CONFIG_RETRY_SECONDS = 1.0


class Keeper:
    """One container of one pod, over all its runs."""

    def __init__(self, context: PodContext, record: Record) -> None:
        self.record = record
        self.stopped = asyncio.Event()  # no run is left, and none will come
        self.started = asyncio.Event()  # the present run has passed its startup probe
        self._context = context
        self._run: Run | None = None
        self._ending: asyncio.Task[None] | None = None  # of a run that failed its probe
        self._pre_stopped: Run | None = None
        self._crashes = 0

    @property
    def pid(self) -> int | None:
        """Process id of the present run."""
        return None if self._run is None else self._run.pid

    async def keep(self) -> None:
        """Run the container until it has ended for good."""
        loop = asyncio.get_running_loop()
        try:
            while not self._context.terminating.is_set():
                began = loop.time()
                code = await self._run_once()
                if code is None or not self._runs_again(code):
                    return
                await self._back_off(loop.time() - began)
        finally:
            self.stopped.set()

    def kill(self) -> None:
        """End the present run at once."""
        if self._run is not None:
            self._run.kill()

    async def stop(self, after: Sequence[Keeper]) -> None:
        """End the container within the pod's grace.

        preStop runs now, SIGTERM comes when those in `after` have stopped, SIGKILL when the grace is over.
        """
        run = self._run
        if run is None or run.pid is None:
            return
        if run is not self._pre_stopped:
            self._pre_stopped = run
            await self._pre_stop(run, self._remaining())
        with suppress(TimeoutError):
            await asyncio.wait_for(_all_stopped(after), max(self._remaining(), 0.0))
        await self._end(run, max(self._remaining(), _LEAST_GRACE))
        await self.stopped.wait()

    def _remaining(self) -> float:
        return self._context.deadline - asyncio.get_running_loop().time()

    # -- one run ---------------------------------------------------------------------------------------------------

    async def _run_once(self) -> int | None:
        """Start, probe and await one run; None when the pod's end came first."""
        run = self._run = await self._start()
        if run is None:
            return None
        probing = asyncio.ensure_future(self._follow_probes(run))
        code = await run.wait()
        probing.cancel()
        self.started.clear()
        policy = self.record.spec.get("terminationMessagePolicy", "File")
        self._set(run.terminated_state(code, policy), ready=False, started=False)
        return code

    async def _start(self) -> Run | None:
        while not self._context.terminating.is_set():
            try:
                invocation = await make_invocation(self._context, self.record)
            except UnknownImageError as error:
                self._show_waiting("ErrImagePull", str(error))
            except ContainerConfigError as error:
                self._show_waiting("CreateContainerConfigError", str(error))
            else:
                return await self._begin(invocation)
            await self._pause(_CONFIG_RETRY_SECONDS)
        return None

    async def _begin(self, invocation: Invocation) -> Run:
        run = Run(invocation, make_container_id())
        await run.start()
        self.record.container_id = run.container_id
        if run.failure is None:
            self._set({"running": {"startedAt": run.started_at}}, ready=False, started=False)
        if self._context.terminating.is_set():
            run.kill()
        return run

    async def _follow_probes(self, run: Run) -> None:
        """Turn probe results into the record, and end the run when it does not start or live."""
        spec, target = self.record.spec, self._target(run)
        if run.failure is not None:
            return
        if "startupProbe" in spec:
            async for result in conclusions(spec["startupProbe"], target, initially=None):
                if not result.good:
                    self._fail(run, "Startup", result, spec["startupProbe"])
                    return
                break
        self.started.set()
        self._set(self.record.state, ready="readinessProbe" not in spec, started=True)
        await asyncio.gather(self._follow_readiness(target), self._follow_liveness(run, target))

    async def _follow_readiness(self, target: Target) -> None:
        if "readinessProbe" in self.record.spec:
            async for result in conclusions(self.record.spec["readinessProbe"], target, initially=False):
                self._set(self.record.state, ready=result.good, started=True)
                if not result.good:
                    self._complain("Readiness", result)

    async def _follow_liveness(self, run: Run, target: Target) -> None:
        probe = self.record.spec.get("livenessProbe")
        if probe is not None:
            async for result in conclusions(probe, target, initially=True):
                if not result.good:
                    self._fail(run, "Liveness", result, probe)
                    return

    def _target(self, run: Run) -> Target:
        ports = {p["name"]: int(p["containerPort"]) for p in self.record.spec.get("ports") or [] if "name" in p}
        return Target(address=self._context.address, ports=ports, run=run, session=self._context.settings.session)

    def _fail(self, run: Run, which: str, result: Result, probe: Object) -> None:
        self._complain(which, result)
        text = f"Container {self.record.name} failed {which.lower()} probe, will be restarted"
        self._context.record_event("Normal", "Killing", text)
        grace = probe.get("terminationGracePeriodSeconds") or self._context.grace
        self._ending = asyncio.ensure_future(self._end_failed(run, float(grace)))

    async def _end_failed(self, run: Run, grace: float) -> None:
        began = asyncio.get_running_loop().time()
        await self._pre_stop(run, grace)
        spent = asyncio.get_running_loop().time() - began
        await self._end(run, max(grace - spent, _LEAST_GRACE))

    async def _pre_stop(self, run: Run, grace: float) -> None:
        hook = (self.record.spec.get("lifecycle") or {}).get("preStop")
        if hook and run.pid is not None and grace > 0:
            result = await perform(hook, self._target(run), grace)
            if not result.good:
                self._context.record_event("Warning", "FailedPreStopHook", f"{self.record.name}: {result.message}")

    async def _end(self, run: Run, grace: float) -> None:
        run.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(run.ended.wait(), grace)
        run.kill()

    # -- between runs ------------------------------------------------------------------------------------------------

    def _runs_again(self, code: int) -> bool:
        policy = "Always" if self.record.kind is Kind.SIDECAR else self._context.restart_policy
        if self.record.kind is Kind.INIT and code == 0:
            return False
        again = policy == "Always" or (policy == "OnFailure" and code != 0)
        return again and not self._context.terminating.is_set()

    async def _back_off(self, ran: float) -> None:
        """Wait before the next run: not at all at first, then the configured pause, doubled with each crash."""
        first = self._context.settings.config.crash_back_off_seconds
        longest = first * _BACK_OFF_STEPS
        if ran > 2 * longest:
            self._crashes = 0
        pause = min(first * 2.0 ** (self._crashes - 1), longest) if self._crashes else 0.0
        self._crashes += 1
        self.record.last_state = self.record.state
        if pause > 0:
            text = f"back-off {pause:g}s restarting failed container={self.record.name} pod={self._context.name}"
            self._context.record_event("Warning", "BackOff", text)
            self._show_waiting("CrashLoopBackOff", text)
            await self._pause(pause)
        if self._context.terminating.is_set():
            # The last run's end is what a pod that goes should show.
            self.record.state, self.record.last_state = self.record.last_state, {}
        else:
            self.record.restarts += 1

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._context.terminating.wait(), seconds)

    def _show_waiting(self, reason: str, message: str) -> None:
        self._set({"waiting": {"reason": reason, "message": message}}, ready=False, started=False)

    def _complain(self, which: str, result: Result) -> None:
        self._context.record_event("Warning", "Unhealthy", f"{which} probe failed: {result.message}")

    def _set(self, state: Object, *, ready: bool, started: bool) -> None:
        self.record.state, self.record.ready, self.record.started = state, ready, started
        self._context.changed.set()


async def _all_stopped(keepers: Sequence[Keeper]) -> None:
    for keeper in keepers:
        await keeper.stopped.wait()
