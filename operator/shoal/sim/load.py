"""`python -m shoal.sim.load`: open-loop load over HTTP.

Arrivals are fixed beforehand from a seed and never wait for answers. Clients never retry.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence

import aiohttp
import uvloop

from shoal.sim.load_report import LoadReport, Outcome, Record, make_report
from shoal.sim.traffic import Arrival, Traffic

DONE = b"data: [DONE]"
_USAGE = re.compile(rb'"completion_tokens":\s*(\d+)')
_TAIL_BYTES = 2048  # usage and the end of a stream fit into it
_TOKEN_IDS = range(1000, 9000)  # ordinary tokens of every common vocabulary; random ones, so that no prefix is cached


class LoadGenerator:
    """Sends one stream of requests to one URL. `url` ends in `/v1`."""

    def __init__(self, *, url: str, model: str, traffic: Traffic, timeout_seconds: float = 120.0) -> None:
        self._url = f"{url.rstrip('/')}/completions"
        self._model = json.dumps(model)
        self._traffic = traffic
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._tokens = random.Random(f"tokens {traffic.seed}")
        self._began: float | None = None
        self._cpu = 0.0
        self.records: list[Record] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the traffic began."""
        return 0.0 if self._began is None else asyncio.get_running_loop().time() - self._began

    async def run(self, *, started: float | None = None) -> LoadReport:
        """Send everything and wait for the answers.

        `started`: the event loop's time that counts as the beginning, so that several generators share one.
        """
        loop = asyncio.get_running_loop()
        began = self._began = loop.time() if started is None else started
        cpu = time.process_time()
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=self._timeout) as http,
            asyncio.TaskGroup() as tasks,
        ):
            for arrival in self._traffic.arrivals():
                if (wait := began + arrival.at - loop.time()) > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(self._send(http, arrival, loop.time() - began))
        self._cpu = (time.process_time() - cpu) / max(self.elapsed, 1e-9)
        return self.report()

    def report(self, *, ttft_ms: float | None = None, itl_ms: float | None = None) -> LoadReport:
        """Everything so far."""
        seconds = min(self.elapsed, self._traffic.seconds)
        return make_report(self.records, seconds=seconds, cpu=self._cpu, ttft_ms=ttft_ms, itl_ms=itl_ms)

    def recent(self, window: float = 30.0, *, ttft_ms: float | None = None, itl_ms: float | None = None) -> LoadReport:
        """The last `window` seconds: requests sent in them, latencies of those that ended in them."""
        now = self.elapsed
        since = now - window
        records = [
            record
            for record in self.records
            if record.sent_at >= since or (record.ended_at is not None and record.ended_at >= since)
        ]
        sent = sum(record.sent_at >= since for record in records)
        return make_report(records, seconds=min(window, now), sent=sent, cpu=self._cpu, ttft_ms=ttft_ms, itl_ms=itl_ms)

    async def _send(self, http: aiohttp.ClientSession, arrival: Arrival, sent_at: float) -> None:
        record = Record(arrival.at, sent_at, arrival.prompt_tokens, arrival.output_tokens)
        self.records.append(record)
        try:
            await self._exchange(http, record)
        except TimeoutError:
            record.outcome = Outcome.TIMEOUT
        except (aiohttp.ClientError, ConnectionError, OSError) as error:
            record.outcome, record.detail = Outcome.RESET, repr(error)
        record.ended_at = self.elapsed

    async def _exchange(self, http: aiohttp.ClientSession, record: Record) -> None:
        headers = {"Content-Type": "application/json"}
        async with http.post(self._url, data=self._body(record), headers=headers) as answer:
            record.status = answer.status
            if answer.status != 200:
                record.detail = (await answer.text())[:200]
                record.outcome = Outcome.SERVER_ERROR if answer.status >= 500 else Outcome.REFUSED
                return
            await self._read_stream(answer.content.iter_any(), record)

    async def _read_stream(self, chunks: AsyncIterator[bytes], record: Record) -> None:
        first: float | None = None
        last, tail = 0.0, b""
        async for chunk in chunks:
            last = self.elapsed
            if first is None:
                first = last
                record.ttft_ms = (first - record.sent_at) * 1000
            tail = (tail + chunk)[-_TAIL_BYTES:]
        usage = _USAGE.search(tail)
        record.tokens = int(usage.group(1)) if usage else 0
        if first is None or DONE not in tail or record.tokens != record.output_tokens:
            record.outcome, record.detail = Outcome.SHORT, f"{record.tokens} of {record.output_tokens} tokens"
            return
        record.outcome = Outcome.ANSWERED
        if record.tokens > 1:
            record.itl_ms = (last - first) * 1000 / (record.tokens - 1)

    def _body(self, record: Record) -> bytes:
        prompt = ",".join(map(str, self._tokens.choices(_TOKEN_IDS, k=record.prompt_tokens)))
        return (
            f'{{"model":{self._model},"prompt":[{prompt}],"max_tokens":{record.output_tokens},"ignore_eos":true,'
            '"temperature":0,"stream":true,"stream_options":{"include_usage":true}}'
        ).encode()


def _read_schedule(text: str) -> tuple[tuple[float, float], ...]:
    pieces = json.loads(text)
    if not all(len(piece) == 2 and piece[0] > 0 and piece[1] >= 0 for piece in pieces):
        raise ValueError("pieces are [seconds, requests per second]")
    return tuple((float(seconds), float(rate)) for seconds, rate in pieces)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shoal.sim.load", description=__doc__)
    add = parser.add_argument
    add("--url", required=True, help="base URL, as in http://host:port/prefix/v1")
    add("--model", required=True, help="the name clients send")
    add("--schedule", required=True, type=_read_schedule, help="JSON: [[seconds, requests per second], ...]")
    add("--input-mean", type=float, default=512.0, help="mean prompt length in tokens (512)")
    add("--output-mean", type=float, default=128.0, help="mean answer length in tokens (128)")
    add("--longest", type=int, default=8192, help="longest prompt and answer together, in tokens (8192)")
    add("--seed", type=int, default=0)
    add("--timeout", type=float, default=120.0, help="seconds until a request counts as lost (120)")
    add("--ttft-ms", type=float, help="objective for the share within the SLO")
    add("--itl-ms", type=float, help="objective for the share within the SLO")
    add("-o", "--output", choices=("text", "json"), default="text")
    return parser


async def _run(options: argparse.Namespace) -> LoadReport:
    traffic = Traffic(options.schedule, options.input_mean, options.output_mean, options.seed, options.longest)
    generator = LoadGenerator(url=options.url, model=options.model, traffic=traffic, timeout_seconds=options.timeout)
    with contextlib.suppress(asyncio.CancelledError):  # interrupted: tell what was seen
        await generator.run()
    return generator.report(ttft_ms=options.ttft_ms, itl_ms=options.itl_ms)


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0: nothing was lost; 1: something was."""
    options = _make_parser().parse_args(arguments)
    report = uvloop.run(_run(options))
    values = report.as_json()
    if options.output == "json":
        print(json.dumps(values))
    else:
        print("\n".join(f"{name:13} {value}" for name, value in values.items()))
    return 1 if report.lost else 0


if __name__ == "__main__":
    sys.exit(main())
