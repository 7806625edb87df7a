"""The few ways a request can fail, whatever the client library calls them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio.client.exceptions import ApiException


class ClusterError(Exception):
    """A request that failed. `status` is the HTTP status (0: no answer), `reason` Kubernetes' own word."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason or status}: {message}" if message else reason or str(status))
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def is_not_found(self) -> bool:
        """The object, or its kind, or its namespace is not there."""
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """Somebody else changed the object, or owns a field."""
        return self.status == 409

    @property
    def is_invalid(self) -> bool:
        """The API server or an admission policy refuses the content: repeating it does not help."""
        return self.status in (400, 413, 422)

    @property
    def is_forbidden(self) -> bool:
        """RBAC, a quota or an admission policy says no."""
        return self.status == 403

    @property
    def is_transient(self) -> bool:
        """The server is away, busy or starting."""
        return self.status in (0, 429) or self.status >= 500


def to_cluster_error(error: BaseException) -> ClusterError:
    """Convert whatever the client raised."""
    if isinstance(error, ClusterError):
        return error
    if isinstance(error, ApiException) and error.status:
        answer = _decode(error.body)
        message = str(answer.get("message") or error.reason or "")
        return ClusterError(int(error.status), str(answer.get("reason") or ""), message, _retry_after(error.headers))
    if isinstance(error, TimeoutError):
        return ClusterError(0, "Timeout", "no answer in time")
    return ClusterError(0, type(error).__name__, str(error))


TRANSPORT_ERRORS = (ApiException, aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""All that a request may raise: refusals, broken connections, answers that are no JSON."""


def _decode(body: object) -> Mapping[str, Any]:
    try:
        answer = json.loads(body) if isinstance(body, str | bytes) else {}
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _retry_after(headers: Mapping[str, str] | None) -> float | None:
    text = (headers or {}).get("Retry-After", "")
    return float(text) if text.isdigit() else None
