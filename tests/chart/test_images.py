"""The Dockerfile: clean, pinned, without root, for every architecture."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from shoal.api.generate import ROOT

DOCKERFILE = ROOT / "images" / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def test_hadolint_is_content() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_is_pinned_by_an_exact_tag() -> None:
    [base] = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert {line.split()[1] for line in TEXT.splitlines() if line.startswith("FROM")} == {"${PYTHON_IMAGE}", "runtime"}


def test_nothing_is_made_for_one_architecture() -> None:
    assert not re.search(r"amd64|x86_64|--platform=", re.sub(r"^#.*$", "", TEXT, flags=re.MULTILINE))


def test_it_runs_without_root() -> None:
    users = re.findall(r"^USER (\S+)$", TEXT, re.MULTILINE)
    assert users == ["65532:65532"]


def test_every_image_has_its_command() -> None:
    stages = re.split(r"^FROM runtime AS ", TEXT, flags=re.MULTILINE)[1:]
    found = {
        stage.split()[0]: command
        for stage in stages
        for command in re.findall(r'^ENTRYPOINT \["python", "-m", "(\S+)"\]$', stage, re.MULTILINE)
    }
    assert found == {
        "operator": "shoal.reconciler",
        "gpu-agent": "shoal.telemetry.agent",
        "profiler": "shoal.profiler.job",
        "sim-engine": "shoal.sim.server",
    }


def _pins(path: Path) -> set[str]:
    return set(re.findall(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", path.read_text(), re.MULTILINE))


def test_images_hold_the_versions_that_were_tested() -> None:
    pins = _pins(ROOT / "images" / "requirements.lock")
    assert len(pins) > 20
    assert pins <= _pins(ROOT / "requirements.lock")


def test_every_pin_has_hashes() -> None:
    for name in ("requirements.lock", "requirements-scan.lock", "images/requirements.lock"):
        text = (ROOT / name).read_text()
        blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
        assert all("--hash=sha256:" in block for block in blocks if block.strip()), name
        assert "://" not in text, f"{name} names an address"


def test_direct_dependencies_are_all_in_the_images() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=; ]", line)[0].lower() for line in wanted}
    pinned = {pin.split("==")[0].lower() for pin in _pins(ROOT / "images" / "requirements.lock")}
    assert names <= pinned
