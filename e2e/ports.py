"""Ports for servers that a test starts later."""

from __future__ import annotations

import itertools
import os
import socket
from typing import Final

# Below the range from which systems take ports for outgoing connections: one of those could take it in between.
FIRST: Final = 20_000
COUNT: Final = 12_000
STRIDE: Final = 97  # processes that are started after one another begin far apart

_next = itertools.count(os.getpid() * STRIDE)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that this process gives out once."""
    for number in itertools.islice(_next, COUNT):
        port = FIRST + number % COUNT
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError("no free port")
