"""The drain script is really executed, against a real HTTP server; all scenarios at once, as most of it is waiting."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
PATIENCE = 30  # seconds; a limit that is never reached


def say(running: int, waiting: int) -> bytes:
    return METRICS.format(running=running, waiting=waiting).encode()


@dataclass
class Scenario:
    """What an engine answers, look by look (the last answer for ever), and how long the script may take."""

    answers: list[bytes | None]  # None: 503
    limit: int = PATIENCE
    least: int = 0
    hangs: bool = False
    gone: bool = False
    looks: list[float] = field(default_factory=list)
    code: int = -1
    seconds: float = 0.0
    complaint: str = ""

    def answer(self) -> bytes | None:
        self.looks.append(time.monotonic())
        if self.hangs:
            time.sleep(2.5)
        return self.answers[min(len(self.looks), len(self.answers)) - 1]


SCENARIOS = {
    "idle": Scenario([say(0, 0)]),
    "idle with a least time": Scenario([say(0, 0)], least=1),
    "running once more": Scenario([say(0, 0), say(3, 0), say(0, 0)]),
    "waiting once more": Scenario([say(0, 0), say(0, 2), say(0, 0)]),
    "gone": Scenario([], gone=True),
    "busy for ever": Scenario([say(1, 0)], limit=2),
    "hung": Scenario([say(0, 0)], limit=2, hangs=True),
    "503": Scenario([None], limit=2),
    "half of the metrics": Scenario([b"vllm:num_requests_running 0\n"], limit=2),
    "no number": Scenario([b"vllm:num_requests_running x\nvllm:num_requests_waiting 0\n"], limit=2),
}


@contextlib.contextmanager
def serve(scenario: Scenario) -> Iterator[int]:
    """The engine's /metrics on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = scenario.answer() if self.path == "/metrics" else None
            with contextlib.suppress(OSError):
                self.send_response(503 if body is None else 200)
                self.end_headers()
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


def play(scenario: Scenario) -> None:
    with contextlib.ExitStack() as engine:
        port = engine.enter_context(serve(scenario))
        if scenario.gone:
            engine.close()
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-S", "-c", SCRIPT, str(port), str(scenario.limit), str(scenario.least)],
            env={"POD_IP": "127.0.0.1", "http_proxy": "http://127.0.0.1:1"},
            timeout=4 * PATIENCE,
            check=False,
            capture_output=True,
            text=True,
        )
        scenario.seconds = time.monotonic() - started
        scenario.code, scenario.complaint = done.returncode, done.stderr


@pytest.fixture(scope="module", autouse=True)
def _played() -> None:
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        list(pool.map(play, SCENARIOS.values()))


@pytest.mark.parametrize("name", SCENARIOS)
def test_ends_well(name: str) -> None:
    assert (SCENARIOS[name].code, SCENARIOS[name].complaint) == (0, "")


def test_idle_engine_is_looked_at_twice_a_second_apart() -> None:
    looks = SCENARIOS["idle"].looks
    assert len(looks) == 2
    assert looks[1] - looks[0] >= 0.9


def test_least_time_passes_first() -> None:
    assert SCENARIOS["idle with a least time"].seconds >= 2


@pytest.mark.parametrize("name", ["running once more", "waiting once more"])
def test_idle_must_be_seen_twice_in_a_row(name: str) -> None:
    assert len(SCENARIOS[name].looks) == 4


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.limit < PATIENCE])
def test_limit_ends_it_and_nothing_else(name: str) -> None:
    assert 1.9 <= SCENARIOS[name].seconds < PATIENCE


def test_engine_that_is_gone_is_empty() -> None:
    assert SCENARIOS["gone"].seconds < PATIENCE


def test_hook_runs_the_script_with_its_numbers() -> None:
    command = make_pre_stop(8001, 120)["exec"]["command"]
    assert command == ["python3", "-c", SCRIPT, "8001", "120", str(MIN_SECONDS)]


def test_limit_is_never_below_the_least_time() -> None:
    assert make_pre_stop(8000, 1)["exec"]["command"][4] == str(MIN_SECONDS)


@pytest.mark.parametrize(("drain_seconds", "engines", "grace"), [(120, 1, 132), (120, 4, 168), (0, 1, 17)])
def test_grace_covers_drain_then_each_engines_end(drain_seconds: int, engines: int, grace: int) -> None:
    assert grace_seconds(drain_seconds=drain_seconds, shutdown_seconds=5, engines=engines) == grace
