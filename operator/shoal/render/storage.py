"""Volumes of an engine pod: the model, the cache, shared memory, and a place for temporary files."""

from __future__ import annotations

from typing import Any, Final

from shoal.api import defaults
from shoal.api.engine_class import EngineClass
from shoal.api.model_service import ModelService
from shoal.render.recipe import source_kind

CACHE_PATH: Final = "/cache"
MODEL_PATH: Final = "/model"
TEMPORARY_PATH: Final = "/tmp"
TEMPORARY_SIZE: Final = "10Gi"  # sockets, lock files, compiled kernels; the model goes into the cache

Volume = dict[str, Any]


def make_volumes(service: ModelService, engine: EngineClass) -> list[Volume]:
    """Volumes of the pod."""
    resources = engine.spec.resources
    shm = (resources and resources.shm) or defaults.ENGINE_SHM
    volumes: list[Volume] = [
        _cache(engine),
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm}},
        {"name": "tmp", "emptyDir": {"sizeLimit": TEMPORARY_SIZE}},
    ]
    model = _model(service, engine)
    return [*volumes, model] if model else volumes


def make_mounts(service: ModelService) -> list[dict[str, Any]]:
    """Where an engine finds them. The root of its file system is read-only."""
    mounts: list[dict[str, Any]] = [
        {"name": "cache", "mountPath": CACHE_PATH},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": TEMPORARY_PATH},
    ]
    if source_kind(service) != "HuggingFace":
        mounts.append({"name": "model", "mountPath": MODEL_PATH, "readOnly": True})
    return mounts


def make_storage_environment(service: ModelService) -> dict[str, str]:
    """Variables that send every cache to a writable place, and keep a local model from asking the network."""
    offline = {} if source_kind(service) == "HuggingFace" else {"HF_HUB_OFFLINE": "1"}
    return {
        "HOME": TEMPORARY_PATH,
        "USER": "engine",  # libraries ask for the user's name, and this user ID has no entry in the image
        "XDG_CACHE_HOME": CACHE_PATH,
        "HF_HOME": f"{CACHE_PATH}/huggingface",
        "VLLM_CACHE_ROOT": f"{CACHE_PATH}/vllm",
        **offline,
    }


def model_path(service: ModelService) -> str:
    """What `--model` gets."""
    source = service.spec.model.source
    if source is not None and source.persistent_volume_claim is not None:
        path = source.persistent_volume_claim.path
        return f"{MODEL_PATH}/{path}" if path else MODEL_PATH
    return MODEL_PATH if source_kind(service) == "OCIImage" else service.spec.model.name


def _cache(engine: EngineClass) -> Volume:
    cache = engine.spec.cache
    if cache is not None and cache.persistent_volume_claim is not None:
        claim = cache.persistent_volume_claim.claim_name
        return {"name": "cache", "persistentVolumeClaim": {"claimName": claim}}
    size = cache.empty_dir.size_limit if cache is not None and cache.empty_dir is not None else None
    return {"name": "cache", "emptyDir": {"sizeLimit": size or defaults.CACHE_SIZE}}


def _model(service: ModelService, engine: EngineClass) -> Volume | None:
    source = service.spec.model.source
    if source is not None and source.persistent_volume_claim is not None:
        claim = {"claimName": source.persistent_volume_claim.claim_name, "readOnly": True}
        return {"name": "model", "persistentVolumeClaim": claim}
    if source is not None and source.oci_image is not None:
        policy = engine.spec.image_pull_policy or "IfNotPresent"
        return {"name": "model", "image": {"reference": source.oci_image.reference, "pullPolicy": policy}}
    return None
