"""Loopback addresses: every devcluster owns one /16 of 127.0.0.0/8, so that several can run beside each other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

# 127.0.x.y belongs to everybody else on the machine; the slots start above it.
FIRST_SLOT, LAST_SLOT = 64, 127
# A listening socket on this port of the slot's last address says that the slot is taken: the kernel frees it with its
# owner, however that ends.
_GUARD_PORT = 6444


@dataclass(frozen=True)
class Slot:
    """The /16 `127.<number>.0.0`: .0.x control plane and nodes, .1.x to .127.x pods, .128.0/17 Services."""

    number: int

    @property
    def control_plane(self) -> str:
        """Address of etcd and the API server."""
        return f"127.{self.number}.0.1"

    @property
    def service_range(self) -> str:
        """CIDR of Service ClusterIPs; reachable because the node agent listens on each of them."""
        return f"127.{self.number}.128.0/17"

    @property
    def kubernetes_service(self) -> str:
        """ClusterIP of `default/kubernetes`: the first address of the Service range."""
        return f"127.{self.number}.128.1"

    def node(self, index: int) -> str:
        """Address of node `index` (0 to 199)."""
        return f"127.{self.number}.0.{10 + index}"

    def pods(self) -> Iterator[str]:
        """Every pod address, in order."""
        for third in range(1, 128):
            for fourth in range(1, 255):
                yield f"127.{self.number}.{third}.{fourth}"


def claim_slot() -> tuple[Slot, socket.socket]:
    """Take a free slot; it is ours until the returned socket is closed.

    Raises RuntimeError when all are taken.
    """
    for number in range(FIRST_SLOT, LAST_SLOT + 1):
        guard = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            guard.bind((f"127.{number}.255.254", _GUARD_PORT))
            guard.listen(1)
        except OSError:
            guard.close()
            continue
        return Slot(number), guard
    raise RuntimeError(
        f"all {LAST_SLOT - FIRST_SLOT + 1} devclusters are in use: stop one with `python -m e2e.devcluster down`"
    )
