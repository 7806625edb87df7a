"""checkov on the rendered chart and the Dockerfile. `make scan` makes its environment; without it this is skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from chart_tools import ALL_ON, CHART, DEFAULTS, render_text

from shoal.api.generate import ROOT

CHECKOV = ROOT / ".venv-scan" / "bin" / "checkov"
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not CHECKOV.exists(), reason="no .venv-scan: run `make scan`"),
]


def test_checkov_finds_nothing(tmp_path: Path) -> None:
    digests = {name: ALL_ON["images"][name] for name in ("operator", "gpuAgent", "envoy")}
    for name, values in {"defaults": DEFAULTS | {"images": digests}, "all-on": ALL_ON}.items():
        (tmp_path / f"{name}.yaml").write_text(render_text(values))
    shutil.copy(ROOT / "images" / "Dockerfile", tmp_path)
    frameworks = ("--framework", "kubernetes", "dockerfile")
    command = [CHECKOV, "--config-file", CHART / ".checkov.yaml", *frameworks, "--directory", tmp_path, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    reports = {report["check_type"]: report for report in json.loads(done.stdout)}
    assert reports.keys() == {"kubernetes", "dockerfile"}
    assert reports["kubernetes"]["summary"]["passed"] > 200
    failed = [
        (found["check_id"], found["check_name"], found["resource"])
        for report in reports.values()
        for found in report["results"]["failed_checks"]
    ]
    assert failed == []
