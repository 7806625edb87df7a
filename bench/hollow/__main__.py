"""`python -m bench.hollow`: the process of the hollow nodes.

It prints one JSON line when the nodes are registered, then reads commands, one JSON object a line, and answers each
with one line: `{"service": "namespace/name", "rate": 12.5}` changes a rate, `{}` asks how it goes. It ends with its
standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.hollow.cluster import keep_alive, make_nodes, register
from bench.hollow.kubelet import Kubelet
from bench.hollow.pages import Requests
from bench.hollow.traffic import Traffic
from e2e.devcluster import ApiClient
from e2e.devcluster.addresses import Slot


def main() -> None:
    """Run until standard input ends."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    uvloop.run(_run(_parse()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.hollow", description="Hollow nodes with GPUs.")
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("--slot", type=int, required=True, help="the devcluster's slot: addresses are 127.SLOT.x.y")
    parser.add_argument("--dra-nodes", type=int, default=1, help="nodes of eight H100, claimed by DRA")
    parser.add_argument("--extended-nodes", type=int, default=1, help="nodes of eight L40S, by extended resource")
    parser.add_argument("--rate", type=float, default=1.0, help="requests per second of each service")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--startup-seconds", type=float, default=1.0)
    parser.add_argument("--stop-seconds", type=float, default=0.2)
    parser.add_argument("--xds", help="HOST:PORT that routers fetch their configuration from")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> None:
    slot = Slot(options.slot)
    nodes = make_nodes(slot, options.dra_nodes, options.extended_nodes)
    traffic = Traffic(options.rate, options.seed)
    async with ApiClient.from_kubeconfig(options.kubeconfig) as client:
        await register(client, list(nodes.values()))
        kubelet = Kubelet(
            client,
            nodes,
            slot.pods(),
            traffic,
            requests=Requests(),
            startup_seconds=options.startup_seconds,
            stop_seconds=options.stop_seconds,
            xds=options.xds,
        )
        work = [asyncio.create_task(keep_alive(client, list(nodes.values()))), asyncio.create_task(kubelet.run())]
        commands = asyncio.create_task(_obey(traffic, kubelet))
        done, _ = await asyncio.wait([*work, commands], return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            task.cancel()
        await kubelet.ports.shut_down()
        for task in done:
            task.result()


async def _obey(traffic: Traffic, kubelet: Kubelet) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say({"ready": True})
    while line := await reader.readline():
        command = json.loads(line)
        now = time.monotonic()
        if "service" in command:
            namespace, name = command["service"].split("/")
            traffic.set_rate((namespace, name), float(command["rate"]), now)
        _say({"at": now, "answered": kubelet.ports.answered})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
