"""The drain script is really executed, against a real HTTP server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from shoal.render.drain import MIN_SECONDS, SCRIPT, grace_seconds, make_pre_stop

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="chat {{v1}} x"}} {running:.1f}
vllm:num_requests_waiting{{engine="0",model_name="chat {{v1}} x"}} {waiting:.1f}
vllm:num_requests_waiting_by_reason{{engine="0",reason="capacity"}} 99.0
"""


@contextlib.contextmanager
def serve(answer: Callable[[], bytes | None]) -> Iterator[int]:
    """An engine's /metrics on a free loopback port; an answer of None is a 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer() if self.path == "/metrics" else None
            self.send_response(503 if body is None else 200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def drain(port: int, *, limit: int, least: int = 0) -> tuple[int, float]:
    """Exit code and seconds of the script."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-S", "-c", SCRIPT, str(port), str(limit), str(least)],
        env={"POD_IP": "127.0.0.1", "http_proxy": "http://127.0.0.1:1"},
        timeout=30,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.returncode, time.monotonic() - started


def test_idle_engine_ends_after_two_looks() -> None:
    looks: list[float] = []

    def answer() -> bytes:
        looks.append(time.monotonic())
        return METRICS.format(running=0, waiting=0).encode()

    with serve(answer) as port:
        code, _ = drain(port, limit=20)
    assert code == 0
    assert len(looks) == 2
    assert looks[1] - looks[0] >= 0.9


def test_least_time_passes_first() -> None:
    with serve(lambda: METRICS.format(running=0, waiting=0).encode()) as port:
        code, seconds = drain(port, limit=20, least=1)
    assert (code, seconds >= 2) == (0, True)


@pytest.mark.parametrize("busy", [(3, 0), (0, 2)])
def test_waits_for_running_and_for_waiting(busy: tuple[int, int]) -> None:
    states = [(0, 0), busy, (0, 0), (0, 0)]  # idle must be seen twice in a row

    def answer() -> bytes:
        running, waiting = states.pop(0)
        return METRICS.format(running=running, waiting=waiting).encode()

    with serve(answer) as port:
        code, _ = drain(port, limit=20)
    assert (code, states) == (0, [])


def never_answers() -> bytes:
    time.sleep(2.5)
    return b""


ENDLESS: dict[str, Callable[[], bytes | None]] = {
    "busy for ever": lambda: METRICS.format(running=1, waiting=0).encode(),
    "hung": never_answers,
    "503": lambda: None,
    "half of the metrics": lambda: b"vllm:num_requests_running 0\n",
    "no number": lambda: b"vllm:num_requests_running x\nvllm:num_requests_waiting 0\n",
}


def test_limit_ends_it() -> None:
    def try_one(answer: Callable[[], bytes | None]) -> tuple[int, float]:
        with serve(answer) as port:
            return drain(port, limit=2)

    with ThreadPoolExecutor(len(ENDLESS)) as pool:
        results = dict(zip(ENDLESS, pool.map(try_one, ENDLESS.values()), strict=True))
    assert {name: code for name, (code, _) in results.items()} == dict.fromkeys(ENDLESS, 0)
    assert all(seconds >= 1.9 for _, seconds in results.values()), results


def test_engine_that_is_gone_is_empty() -> None:
    with serve(lambda: None) as port:
        pass
    code, seconds = drain(port, limit=20)
    assert (code, seconds < 5) == (0, True)


def test_hook_runs_the_script_with_its_numbers() -> None:
    command = make_pre_stop(8001, 120)["exec"]["command"]
    assert command == ["python3", "-c", SCRIPT, "8001", "120", str(MIN_SECONDS)]


def test_limit_is_never_below_the_least_time() -> None:
    assert make_pre_stop(8000, 1)["exec"]["command"][4] == str(MIN_SECONDS)


@pytest.mark.parametrize(("drain_seconds", "engines", "grace"), [(120, 1, 132), (120, 4, 168), (0, 1, 17)])
def test_grace_covers_drain_then_each_engines_end(drain_seconds: int, engines: int, grace: int) -> None:
    assert grace_seconds(drain_seconds=drain_seconds, shutdown_seconds=5, engines=engines) == grace
