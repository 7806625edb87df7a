"""Which container holds which GPU: by DRA claim, or by the extended resource as a device plugin would choose."""

from __future__ import annotations

from collections.abc import Mapping

from e2e.devcluster.agent.gpus import NodeGpus
from e2e.devcluster.client import Object

DRIVER = "gpu.nvidia.com"
EXTENDED_RESOURCE = "nvidia.com/gpu"


class DevicesExhaustedError(RuntimeError):
    """The node has fewer free GPUs than the pod wants: the kubelet refuses such a pod."""


class ClaimPendingError(RuntimeError):
    """A claim of the pod is not there, not allocated or not reserved for it yet."""


class NodeDevices:
    """The GPUs of one node and the pods that hold them."""

    def __init__(self, gpus: NodeGpus) -> None:
        self.gpus = gpus
        self._by_pod: dict[str, set[int]] = {}
        self._exclusive: dict[str, set[int]] = {}  # handed out here, not by the scheduler

    def busy(self) -> set[int]:
        """Return the indices of GPUs that some pod holds."""
        return set().union(*self._by_pod.values())

    def release(self, uid: str) -> None:
        """Take back what a pod held; its processes must be gone."""
        self._by_pod.pop(uid, None)
        self._exclusive.pop(uid, None)

    def assign(self, pod: Object, claims: Mapping[str, Object]) -> dict[str, dict[str, str]]:
        """Hand the pod its GPUs and return container -> variables; `claims` by their name in the pod.

        Raises DevicesExhaustedError and ClaimPendingError, and then holds nothing for the pod.
        """
        uid = pod["metadata"]["uid"]
        held = {}
        try:
            for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
                indices = self._claimed(container, claims) | self._take(container, uid)
                if indices:
                    held[container["name"]] = indices
        except (DevicesExhaustedError, ClaimPendingError):
            self.release(uid)
            raise
        if held:
            self._by_pod[uid] = set().union(*held.values())
        return {name: self.gpus.variables(indices) for name, indices in held.items()}

    def _claimed(self, container: Object, claims: Mapping[str, Object]) -> set[int]:
        indices: set[int] = set()
        for use in (container.get("resources") or {}).get("claims") or []:
            results = claims[use["name"]]["status"]["allocation"]["devices"].get("results") or []
            for result in results:
                wanted = use.get("request") in (None, "", result["request"].partition("/")[0])
                if wanted and result["driver"] == DRIVER:
                    indices.add(self._index(result))
        return indices

    def _index(self, result: Object) -> int:
        for gpu in self.gpus.gpus:
            if gpu.device == result["device"] and result["pool"] == self.gpus.node.name:
                return gpu.index
        raise ClaimPendingError(f"device {result['pool']}/{result['device']} is not on node {self.gpus.node.name}")

    def _take(self, container: Object, uid: str) -> set[int]:
        """Choose free GPUs for the container's extended resource, lowest index first."""
        count = int(((container.get("resources") or {}).get("limits") or {}).get(EXTENDED_RESOURCE, 0))
        if count == 0:
            return set()
        taken = set().union(*self._exclusive.values())
        free = [gpu.index for gpu in self.gpus.gpus if gpu.index not in taken]
        if self.gpus.node.claim != "extended" or len(free) < count:
            raise DevicesExhaustedError(
                f"Allocate failed due to requested number of devices unavailable for {EXTENDED_RESOURCE}. "
                f"Requested: {count}, Available: {len(free)}, which is unexpected"
            )
        chosen = set(free[:count])
        self._exclusive.setdefault(uid, set()).update(chosen)
        return chosen


def claim_names(pod: Object) -> dict[str, str]:
    """Return name in the pod -> name of the ResourceClaim. Raises ClaimPendingError for one not generated yet."""
    made = {s["name"]: s.get("resourceClaimName") for s in (pod.get("status") or {}).get("resourceClaimStatuses") or []}
    names = {}
    for claim in pod["spec"].get("resourceClaims") or []:
        name = claim.get("resourceClaimName") or made.get(claim["name"])
        if name is None:
            raise ClaimPendingError(f"the claim for {claim['name']!r} has not been made yet")
        names[claim["name"]] = name
    return names


def check_claim(claim: Object, pod: Object) -> None:
    """Raise ClaimPendingError unless the claim is allocated and reserved for the pod."""
    status = claim.get("status") or {}
    name = claim["metadata"]["name"]
    if "allocation" not in status:
        raise ClaimPendingError(f"claim {name} is not allocated")
    if not any(user["uid"] == pod["metadata"]["uid"] for user in status.get("reservedFor") or []):
        raise ClaimPendingError(f"claim {name} is not reserved for this pod")
