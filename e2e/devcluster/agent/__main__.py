"""Entry point: `python -m e2e.devcluster.agent DIRECTORY SLOT`, started by the supervisor."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import uvloop

from e2e.devcluster.addresses import Slot
from e2e.devcluster.agent.agent import Agent
from e2e.devcluster.config import Config
from e2e.devcluster.state import read_json


def main() -> None:
    """Run the agent until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    directory = Path(sys.argv[1])
    config = Config.from_mapping(read_json(directory / "config.json"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Agent(config, directory, Slot(int(sys.argv[2]))).run())


if __name__ == "__main__":
    main()
