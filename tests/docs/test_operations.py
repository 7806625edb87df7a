"""The operations guide names the metrics, values and permissions that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
VALUES: dict[str, Any] = yaml.safe_load((ROOT / "charts" / "shoal" / "values.yaml").read_text())
METRIC_SOURCES = ("reconciler/metrics.py", "telemetry/traffic_metrics.py")


def test_every_metric_of_the_operator_is_listed_and_no_other() -> None:
    sources = [(ROOT / "operator" / "shoal" / name).read_text() for name in METRIC_SOURCES]
    known = {name for text in sources for name in re.findall(r'"(shoal_[a-z_]+)"', text)}
    assert set(re.findall(r"`(shoal_[a-z_]+)`", GUIDE)) == known


def read_values() -> list[tuple[str, str]]:
    section = GUIDE.split("### Values that matter\n", 1)[1].split("\n### ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [(name.strip("`"), default) for name, default, _ in rows]


@pytest.mark.parametrize(("path", "default"), read_values())
def test_values_exist_with_the_defaults_that_are_told(path: str, default: str) -> None:
    found: Any = VALUES
    for part in path.removesuffix(".*").split("."):
        found = found[part]
    plain = default.split(" (", maxsplit=1)[0]
    if isinstance(found, bool | int | list) or plain == '""':
        assert yaml.safe_load(plain) == found
