"""What GPUs there are, who holds them, and which pool they belong to. Pure over the store.

Two ways of counting, one for each kind of claim: DRA devices one by one (ResourceSlices and ResourceClaims), extended
resources by number (nodes' allocatable and pods' requests). What could not be listed is None, never zero.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shoal.api.gpu_pool import GPUPool
from shoal.domain.pool import Holder, NodeStock, Stock
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import (
    CLAIM,
    NODE,
    POD,
    SLICE,
    TAINT_RULE,
    Claim,
    Device,
    DeviceId,
    Node,
    Pod,
)
from shoal.reconciler.store import Store
from shoal.render.names import (
    LABEL_MANAGED_BY,
    LABEL_MODEL_SERVICE,
    LABEL_PROFILE_RUN,
    LABEL_VARIANT,
    MANAGER,
    variant_name,
)

PRODUCT_LABEL: Final = "nvidia.com/gpu.product"  # of GPU feature discovery; engine pods select nodes by it
UUID_ATTRIBUTE: Final = "uuid"
PRODUCT_ATTRIBUTE: Final = "productName"

SHOAL: Final = "Shoal"
HOT: Final = "hot"
NOT_READY: Final = "node not ready"
CLOSED: Final = "node closed to new pods"

VariantName = tuple[str, str]  # namespace and name of a Deployment

_NO_NEW_PODS: Final = ("NoSchedule", "NoExecute")
_LARGEST_HOLDERS: Final = 16


@dataclass(frozen=True, slots=True)
class OwnedPool:
    """A pool as the inventory needs it. Of two pools that want the same GPU, the one created first has it."""

    created_at: float
    spec: GPUPool

    @property
    def name(self) -> str:
        """The pool's name."""
        return self.spec.metadata.name


@dataclass(frozen=True, slots=True)
class Gpu:
    """A DRA device. `uuid` None: its driver does not tell."""

    device: DeviceId
    uuid: str | None
    node: str
    pool: str | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """Stock of each pool (None: not readable), what is wrong with pools, and every DRA GPU by its device.

    `free`: of each readable pool, the GPUs of each node that nobody holds and new pods may have.
    """

    stocks: Mapping[str, Stock | None] = field(default_factory=dict)
    free: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    gpus: Mapping[DeviceId, Gpu] = field(default_factory=dict)


@dataclass
class _Tally:
    """GPUs of one pool while they are counted."""

    existing: Counter[str] = field(default_factory=Counter)
    usable: Counter[str] = field(default_factory=Counter)
    holders: Counter[str] = field(default_factory=Counter)
    free: Counter[str] = field(default_factory=Counter)

    def add(self, node: str, holder: str | None, gpus: int = 1) -> None:
        """Count GPUs; `holder` None: free. Shoal's own count as usable, whatever the state of their node."""
        if gpus <= 0:
            return
        self.existing[node] += gpus
        if holder in (None, SHOAL):
            self.usable[node] += gpus
        if holder is None:
            self.free[node] += gpus
        else:
            self.holders[holder] += gpus

    def make_stock(self) -> Stock:
        nodes = tuple(NodeStock(node, count, self.usable[node]) for node, count in sorted(self.existing.items()))
        largest = sorted(self.holders.items(), key=lambda held: (-held[1], held[0]))[:_LARGEST_HOLDERS]
        return Stock(nodes=nodes, holders=tuple(Holder(name, gpus) for name, gpus in largest))


def make_inventory(
    store: Store, pools: Iterable[OwnedPool], foreign: Sequence[Item[Pod]] | None, counted: Container[VariantName]
) -> Inventory:
    """Count every pool's GPUs.

    `foreign`: others' pods with extended resources; None: they could not be listed. `counted`: the variants whose
    replicas the plan counts as spent; what pods of other variants of ours hold is nobody's to give until they are gone.
    """
    ordered = sorted(pools, key=lambda pool: (pool.created_at, pool.name))
    by_dra = [pool for pool in ordered if pool.spec.spec.claim.dra is not None]
    by_number = [pool for pool in ordered if pool.spec.spec.claim.extended_resource is not None]
    problems: dict[str, str] = {}
    gpus: dict[DeviceId, Gpu] = {}
    tallies: dict[str, _Tally] = {}
    if all(store.is_synced(kind) for kind in (SLICE, CLAIM, NODE, TAINT_RULE)):
        gpus = _assign_devices(store, by_dra, problems)
        tallies.update(_count_devices(store, by_dra, gpus, counted))
    if foreign is not None and store.is_synced(NODE) and store.is_synced(POD):
        tallies.update(_count_resources(store, by_number, _count_held(store, foreign, counted), problems))
    unread: dict[str, Stock | None] = dict.fromkeys(pool.name for pool in ordered)
    return Inventory(
        stocks=unread | {name: tally.make_stock() for name, tally in tallies.items()},
        free={name: tally.free for name, tally in tallies.items()},
        problems=problems,
        gpus=gpus,
    )


# -- DRA -----------------------------------------------------------------------------------------------------------


def _assign_devices(store: Store, pools: Sequence[OwnedPool], problems: dict[str, str]) -> dict[DeviceId, Gpu]:
    """Every device of a node, with the pool that owns it."""
    newest: dict[tuple[str, str], int] = defaultdict(int)
    for item in store.all(SLICE):
        key = item.body.driver, item.body.pool
        newest[key] = max(newest[key], item.body.pool_generation)
    found: dict[DeviceId, Gpu] = {}
    for item in store.all(SLICE):
        part = item.body
        if part.node is None or part.pool_generation < newest[part.driver, part.pool]:
            continue
        node = store.get(NODE, None, part.node)
        for device in part.devices:
            owners = [pool.name for pool in pools if _is_member(pool.spec, part.driver, device, node)]
            for other in owners[1:]:
                problems[other] = f"its GPUs belong to the older pool {owners[0]}: both describe them"
            identity = (part.driver, part.pool, device.name)
            uuid = device.attributes.get(UUID_ATTRIBUTE)
            found[identity] = Gpu(identity, uuid, part.node, owners[0] if owners else None)
    return found


def _is_member(pool: GPUPool, driver: str, device: Device, node: Item[Node] | None) -> bool:
    claim = pool.spec.claim.dra
    product = device.attributes.get(PRODUCT_ATTRIBUTE, "").replace(" ", "-")
    return (
        claim is not None
        and claim.driver == driver
        and product == pool.spec.accelerator
        and node is not None
        and _has_labels(pool, node)
    )


def _count_devices(
    store: Store, pools: Sequence[OwnedPool], gpus: Mapping[DeviceId, Gpu], counted: Container[VariantName]
) -> dict[str, _Tally]:
    specs = {pool.name: pool.spec for pool in pools}
    tallies = {name: _Tally() for name in specs}
    holders = {device: _claim_holder(claim, counted) for claim in store.all(CLAIM) for device in claim.body.devices}
    tainted = _tainted_devices(store)
    for device, gpu in gpus.items():
        if gpu.pool is None:
            continue
        holder = holders.get(device)
        if holder is None:
            holder = HOT if device in tainted else _why_closed(specs[gpu.pool], store.get(NODE, None, gpu.node))
        tallies[gpu.pool].add(gpu.node, holder)
    return tallies


def _claim_holder(claim: Item[Claim], counted: Container[VariantName]) -> str:
    names = claim.body.pods or (claim.name,)
    return _holder(claim, names[0], counted)


def _holder(item: Item[Any], pod: str, counted: Container[VariantName]) -> str:
    """Who holds what a claim or pod holds: `Shoal` for what the plan counts, else in words for people."""
    is_ours = item.labels.get(LABEL_MANAGED_BY) == MANAGER
    if is_ours and LABEL_PROFILE_RUN in item.labels:
        return f"profile {item.namespace}/{item.labels[LABEL_PROFILE_RUN]}"
    if not is_ours or LABEL_MODEL_SERVICE not in item.labels:
        return f"{item.namespace}/{group_name(pod)}"
    service, variant = item.labels[LABEL_MODEL_SERVICE], item.labels.get(LABEL_VARIANT, "")
    if (item.namespace or "", variant_name(service, variant)) in counted:
        return SHOAL
    return f"{item.namespace}/{service} (not planned)"


def _tainted_devices(store: Store) -> set[DeviceId]:
    """Devices that take no new pods: tainted in their slice or by a rule."""
    rules = [item.body for item in store.all(TAINT_RULE) if item.body.effect in _NO_NEW_PODS]
    found = set()
    for item in store.all(SLICE):
        for device in item.body.devices:
            identity = (item.body.driver, item.body.pool, device.name)
            by_rule = any(
                (rule.driver or identity[0], rule.pool or identity[1], rule.device or identity[2]) == identity
                for rule in rules
            )
            if by_rule or any(effect in _NO_NEW_PODS for effect in device.taints):
                found.add(identity)
    return found


# -- extended resources --------------------------------------------------------------------------------------------


def _count_resources(
    store: Store,
    pools: Sequence[OwnedPool],
    held: Mapping[tuple[str, str], Counter[str]],
    problems: dict[str, str],
) -> dict[str, _Tally]:
    tallies = {pool.name: _Tally() for pool in pools}
    for node in store.all(NODE):
        taken: dict[str, str] = {}  # resource -> pool that owns it on this node
        for pool in pools:
            resource = pool.spec.spec.claim.extended_resource or ""
            if resource not in node.body.devices or not _is_node_of(pool.spec, node):
                continue
            if owner := taken.setdefault(resource, pool.name):
                if owner == pool.name:
                    _count_node(tallies[owner], pool.spec, node, held[node.name, resource])
                else:
                    problems[pool.name] = f"its GPUs belong to the older pool {owner}: both describe them"
    return tallies


def _count_held(
    store: Store, foreign: Sequence[Item[Pod]], counted: Container[VariantName]
) -> Mapping[tuple[str, str], Counter[str]]:
    """(node, resource) -> holder -> count. Terminating pods hold theirs until they are gone."""
    held: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    ours = {item.uid for item in store.all(POD)}
    for item in (*store.all(POD), *(pod for pod in foreign if pod.uid not in ours)):
        pod = item.body
        if pod.node is None or pod.is_over:
            continue
        holder = _holder(item, item.name, counted)
        for resource, count in pod.devices.items():
            held[pod.node, resource][holder] += count
    return held


def _count_node(tally: _Tally, pool: GPUPool, node: Item[Node], held: Counter[str]) -> None:
    left = node.body.devices[pool.spec.claim.extended_resource or ""]
    for holder, count in held.most_common():
        tally.add(node.name, holder, min(count, left))
        left -= min(count, left)
    tally.add(node.name, _why_closed(pool, node), left)


def _is_node_of(pool: GPUPool, node: Item[Node]) -> bool:
    return node.labels.get(PRODUCT_LABEL) == pool.spec.accelerator and _has_labels(pool, node)


def count_orphans(store: Store) -> int:
    """Claims of ours whose pod is gone: garbage collection removes them within moments, or something leaks GPUs."""
    return sum(
        claim.labels.get(LABEL_MANAGED_BY) == MANAGER
        and (LABEL_MODEL_SERVICE in claim.labels or LABEL_PROFILE_RUN in claim.labels)
        and store.by_uid(POD, claim.owner or "") is None
        for claim in store.all(CLAIM)
    )


# -- nodes ---------------------------------------------------------------------------------------------------------


def _has_labels(pool: GPUPool, node: Item[Node]) -> bool:
    wanted = (pool.spec.nodes.labels if pool.spec.nodes else None) or {}
    return all(node.labels.get(key) == value for key, value in wanted.items())


def _why_closed(pool: GPUPool, node: Item[Node] | None) -> str | None:
    """Why no new pod of the pool can run on the node; None: it can."""
    if node is None or not node.body.ready:
        return NOT_READY
    if node.body.unschedulable or any(not _is_tolerated(pool, taint) for taint in node.body.taints):
        return CLOSED
    return None


def _is_tolerated(pool: GPUPool, taint: tuple[str, str, str]) -> bool:
    key, value, effect = taint
    if effect not in _NO_NEW_PODS:
        return True
    tolerations = (pool.spec.nodes.tolerations if pool.spec.nodes else None) or ()
    return any(
        toleration.key in (None, key)
        and toleration.effect in (None, effect)
        and (toleration.operator == "Exists" or (toleration.value or "") == value)
        for toleration in tolerations
    )


_SAFE: Final = "[bcdfghjklmnpqrstvwxz2456789]"  # Kubernetes' alphabet of generated names
_GENERATED: Final = re.compile(rf"(-{_SAFE}{{6,10}}-{_SAFE}{{5}}|-\d+|-{_SAFE}{{5}})$")


def group_name(pod: str) -> str:
    """`train-7f9c4d5b6-x2x9k`, `train-0`: both are `train-*`, so that a condition names a workload and not its pods."""
    return _GENERATED.sub("-*", pod, count=1)
