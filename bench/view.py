"""What a person with `kubectl get --watch` sees: every ModelService and Deployment, and when it changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from e2e.devcluster import ApiClient
from shoal.render.names import LABEL_MANAGED_BY, LABEL_MODEL_SERVICE, MANAGER

Object = dict[str, Any]
Key = tuple[str, str]  # namespace and name of a ModelService

SERVICES = "/apis/shoal.dev/v1alpha1/modelservices"
NOTHING: Object = {"metadata": {"generation": 1}}
"""Stands in for a service that has not been seen yet: it is neither observed nor ready."""
_DEPLOYMENTS = "/apis/apps/v1/deployments"


@dataclass(slots=True)
class View:
    """The cluster as last seen. `deployed_at`: when a service's first Deployment was seen (monotonic seconds)."""

    services: dict[Key, Object] = field(default_factory=dict)
    deployed_at: dict[Key, float] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, holds: Callable[[], bool], what: str, *, timeout: float) -> float:
        """Wait until a predicate over this view holds; return when that was seen. Raises TimeoutError with `what`."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(holds), timeout)
            except TimeoutError:
                raise TimeoutError(f"{what}: not within {timeout:.0f} s") from None
        return time.monotonic()

    async def until_all(self, keys: Sequence[Key], holds: Callable[[Key], bool], what: str, *, timeout: float) -> float:
        """Wait until a predicate holds for every service. Raises TimeoutError that tells of one that is missing."""
        try:
            return await self.until(lambda: all(holds(key) for key in keys), f"all {what}", timeout=timeout)
        except TimeoutError as error:
            missing = [key for key in keys if not holds(key)]
            status = self.services.get(missing[0], {}).get("status", {}) if missing else {}
            said = "; ".join(f"{c['type']}={c['status']} {c['message']}" for c in status.get("conditions", ()))
            raise TimeoutError(
                f"{error}; {len(missing)} missing, such as {missing[:1]}: {said or 'no status'}"
            ) from None

    async def follow_services(self, client: ApiClient) -> None:
        """Keep `services` up to date, for ever."""
        async for kind, item in client.watch(SERVICES):
            key = (item["metadata"]["namespace"], item["metadata"]["name"])
            if kind == "DELETED":
                self.services.pop(key, None)
            else:
                self.services[key] = item
            await self._tell()

    async def follow_deployments(self, client: ApiClient) -> None:
        """Keep `deployed_at` up to date, for ever."""
        async for kind, item in client.watch(_DEPLOYMENTS, labelSelector=f"{LABEL_MANAGED_BY}={MANAGER}"):
            service = item["metadata"].get("labels", {}).get(LABEL_MODEL_SERVICE)
            if service is not None and kind != "DELETED":
                self.deployed_at.setdefault((item["metadata"]["namespace"], service), time.monotonic())
                await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def open_view(client: ApiClient) -> AsyncIterator[View]:
    """A view that is kept up to date until the block ends."""
    view = View()
    tasks = [asyncio.create_task(follow(client)) for follow in (view.follow_services, view.follow_deployments)]
    try:
        yield view
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def condition(service: Object, kind: str) -> str | None:
    """Status of a condition: `True`, `False`, `Unknown`, or None when it is not there."""
    conditions = service.get("status", {}).get("conditions") or ()
    return next((str(c["status"]) for c in conditions if c["type"] == kind), None)


def is_observed(service: Object) -> bool:
    """Whether the status is about the present spec."""
    return bool(service.get("status", {}).get("observedGeneration") == service["metadata"]["generation"])


def is_settled(service: Object) -> bool:
    """Whether the operator has reached what it decided: the status is about the present spec, and nothing is under way.

    `Ready` may be False (a service that cannot be served is settled, too), but it must be known.
    """
    return (
        is_observed(service)
        and condition(service, "Ready") in ("True", "False")
        and condition(service, "Reconciling") in (None, "False")
    )


def is_ready(service: Object) -> bool:
    """Whether it serves."""
    return is_observed(service) and condition(service, "Ready") == "True"
