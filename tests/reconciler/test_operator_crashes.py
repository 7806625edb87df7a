"""Killed after each of its writes, before or after the answer came: the end is the same, nothing leaks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operators import Operator, Site, condition
from proxy import Proxy, Script, Write

pytestmark = [pytest.mark.cluster, pytest.mark.long]

Object = dict[str, Any]
_MOST_WRITES = 40


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    site.apply_pool(maxGPUs=500)
    with Proxy(site.cluster.admin_kubeconfig_path).running() as running:
        yield running


class Killer(Script):
    """Kills the operator at write `number`, and lets no later write of that process through."""

    def __init__(self, operator: Operator, number: int, *, answered: bool) -> None:
        super().__init__()
        self.done = threading.Event()
        self._operator, self._number = operator, number
        if answered:
            self.answered = self._kill
        else:
            self.after = self._kill_unanswered
        self.before = self._hold

    def _hold(self, write: Write) -> int | None:
        return 503 if write.number > self._number else None

    def _kill(self, write: Write) -> None:
        if write.number == self._number:
            self._operator.process.kill()
            self.done.set()

    def _kill_unanswered(self, write: Write) -> bool:
        if write.number == self._number:
            self._kill(write)
            return True
        return False


def end_state(site: Site, service: str) -> Object:
    """What stands in the end, without what differs from run to run."""
    variants = site.variants(service)
    status = site.service(service).get("status") or {}
    return {
        "variants": sorted((v["metadata"]["name"].removeprefix(service), v["spec"]["replicas"]) for v in variants),
        "templates": len(_named(site.list("resource.k8s.io/v1", "resourceclaimtemplates"), service)),
        "budgets": len(_named(site.list("policy/v1", "poddisruptionbudgets"), service)),
        "plan": (status.get("plan") or {}).get("summary"),
        "generation": status.get("observedGeneration"),
        "conditions": sorted((c["type"], c["status"], c["reason"]) for c in status.get("conditions") or ()),
        "replicas": status.get("replicas"),
    }


def _named(items: list[Object], service: str) -> list[Object]:
    return [item for item in items if item["metadata"]["name"].startswith(f"{service}-")]


def gpus_ever(site: Site, service: str) -> int:
    """The most replicas that any write asked for, by the audit log of the API server."""
    most = 0
    for line in site.cluster.audit_log.read_text().splitlines():
        event = json.loads(line)
        target = event.get("objectRef") or {}
        is_variant = target.get("resource") == "deployments" and target.get("namespace") == site.namespace
        if is_variant and str(target.get("name", "")).startswith(f"{service}-"):
            spec = (event.get("requestObject") or {}).get("spec") or {}
            most = max(most, int(spec.get("replicas") or 0))
    return most


def is_there(site: Site, service: str, replicas: int, generation: int) -> bool:
    status = site.service(service).get("status") or {}
    return (
        [v["spec"]["replicas"] for v in site.variants(service)] == [replicas]
        and status.get("replicas") == replicas
        and status.get("observedGeneration") == generation
        and bool(condition(status, "Ready"))
        and len(_named(site.list("policy/v1", "poddisruptionbudgets"), service)) == 1
    )


def manual(replicas: int) -> Object:
    """A wish that gives every service variants of the same name."""
    return {
        "model": {"name": "Qwen/Qwen2.5-1.5B-Instruct", "servedName": "model"},
        "mode": "Manual",
        "manual": {"replicas": replicas, "tensorParallel": 1, "enginesPerGPU": 1},
    }


def run_until_stable(site: Site, service: str, replicas: int, generation: int) -> None:
    site.eventually(lambda: is_there(site, service, replicas, generation), f"{service} is not there", timeout=60)


def wait_until_equal(site: Site, service: str, number: int) -> None:
    """The end state is that of the service whose operator was never killed."""
    site.eventually(
        lambda: end_state(site, service) == end_state(site, "calm"),
        f"killed at write {number}: {end_state(site, service)} is not {end_state(site, 'calm')}",
    )


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("answered", [True, False], ids=["after-the-answer", "before-the-answer"])
def test_create_survives_a_kill_after_each_write(site: Site, proxy: Proxy, *, answered: bool) -> None:
    operator = site.start(server=proxy.url, SHOAL_ROUTER_IMAGE="envoy:test")
    site.apply_service("calm", **manual(1))
    run_until_stable(site, "calm", 1, 1)
    number = 0
    for number in range(1, _MOST_WRITES):
        name = f"s{number}"
        proxy.reset()
        killer = proxy.script = Killer(operator, number, answered=answered)
        site.apply_service(name, **manual(1))
        if not _wait_for_kill(site, killer, name, 1, 1):
            break
        proxy.reset()
        operator.restart()
        run_until_stable(site, name, 1, 1)
        wait_until_equal(site, name, number)
        assert gpus_ever(site, name) == 1
    assert number >= 5
    assert "Traceback" not in operator.text()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("answered", [True, False], ids=["after-the-answer", "before-the-answer"])
def test_scale_up_survives_a_kill_after_each_write(site: Site, proxy: Proxy, *, answered: bool) -> None:
    operator = site.start(server=proxy.url)
    site.apply_service("calm", **manual(1))
    run_until_stable(site, "calm", 1, 1)
    site.apply_service("calm", **manual(3))
    run_until_stable(site, "calm", 3, 2)
    number = 0
    for number in range(1, _MOST_WRITES):
        name = f"s{number}"
        proxy.reset()
        site.apply_service(name, **manual(1))
        run_until_stable(site, name, 1, 1)
        killer = proxy.script = Killer(operator, number, answered=answered)
        proxy.writes = []
        site.apply_service(name, **manual(3))
        if not _wait_for_kill(site, killer, name, 3, 2):
            break
        proxy.reset()
        operator.restart()
        run_until_stable(site, name, 3, 2)
        wait_until_equal(site, name, number)
        assert gpus_ever(site, name) == 3
    assert number >= 2
    assert "Traceback" not in operator.text()


def _wait_for_kill(site: Site, killer: Killer, name: str, replicas: int, generation: int) -> bool:
    """Wait for the kill; False when the scenario has ended without so many writes."""
    site.eventually(
        lambda: killer.done.is_set() or is_there(site, name, replicas, generation), f"{name} neither ends nor dies"
    )
    return killer.done.wait(1.0)


def test_log_has_no_secrets(site: Site, tmp_path: Path) -> None:
    """Whatever happens, no token reaches the log."""
    operator = site.start()
    site.apply_service("chat")
    site.eventually(lambda: site.variants("chat"), "no Deployment")
    assert "Bearer" not in operator.text()
    assert "eyJ" not in operator.text()
