"""A real Prometheus that scrapes addresses where tests may start exporters."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from exporters import next_address

PORT = 9090
ENGINE_PORT = 8000
START_SECONDS = 30


class Prometheus:
    """One process. It takes five seconds to begin with new targets, so all are told beforehand, by name."""

    def __init__(self, binary: Path, directory: Path, targets: dict[str, list[dict[str, str]]]) -> None:
        """`targets`: name -> label sets, as discovery would give them; all sets of a name are one address."""
        self.address = next_address()
        self.url = f"http://{self.address}:{PORT}"
        self.targets = {name: next_address() for name in targets}
        self._directory = directory
        (directory / "prometheus.yml").write_text(json.dumps(self._configure(targets)))
        with (directory / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(binary),
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self.address}:{PORT}",
                ],
                stdout=log,
                stderr=log,
            )

    def _configure(self, targets: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
        configs = [
            {"targets": [f"{self.targets[name]}:{ENGINE_PORT}"], "labels": labels}
            for name, sets in targets.items()
            for labels in sets
        ]
        return {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [{"job_name": "engines", "static_configs": configs}],
        }

    def wait(self) -> None:
        """Until it has tried all targets."""
        limit = time.monotonic() + START_SECONDS
        while not self._has_scraped():
            assert time.monotonic() < limit, (self._directory / "prometheus.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _has_scraped(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?query=up", timeout=2) as answer:
                return len(json.load(answer)["data"]["result"]) > 0
        except OSError:
            return False
