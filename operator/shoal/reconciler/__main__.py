"""`python -m shoal.reconciler`: the operator."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

import uvloop

from shoal.reconciler.logs import set_up_logs
from shoal.reconciler.operator import run_operator
from shoal.reconciler.settings import SettingsError, read_settings

# What is kept is kept for long and has few cycles: with the interpreter's own thresholds (700, 10, 10) looking for them
# took a fifth of the CPU at 200 services.
COLLECT_AFTER = (20_000, 20, 20)


def main() -> int:
    """Run the operator; exit status 0 after SIGTERM, 2 for settings that cannot be used."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 2
    set_up_logs(as_json=settings.json_logs)
    gc.set_threshold(*COLLECT_AFTER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_operator(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
