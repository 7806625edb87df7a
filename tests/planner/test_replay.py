"""Snapshots and decisions as documents, and decisions taken again from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from planner_world import MIX, make_load, make_pool, make_profile, make_row, make_service, snapshot
from test_invariants import strange, worlds

from shoal.domain.codec import CodecError, decode, encode
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.plan import Decision
from shoal.domain.service import Memory, Mode, PlacedReplicas, ServiceKey, Tick
from shoal.domain.snapshot import Snapshot
from shoal.planner.decide import decide
from shoal.planner.replay import Record, decode_record, encode_record, replay


def make_record(**service):
    world = snapshot([make_service(load=make_load(8), **service)], [make_pool()], [make_profile([make_row()])])
    return Record("0.1.0", world, decide(world))


def through_json(document):
    return json.loads(json.dumps(document, allow_nan=False))


@strange
@given(worlds)
def test_any_snapshot_and_its_decisions_come_back_and_are_decided_alike(world):
    record = Record("0.1.0", world, decide(world))
    back = decode_record(through_json(encode_record(record)))
    assert repr(back) == repr(record)  # NaN is not equal to itself, its name is
    assert replay(back)[1] == ()


def test_numbers_come_back_as_they_were():
    for count in (3, 3.0, 0.1 + 0.2, float("inf"), -float("inf"), 1e-320):
        back = decode(Tick, through_json(encode(Tick, Tick(count))))
        assert (back, type(back.count)) == (Tick(count), type(count))
    assert str(decode(float, encode(float, float("nan")))) == "nan"


def test_a_changed_planner_or_snapshot_shows():
    record = make_record()
    (service,) = record.snapshot.services
    busier = replace(service, load=make_load(40))
    _, differences = replay(replace(record, snapshot=replace(record.snapshot, services=(busier,))))
    found = {difference.field: (difference.then, difference.now) for difference in differences}
    assert found["plan.variants[0].replicas"] == ("1", "5")
    other = replace(record.answer, decisions={})
    (missing,) = replay(replace(record, answer=other))[1]
    assert (missing.field, missing.then) == ("decision", "none")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: [], "this is no snapshot of Shoal"),
        (lambda d: {**d, "format": "other"}, "this is no snapshot of Shoal"),
        (lambda d: {**d, "version": 2}, "of version 2, this Shoal reads 1"),
        (lambda d: {k: v for k, v in d.items() if k != "answer"}, "answer: Record lacks it"),
        (lambda d: change(d, "later", 1), "snapshot.services[0].later: Service has no field 'later': a newer Shoal"),
        (lambda d: change(d, "paused", "no"), "snapshot.services[0].paused: expected bool, found str 'no'"),
        (lambda d: change(d, "priority", True), "snapshot.services[0].priority: expected a number"),
        (lambda d: change(d, "mode", "Sometimes"), "snapshot.services[0].mode: 'Sometimes' is no Mode"),
        (lambda d: change(d, "pools", "h100"), "snapshot.services[0].pools: expected a list, found str 'h100'"),
        (lambda d: change(d, "pools", [7]), "snapshot.services[0].pools[0]: expected str, found int '7'"),
        (
            lambda d: change(d, "key", None),
            "snapshot.services[0].key: expected the fields of ServiceKey, found nothing",
        ),
        (lambda d: change(d, "load", {"ticks": [{"count": "many"}]}), "services[0].load.ticks[0].count: expected a n"),
    ],
)
def test_a_document_that_is_wrong_is_refused_with_the_place(change, told):
    with pytest.raises(CodecError) as refused:
        decode_record(change(through_json(encode_record(make_record()))))
    assert told in str(refused.value)


def change(document, field, value):
    document["snapshot"]["services"][0][field] = value
    return document


def test_what_an_older_version_did_not_know_takes_its_default():
    document = through_json(encode_record(make_record()))
    del document["snapshot"]["services"][0]["mode"]
    assert decode_record(document).snapshot.services[0].mode is Mode.AUTO


def test_one_of_several_classes_is_named():
    decision = make_record().answer.decisions[ServiceKey("ml", "chat")]
    data = through_json(encode(Decision, decision))
    assert data["is"] == "Scale"
    assert decode(Decision, data) == decision
    with pytest.raises(CodecError, match="expected one of Scale, Hold, Infeasible under 'is', found 'Guess'"):
        decode(Decision, {**data, "is": "Guess"})


def test_values_that_a_class_refuses_are_refused():
    placement = Placement("h100", Configuration("NVIDIA-H100-80GB-HBM3"))
    document = through_json(encode_record(make_record(memory=Memory(target=(PlacedReplicas(placement, 1),)))))
    placed = document["snapshot"]["services"][0]["memory"]["target"][0]["placement"]["configuration"]
    placed["engines_per_gpu"] = 2
    placed["tensor_parallel"] = 2
    with pytest.raises(CodecError, match=r"target\[0\].placement.configuration: an engine over several GPUs"):
        decode_record(document)


def test_what_the_domain_is_not_made_of_is_refused_by_the_code():
    @dataclass(frozen=True)
    class Odd:
        found: set

    with pytest.raises(TypeError, match="set"):
        encode(set, set())
    assert decode(Mapping[str, float], [["a", 1.0]]) == {"a": 1.0}
    assert decode(type(MIX), encode(type(MIX), MIX)) == MIX
    assert encode(Snapshot, snapshot([], []))["services"] == []
