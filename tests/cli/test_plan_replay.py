"""`shoal plan --replay`: a decision taken again from a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.cli.main import main
from shoal.domain.pool import ClaimKind, NodeStock, Pool, Stock
from shoal.domain.profile import LengthMix, Link, ModelFacts
from shoal.domain.service import EngineFacts, Load, Objective, Service, ServiceKey, Tick, Workload
from shoal.domain.snapshot import Snapshot
from shoal.planner.decide import decide
from shoal.planner.replay import Record, encode_record

CHAT = ServiceKey("team", "chat")


def make_record() -> Record:
    mix = LengthMix(512, 128, 1024, 256)
    service = Service(
        key=CHAT,
        uid="u",
        generation=1,
        created_at=0.0,
        model="Qwen/Qwen2.5-7B-Instruct",
        facts=ModelFacts(7.616e9, 15.2e9, 57344, 32768),
        max_context_tokens=8192,
        objective=Objective(95, 500, 40),
        workload=Workload(5.0, mix),
        engine=EngineFacts("vllm", "0.33.0"),
        pools=("h100",),
        load=Load((Tick(40.0),) * 60, fresh_fraction=1.0),
    )
    memory = 80 * 2.0**30
    pool = Pool(
        "h100",
        *("NVIDIA-H100-80GB-HBM3", memory, 2.0**31, ClaimKind.DRA, 7.5, Stock((NodeStock("n", 8, 8),))),
        link=Link.NVLINK,
    )
    snapshot = Snapshot(1_767_225_600.0, (service,), (pool,), ())
    return Record("0.1.0", snapshot, decide(snapshot))


def write(path: Path, record: Record, **changes: Any) -> Path:
    path.write_text(json.dumps({**encode_record(record), **changes}))
    return path


def test_the_same_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--replay", str(write(tmp_path / "dump.json", make_record()))]) == 0
    told = capsys.readouterr().out
    assert "team/chat: Scale" in told
    assert "The same answer as operator 0.1.0 decided at 2026-01-01 00:00:00 UTC" in told


def test_another_answer_is_shown_field_by_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = make_record()
    decision = record.answer.decisions[CHAT]
    (variant,) = decision.plan.variants
    larger = replace(decision, plan=replace(decision.plan, variants=(replace(variant, replicas=7),)))
    record = replace(record, answer=replace(record.answer, decisions={CHAT: larger}))
    file = str(write(tmp_path / "dump.json", record))
    assert main(["plan", "--replay", file, "-o", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["equal"] is False
    assert answer["differences"] == [
        {"service": "team/chat", "field": "plan.variants[0].replicas", "then": "7", "now": str(variant.replicas)}
    ]
    assert main(["plan", "--replay", file]) == 1
    assert "plan.variants[0].replicas" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--replay", "/nowhere"), "No such file"),
        (("--replay", "{text}"), "Name a file of `shoal explain --dump`"),
        (("--replay", "{newer}"), "of version 9, this Shoal reads 1"),
        (("--replay", "{dump}", "--rate", "3"), "a snapshot is decided as it is"),
    ],
)
def test_what_cannot_be_replayed(
    arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("kind: ModelService")
    files = {
        "text": text,
        "dump": write(tmp_path / "dump.json", make_record()),
        "newer": write(tmp_path / "newer.json", make_record(), version=9),
    }
    assert main(["plan", *(argument.format(**files) for argument in arguments)]) == 2
    assert told in capsys.readouterr().err
