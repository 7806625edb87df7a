"""The preStop hook of an engine: its container stays until the requests it has are answered.

All preStop hooks of a pod run at once, and native sidecars get SIGTERM only after the main container has ended. So all
waiting happens here, and `--shutdown-timeout` is a short tail.
"""

from __future__ import annotations

from typing import Any, Final

MIN_SECONDS: Final = 5  # until every router has seen that the pod is going
EXIT_SECONDS: Final = 7  # an idle engine needs less from SIGTERM to its end

SCRIPT: Final = '''\
import os, signal, sys, time, urllib.error, urllib.request

PORT, LIMIT, LEAST = (int(word) for word in sys.argv[1:])
HOST = os.environ["POD_IP"]
URL = "http://%s:%d/metrics" % ("[%s]" % HOST if ":" in HOST else HOST, PORT)
COUNTED = ("vllm:num_requests_running", "vllm:num_requests_waiting")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def requests_left():
    """Running and waiting requests; 0 if nobody listens any more; None if the engine does not say."""
    try:
        with DIRECT.open(URL, timeout=2) as answer:
            samples = [line.split() for line in answer.read().decode("utf-8", "replace").splitlines() if line]
        counts = [[float(words[-1]) for words in samples if words[0].split("{")[0] == name] for name in COUNTED]
    except urllib.error.URLError as error:
        return 0 if isinstance(error.reason, ConnectionRefusedError) else None
    except (OSError, ValueError):
        return None
    return sum(map(sum, counts)) if all(counts) else None


signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
signal.alarm(LIMIT)
time.sleep(LEAST)
idle = 0
while idle < 2:
    idle = idle + 1 if requests_left() == 0 else 0
    if idle < 2:
        time.sleep(1)
'''
"""Arguments, in this order: port, limit and least time in seconds.

Ends when running + waiting was 0 twice, a second apart, or at the limit, whatever the engine does: one that hangs or
does not tell counts as busy, one that is gone as empty.
"""


def make_pre_stop(port: int, limit_seconds: int) -> dict[str, Any]:
    """The lifecycle handler of the engine on `port`."""
    limit = max(limit_seconds, MIN_SECONDS)
    return {"exec": {"command": ["python3", "-c", SCRIPT, str(port), str(limit), str(MIN_SECONDS)]}}


def grace_seconds(*, drain_seconds: int, shutdown_seconds: int, engines: int) -> int:
    """Time from deletion to SIGKILL of a pod.

    All engines drain at once. Then they end one after the other, sidecars in reverse order: each has its shutdown tail
    and its exit.
    """
    return max(drain_seconds, MIN_SECONDS) + engines * (shutdown_seconds + EXIT_SECONDS)
