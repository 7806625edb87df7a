"""Which profiles an observer takes in, and for whom."""

from __future__ import annotations

from typing import Any

from objects import (
    H100,
    add_service,
    put,
    raw,
)
from observe_world import make_world, observe

from shoal.reconciler.kinds import MODEL_PROFILE

ROW: dict[str, Any] = {
    "tensorParallel": 1,
    "enginesPerGPU": 1,
    "maxNumSeqs": 256,
    "maxNumBatchedTokens": 2048,
    "kvCacheTokens": 100000.0,
    "inputTokens": {"mean": 100.0},
    "outputTokens": {"mean": 100.0},
    "steps": {"alphaMs": 3.0, "betaMsPerToken": 0.01, "gammaMsPerKVToken": 0.00001},
}
SPEC: dict[str, Any] = {
    "model": {
        "name": "Qwen/Qwen2.5-1.5B-Instruct",
        "parameterCount": 1.5e9,
        "weightsBytes": 3e9,
        "kvBytesPerToken": 28672.0,
        "maxContextTokens": 4096,
    },
    "accelerator": H100,
    "engine": {"name": "vllm", "version": "0.33.0"},
    "source": "Measured",
    "rows": [ROW],
}


def test_profiles_of_the_service_and_of_the_operator() -> None:
    store = make_world()
    add_service(store)
    for namespace in ("team", "shoal-system", "stranger"):
        head = {"apiVersion": "shoal.dev/v1alpha1", "kind": "ModelProfile"}
        put(store, MODEL_PROFILE, raw("p", namespace, **head, spec=SPEC))
    view = observe(store)
    assert {profile.namespace for profile in view.snapshot.profiles} == {"team", "shoal-system"}
    (service,) = view.snapshot.services
    assert service.max_context_tokens == 4096  # the model's own, as the profile says


def test_what_a_service_learned_counts_for_it_alone() -> None:
    """Not part of the library; and a label or an owner alone, or somebody else's UID, makes it nobody's lesson."""
    store = make_world()
    add_service(store)
    add_service(store, "other")
    evidence = {"requests": 900, "highestRate": 2.0, "percentile": 95}
    spec = {**SPEC, "source": "Learned", "rows": [{**ROW, "evidence": evidence}]}
    head = {"apiVersion": "shoal.dev/v1alpha1", "kind": "ModelProfile", "spec": spec}
    labels = {"app.kubernetes.io/managed-by": "shoal", "shoal.dev/model-service": "chat"}

    def add(name: str, owner: str | None) -> None:
        owners = [{"uid": owner, "controller": True}] if owner else []
        put(store, MODEL_PROFILE, raw(name, **head, metadata={"labels": labels, "ownerReferences": owners}))

    add("learned", "uid-team-chat")
    add("forged", "uid-team-stranger")
    add("plain", None)
    view = observe(store)
    services = {service.key.name: service for service in view.snapshot.services}
    (learned,) = services["chat"].learned
    assert learned.tally.requests == 900
    assert services["other"].learned == ()
    assert [profile.name for profile in view.snapshot.profiles] == ["plain"]
