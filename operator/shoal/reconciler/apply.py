"""Every write to the cluster, each safe to repeat and safe to be killed after.

Names are deterministic and what will be written is read first, so a second run finds what the first one made. Nothing
that is not ours is ever touched: ours means controlled by the UID of the ModelService or ProfileRun.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

from shoal.reconciler.cluster import Cluster, Object, Place
from shoal.reconciler.errors import ClusterError
from shoal.reconciler.items import make_item
from shoal.reconciler.kinds import DEPLOYMENT, GPU_POOL, JOB, MODEL_PROFILE, MODEL_SERVICE, PROFILE_RUN
from shoal.reconciler.store import Store
from shoal.reconciler.workqueue import RequeueError
from shoal.render.measurement import PROFILER, MeasurementObjects
from shoal.render.names import (
    LABEL_PROFILE_RUN,
    MANAGER,
    SCALE_MANAGER,
    is_controlled_by,
    selector_text,
    short_hash,
)
from shoal.render.scale import make_deletion_costs, make_scale
from shoal.render.variant import VariantObjects

logger = logging.getLogger(__name__)

DEPLOYMENTS: Final = Place("apps", "v1", "deployments", "Deployment")
TEMPLATES: Final = Place("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
BUDGETS: Final = Place("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
SERVICES: Final = Place("", "v1", "services", "Service")
PODS: Final = Place("", "v1", "pods", "Pod")
EVENTS: Final = Place("", "v1", "events", "Event")
MODEL_SERVICES: Final = Place("shoal.dev", "v1alpha1", "modelservices", "ModelService")
POOLS: Final = Place("shoal.dev", "v1alpha1", "gpupools", "GPUPool", namespaced=False)
RUNS: Final = Place("shoal.dev", "v1alpha1", "profileruns", "ProfileRun")
PROFILES: Final = Place("shoal.dev", "v1alpha1", "modelprofiles", "ModelProfile")
JOBS: Final = Place("batch", "v1", "jobs", "Job")
PLACES: Final = {place.kind: place for place in (DEPLOYMENTS, TEMPLATES, BUDGETS, SERVICES)}

_SOON_SECONDS: Final = 0.3
_OF_JOB: Final = "batch.kubernetes.io/controller-uid"


class NameTakenError(Exception):
    """An object of the wanted name exists and is not ours."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name} exists and is not Shoal's: delete or rename it")
        self.kind = kind
        self.name = name


class Writer:
    """Writes for all our kinds. Raises ClusterError, NotLeaderError, NameTakenError, RequeueError."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store
        self._applied: dict[tuple[str, str, str], str] = {}  # kind, namespace, name -> hash of what we applied last

    async def ensure_variant(self, objects: VariantObjects, owner: str) -> Object:
        """Make a variant unless it is there; return its Deployment as it is now."""
        namespace = objects.deployment["metadata"]["namespace"]
        live = await self._get_own(DEPLOYMENTS, namespace, objects.name, owner)
        if live is not None:
            return live
        template = objects.claim_template
        if template is not None and await self._get_own(TEMPLATES, namespace, objects.name, owner) is None:
            await self._cluster.apply(TEMPLATES, template, manager=MANAGER, force=False)
        made = await self._cluster.apply(DEPLOYMENTS, objects.deployment, manager=MANAGER, force=False)
        if not is_controlled_by(made["metadata"], owner):
            raise NameTakenError(DEPLOYMENTS.kind, objects.name)
        logger.info("made variant %s/%s", namespace, objects.name)
        self._remember_deployment(made)
        return made

    async def get_variant(self, namespace: str, name: str, owner: str) -> Object | None:
        """Read a Deployment of ours; None when it is gone."""
        return await self._get_own(DEPLOYMENTS, namespace, name, owner)

    async def scale(self, live: Object, replicas: int, doomed: Sequence[str]) -> None:
        """Bring a variant to `replicas`. When that is fewer, `doomed` pods are marked to go first."""
        metadata, present = live["metadata"], live["spec"].get("replicas", 1)
        if replicas == present:
            return
        if replicas < present:
            await self._mark_doomed(live, present - replicas, doomed)
        body = make_scale(
            namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"], replicas=replicas
        )
        logger.info("scaling %s/%s from %d to %d", metadata["namespace"], metadata["name"], present, replicas)
        self._remember_deployment(await self._cluster.apply(DEPLOYMENTS, body, manager=SCALE_MANAGER, force=True))

    async def ensure(self, body: Mapping[str, Any], owners: Sequence[str], *, controlled: bool = True) -> None:
        """Apply an object whole. Skipped while it is there and we applied exactly this before.

        `owners`: UIDs one of which must own a present object of this name (control it, if `controlled`).
        """
        place, metadata = PLACES[body["kind"]], body["metadata"]
        key = place.kind, metadata["namespace"], metadata["name"]
        wanted = short_hash(body)
        live = await self._cluster.get(place, metadata["namespace"], metadata["name"])
        if live is not None and not _is_owned(live["metadata"], owners, controlled=controlled):
            raise NameTakenError(place.kind, metadata["name"])
        if live is not None and self._applied.get(key) == wanted:
            return
        await self._cluster.apply(place, body, manager=MANAGER, force=True)
        self._applied[key] = wanted

    async def save_profile(self, body: Mapping[str, Any], owner: str) -> None:
        """Apply a ModelProfile that a ModelService learned, unless one of this name is somebody else's."""
        metadata = body["metadata"]
        await self._get_own(PROFILES, metadata["namespace"], metadata["name"], owner)
        made = await self._cluster.apply(PROFILES, body, manager=MANAGER, force=True)
        self._store.put(MODEL_PROFILE, make_item(MODEL_PROFILE, made))

    async def delete_own(self, place: Place, namespace: str, name: str, owner: str) -> None:
        """Delete an object if it is there and ours."""
        live = await self._cluster.get(place, namespace, name)
        if live is not None and is_controlled_by(live["metadata"], owner):
            await self._cluster.delete(place, namespace, name, uid=live["metadata"]["uid"])
            logger.info("deleted %s %s/%s", place.kind, namespace, name)

    async def prune_variant(self, namespace: str, name: str, selector: Mapping[str, str], owner: str) -> None:
        """Delete a variant that is not wanted any more: only ours, at 0 replicas, and without a single pod."""
        live = await self._get_own(DEPLOYMENTS, namespace, name, owner)
        if live is not None:
            if live["spec"].get("replicas", 1) != 0 or live["metadata"].get("deletionTimestamp"):
                return
            if await self._cluster.list_all(PODS, namespace, selector=selector_text(selector)):
                return
            await self._cluster.delete(DEPLOYMENTS, namespace, name, uid=live["metadata"]["uid"])
            logger.info("deleted variant %s/%s", namespace, name)
        await self.delete_own(TEMPLATES, namespace, name, owner)

    # -- ProfileRuns ---------------------------------------------------------------------------------------------------

    async def ensure_measurement(self, objects: MeasurementObjects, owner: str) -> None:
        """Make a Job, and the claim template of its pod before it, unless it is there."""
        namespace = objects.job["metadata"]["namespace"]
        if await self._get_own(JOBS, namespace, objects.name, owner) is not None:
            return
        template = objects.claim_template
        if template is not None and await self._get_own(TEMPLATES, namespace, objects.name, owner) is None:
            await self._cluster.apply(TEMPLATES, template, manager=MANAGER, force=False)
        made = await self._cluster.create(JOBS, objects.job, manager=MANAGER)
        self._store.put(JOB, make_item(JOB, made))
        logger.info("made Job %s/%s", namespace, objects.name)

    async def delete_measurement(self, namespace: str, name: str, owner: str) -> None:
        """Delete a Job with its claim template; the template first, as nothing tells of it once the Job is gone."""
        await self.delete_own(TEMPLATES, namespace, name, owner)
        await self.delete_own(JOBS, namespace, name, owner)

    async def delete_measurements(self, namespace: str, run: str, owner: str) -> None:
        """Delete every Job and claim template of a ProfileRun."""
        for place in (TEMPLATES, JOBS):
            for found in await self._cluster.list_all(place, namespace, selector=f"{LABEL_PROFILE_RUN}={run}"):
                await self.delete_own(place, namespace, found["metadata"]["name"], owner)

    async def read_result(self, namespace: str, job: str) -> str | None:
        """The termination message of the profiler in the pod of a Job (its UID) that succeeded; None: no such pod."""
        for pod in await self._cluster.list_all(PODS, namespace, selector=f"{_OF_JOB}={job}"):
            status = pod.get("status") or {}
            if status.get("phase") == "Succeeded":
                ends = {c["name"]: (c.get("state") or {}).get("terminated") for c in status["containerStatuses"]}
                return str((ends.get(PROFILER) or {}).get("message") or "")
        return None

    async def get_profile(self, namespace: str, name: str) -> Object | None:
        """Read a ModelProfile."""
        return await self._cluster.get(PROFILES, namespace, name)

    async def write_profile(self, body: Mapping[str, Any], live: Object | None, *, is_own: bool) -> None:
        """Apply a ModelProfile in place of `live`, as it was read; nobody else's, `is_own` says so."""
        if live is not None and not is_own:
            raise NameTakenError(PROFILES.kind, body["metadata"]["name"])
        uid = {"uid": live["metadata"]["uid"]} if live is not None else {}
        content = {**body, "metadata": {**body["metadata"], **uid}}
        # Without force, one that somebody made since it was read is a conflict.
        await self._cluster.apply(PROFILES, content, manager=MANAGER, force=live is not None)
        logger.info("wrote ModelProfile %s/%s", body["metadata"]["namespace"], body["metadata"]["name"])

    async def write_run_status(self, body: Mapping[str, Any]) -> None:
        """Apply the status of a ProfileRun, and take the answer for what is now."""
        made = await self._cluster.apply(RUNS, body, manager=MANAGER, force=True, subresource="status")
        self._store.put(PROFILE_RUN, make_item(PROFILE_RUN, made))

    # -- statuses and Events -------------------------------------------------------------------------------------------

    async def write_service_status(self, body: Mapping[str, Any]) -> None:
        """Apply the status of a ModelService, and take the answer for what is now."""
        made = await self._cluster.apply(MODEL_SERVICES, body, manager=MANAGER, force=True, subresource="status")
        self._store.put(MODEL_SERVICE, make_item(MODEL_SERVICE, made))

    async def write_pool_status(self, body: Mapping[str, Any]) -> None:
        """Apply the status of a GPUPool."""
        made = await self._cluster.apply(POOLS, body, manager=MANAGER, force=True, subresource="status")
        self._store.put(GPU_POOL, make_item(GPU_POOL, made))

    async def emit(self, body: Mapping[str, Any]) -> None:
        """Write an Event. One that cannot be written is no reason to stop."""
        try:
            await self._cluster.apply(EVENTS, body, manager=MANAGER, force=True)
        except ClusterError as error:
            logger.info("an event was not written: %s", error)

    def forget(self, namespace: str, names: Container[str]) -> None:
        """Drop what was remembered of objects of these names."""
        for key in [key for key in self._applied if key[1] == namespace and key[2] in names]:
            del self._applied[key]

    async def _get_own(self, place: Place, namespace: str, name: str, owner: str) -> Object | None:
        live = await self._cluster.get(place, namespace, name)
        if live is not None and not is_controlled_by(live["metadata"], owner):
            raise NameTakenError(place.kind, name)
        if live is not None and live["metadata"].get("deletionTimestamp"):
            raise RequeueError(1.0, f"{place.kind} {name} is being deleted")
        return live

    async def _mark_doomed(self, live: Object, surplus: int, doomed: Sequence[str]) -> None:
        """Annotate the pods that shall go when the variant loses `surplus`; pods not made yet go before any other."""
        metadata, replicas = live["metadata"], live["spec"].get("replicas", 1)
        pods = await self._live_pods(live)
        chosen = _choose(pods, max(0, surplus - max(0, replicas - len(pods))), doomed)
        annotations = {name: pod["metadata"].get("annotations") or {} for name, pod in pods.items()}
        for name, patch in make_deletion_costs(chosen, annotations).items():
            try:
                await self._cluster.merge(PODS, metadata["namespace"], name, patch, manager=SCALE_MANAGER)
            except ClusterError as error:
                if not error.is_not_found:
                    raise
                raise RequeueError(_SOON_SECONDS, f"pod {name} went meanwhile") from error
        again = await self._cluster.get(DEPLOYMENTS, metadata["namespace"], metadata["name"])
        if again is None or again["spec"].get("replicas", 1) != replicas:
            raise RequeueError(_SOON_SECONDS, f"{metadata['name']} was scaled by somebody else meanwhile")
        if (await self._live_pods(live)).keys() != pods.keys():
            raise RequeueError(_SOON_SECONDS, f"pods of {metadata['name']} changed meanwhile")

    async def _live_pods(self, live: Object) -> dict[str, Object]:
        selector = selector_text(live["spec"]["selector"]["matchLabels"])
        pods = await self._cluster.list_all(PODS, live["metadata"]["namespace"], selector=selector)
        return {
            pod["metadata"]["name"]: pod
            for pod in pods
            if not pod["metadata"].get("deletionTimestamp")
            and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        }

    def _remember_deployment(self, raw: Object) -> None:
        """What we wrote is known at once: an older event about it is then ignored."""
        self._store.put(DEPLOYMENT, make_item(DEPLOYMENT, raw))


def _choose(pods: Mapping[str, Object], surplus: int, doomed: Sequence[str]) -> list[str]:
    """So many pods: the doomed ones in their order, then the newest."""
    first = [name for name in doomed if name in pods]
    others = sorted(
        (name for name in pods if name not in first),
        key=lambda name: (pods[name]["metadata"]["creationTimestamp"], name),
        reverse=True,
    )
    return [*first, *others][:surplus]


def _is_owned(metadata: Mapping[str, Any], owners: Sequence[str], *, controlled: bool) -> bool:
    if controlled:
        return any(is_controlled_by(metadata, uid) for uid in owners)
    return any(owner.get("uid") in owners for owner in metadata.get("ownerReferences") or ())
