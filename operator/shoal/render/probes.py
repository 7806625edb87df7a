"""Probes of an engine. `/health` is 503 only when the engine is dead, and knows nothing of draining."""

from __future__ import annotations

from typing import Any, Final

_PATH: Final = "/health"
_STARTUP_PERIOD: Final = 2  # seconds; a ready engine waits at most so long for its first request


def make_probes(port: int, startup_seconds: int) -> dict[str, Any]:
    """The three probes of the engine on `port`.

    The startup probe of a native sidecar also holds back the next engine, so engines start one after the other.
    Liveness is patient: a busy server answers late, and killing it loses its requests.
    """
    action = {"httpGet": {"path": _PATH, "port": port}}
    return {
        "startupProbe": {
            **action,
            "periodSeconds": _STARTUP_PERIOD,
            "timeoutSeconds": 5,
            "failureThreshold": -(-startup_seconds // _STARTUP_PERIOD),
        },
        "readinessProbe": {**action, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**action, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
    }
