"""From objects to the Snapshot: what is taken in, what is set aside, what is never taken for zero."""

from __future__ import annotations

from typing import Any

import pytest
from objects import (
    add_claim,
    add_deployment,
    add_namespace,
    add_pod,
    add_pool,
    add_service,
)
from observe_world import CHAT, STATUS_TARGET, TP1, Measured, add_variant, make_world, observe, reading

from shoal.domain.live import LiveSample
from shoal.domain.pool import ClaimKind
from shoal.domain.service import Memory, Mode, PlacedReplicas, ReplicaPhase
from shoal.reconciler.kinds import MODEL_SERVICE
from shoal.render.reasons import ProblemReason
from shoal.render.recipe import dump_placement


def test_the_shortest_service() -> None:
    store = make_world()
    add_service(store)
    view = observe(store)
    (service,) = view.snapshot.services
    assert service.key == CHAT
    assert service.pools == ("h100",)
    assert service.max_context_tokens == 8192
    assert service.objective.percentile == 95
    assert not service.workload.declared
    assert service.facts is not None
    assert service.facts.parameters == pytest.approx(1.54e9, rel=0.1)
    assert service.engine.name == "vllm"
    (pool,) = view.snapshot.pools
    assert pool.claim is ClaimKind.DRA
    assert pool.stock is not None
    assert pool.stock.usable == 4


def test_everything_that_can_be_said() -> None:
    store = make_world()
    add_service(
        store,
        slo={"percentile": 90, "itlMilliseconds": 40.0},
        limits={"minReplicas": 2, "maxGPUs": 4},
        parallelism={"tensor": [1, 2], "enginesPerGPU": [1]},
        priority=7,
        mode="Manual",
        manual={"replicas": 3, "pool": "h100"},
        routing="Service",
        workload={
            "requestsPerSecond": 40.0,
            "inputTokens": {"mean": 200.0},
            "outputTokens": {"mean": 100.0, "p95": 120.0},
        },
        metadata={"annotations": {"shoal.dev/paused": "true"}},
    )
    (service,) = observe(store).snapshot.services
    assert (service.objective.percentile, service.objective.ttft_ms, service.objective.itl_ms) == (90, None, 40.0)
    assert (service.limits.min_replicas, service.limits.max_gpus) == (2, 4)
    assert (service.parallelism.tensor, service.parallelism.engines_per_gpu) == ((1, 2), (1,))
    assert (service.priority, service.mode, service.paused, service.routed_per_engine) == (7, Mode.MANUAL, True, False)
    assert service.manual is not None
    assert (service.manual.replicas, service.manual.pool) == (3, "h100")
    assert (service.workload.lengths.input_p95, service.workload.lengths.output_p95) == (400.0, 120.0)


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"pools": ["nowhere"]}, ProblemReason.POOL_NOT_FOUND, "closed, h100"),
        ({"pools": ["closed"]}, ProblemReason.POOL_NOT_ADMITTED, "closed"),
        ({"engine": {"class": "none"}}, ProblemReason.ENGINE_CLASS_NOT_FOUND, "create it"),
        ({"slo": {"ttftMilliseconds": "soon"}}, ProblemReason.NOT_READABLE, "spec.slo.ttftMilliseconds"),
    ],
)
def test_what_cannot_be_planned_is_set_aside(spec: dict[str, Any], reason: ProblemReason, words: str) -> None:
    store = make_world()
    add_pool(store, "closed", namespaces=[{"selector": {"matchLabels": {"team": "other"}}}])
    add_service(store, "chat", **spec)
    add_service(store, "good")
    view = observe(store)
    assert [service.key.name for service in view.snapshot.services] == ["good"]
    (problem,) = view.problems[CHAT]
    assert problem.reason is reason
    assert words in problem.message
    assert view.resources[CHAT].metadata.uid == "uid-team-chat"


def test_one_of_two_named_pools_is_missing() -> None:
    store = make_world()
    add_service(store, pools=["h100", "nowhere"])
    (service,) = observe(store).snapshot.services
    assert service.pools == ("h100",)
    assert service.refused_pools == (("nowhere", "no such GPUPool"),)


def test_namespaces_are_admitted_by_label_with_their_quota() -> None:
    store = make_world()
    add_namespace(store, "gold", tier="gold")
    add_pool(
        store,
        "shared",
        namespaces=[{"selector": {"matchLabels": {"tier": "gold"}}, "gpuQuota": 8}, {"selector": {}, "gpuQuota": 1}],
    )
    add_service(store, pools=["shared"])
    add_service(store, pools=["shared"], namespace="gold")
    pools = {pool.name: pool for pool in observe(store).snapshot.pools}
    assert {entry.namespace: entry.gpu_quota for entry in pools["shared"].admissions} == {"gold": 8, "team": 1}


def test_a_service_that_is_being_deleted_is_not_there() -> None:
    store = make_world()
    add_service(store, metadata={"deletionTimestamp": "2026-11-22T11:00:00Z"})
    view = observe(store)
    assert view.snapshot.services == ()
    assert view.resources == {}


def test_pods_become_replicas() -> None:
    store = make_world()
    add_service(store)
    add_variant(store, replicas=5)
    add_claim(store, "c1", "a", [2])
    add_pod(store, "ready", claim="c1")
    add_pod(store, "starting", ready=(False,))
    add_pod(store, "pending", node=None)
    add_pod(store, "leaving", metadata={"deletionTimestamp": "2026-11-22T11:00:00Z"})
    add_pod(store, "slow", ready=(True, False))
    add_pod(store, "evicted", status={"phase": "Failed"})
    measured = Measured(gpus={"a": (reading("GPU-a-2", 1200.0), reading("GPU-a-3", 600.0))})
    (service,) = observe(store, measured).snapshot.services
    (variant,) = service.running
    assert (variant.name, variant.placement, variant.desired) == ("chat-00000000", TP1, 5)
    replicas = {replica.name: replica for replica in variant.replicas}
    assert {name: replica.phase for name, replica in replicas.items()} == {
        "ready": ReplicaPhase.READY,
        "starting": ReplicaPhase.STARTING,
        "pending": ReplicaPhase.PENDING,
        "leaving": ReplicaPhase.DRAINING,
        "slow": ReplicaPhase.STARTING,
    }
    assert replicas["ready"].gpus == ("GPU-a-2",)
    assert replicas["ready"].clock_mhz == 1200.0
    assert replicas["starting"].clock_mhz is None
    assert (replicas["slow"].ready_engines, replicas["slow"].queue_seconds) == (1, 2.5)


def test_a_variant_has_what_its_ready_pods_did() -> None:
    store = make_world()
    add_service(store)
    add_variant(store, replicas=2)
    add_pod(store, "ready")
    add_pod(store, "starting", ready=(False,))
    sample = LiveSample(age_seconds=1.0, seconds=60.0, engines=1, rate=2.0, requests=120.0)
    (service,) = observe(store, Measured(samples={frozenset({"ready"}): sample})).snapshot.services
    assert service.running[0].observed == sample
    (service,) = observe(store, Measured()).snapshot.services
    assert service.running[0].observed is None


def test_gpus_behind_a_device_plugin_are_known_only_when_all_are_held() -> None:
    store = make_world()
    add_service(store)
    add_variant(store)
    add_pod(store, "one", node="b", limits={"nvidia.com/gpu": "1"})
    two = (reading("GPU-b-0", 900.0), reading("GPU-b-1", 1900.0))
    (service,) = observe(store, Measured(gpus={"b": two})).snapshot.services
    assert service.running[0].replicas[0].gpus == ()
    (service,) = observe(store, Measured(gpus={"b": two[:1]})).snapshot.services
    assert service.running[0].replicas[0].gpus == ("GPU-b-0",)
    assert service.running[0].replicas[0].clock_mhz == 900.0


def test_a_variant_of_another_wish_is_outdated() -> None:
    store = make_world()
    add_service(store)
    add_variant(store, **{"shoal.dev/identity": "something else"})
    (service,) = observe(store).snapshot.services
    assert service.running[0].outdated


def test_deployments_of_others_are_not_ours() -> None:
    store = make_world()
    add_service(store)
    metadata = {"ownerReferences": [{"uid": "somebody", "controller": True}]}
    add_deployment(store, "chat", "00000000", 1, {"shoal.dev/configuration": dump_placement(TP1)}, **metadata)
    (service,) = observe(store).snapshot.services
    assert service.running == ()


def test_memory_comes_from_the_status_until_there_is_one() -> None:
    store = make_world()
    add_service(store, status={"memory": {"target": [STATUS_TARGET], "lastMoveAt": "1970-01-01T00:10:00Z"}})
    (service,) = observe(store).snapshot.services
    assert service.memory.target == (PlacedReplicas(TP1, 3),)
    assert service.memory.last_move_at == 600.0
    (service,) = observe(store, chat=Memory(target=())).snapshot.services
    assert service.memory.target == ()


def test_gpus_of_a_service_that_cannot_be_planned_are_not_free() -> None:
    """Its class was deleted while it runs: others must not be given its GPUs."""
    store = make_world()
    add_service(store, engine={"class": "gone"})
    add_variant(store)
    labels = {
        "app.kubernetes.io/managed-by": "shoal",
        "shoal.dev/model-service": "chat",
        "shoal.dev/variant": "00000000",
    }
    add_claim(store, "c1", "a", [0], pod="p", labels=labels)
    (pool,) = observe(store).snapshot.pools
    assert pool.stock is not None
    assert (pool.stock.existing, pool.stock.usable) == (4, 3)


def test_an_inventory_that_could_not_be_read_is_unknown() -> None:
    store = make_world()
    add_pool(store, "l40s", accelerator="NVIDIA-L40S", claim={"extendedResource": "nvidia.com/gpu"})
    view = observe(store, Measured(foreign=None))
    assert {pool.name: pool.stock is None for pool in view.snapshot.pools} == {"h100": False, "l40s": True}


def test_failures_are_told_with_numbers() -> None:
    store = make_world()
    add_service(store)
    add_variant(store)
    crashed = {
        "containerStatuses": [
            {
                "name": "engine-0",
                "ready": False,
                "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": "Error", "message": "CUDA out of memory"}},
            }
        ]
    }
    add_pod(store, "crashing", status=crashed, ready=(False,))
    add_pod(store, "pending", node=None)
    add_pod(store, "fine")
    failures = observe(store).failures[CHAT]
    assert failures == {"crashing": "engine-0 restarted 3 times: CUDA out of memory", "pending": "no GPU"}


def test_a_thousand_broken_services_do_not_hide_one() -> None:
    store = make_world()
    for index in range(200):
        add_service(store, f"broken-{index}", model={"name": "--evil"})
    add_service(store, "good")
    view = observe(store)
    assert [service.key.name for service in view.snapshot.services] == ["good"]
    assert len(view.problems) == 200
    assert store.count(MODEL_SERVICE) == 201
