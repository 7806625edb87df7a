"""One line per event, for machines or for people; libraries speak only when something is wrong."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

# kopf tells what ended it with a stack per task; the watcher tells it once. LeaseLock logs stacks for lost races.
_QUIET = {
    "kopf": logging.CRITICAL,
    "kubernetes.aio.leaderelection": logging.CRITICAL,
    "kubernetes": logging.WARNING,
    "aiohttp": logging.WARNING,
    "asyncio": logging.WARNING,
    "grpc": logging.WARNING,
}


class JsonFormatter(logging.Formatter):
    """`{"time","level","logger","message"}`, and `error` with the stack."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logs(*, as_json: bool) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
