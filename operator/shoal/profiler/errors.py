"""What ends a measurement before its time."""

from __future__ import annotations


class ProfilerError(Exception):
    """Nothing more can be measured. The message says what to do; what was measured before is kept."""


class ClientError(ProfilerError):
    """The clients failed, not the server: the same command may go on later."""
