"""Custom resources, read into typed ones once per version; what cannot be read is told, and stops nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from shoal.api.base import Resource
from shoal.api.convert import profile_to_domain
from shoal.api.engine_class import EngineClass
from shoal.api.errors import ApiError
from shoal.api.gpu_pool import GPUPool
from shoal.api.load import parse_object
from shoal.api.model_profile import ModelProfile
from shoal.api.model_service import ModelService
from shoal.api.profile_run import ProfileRun
from shoal.domain.profile import Profile
from shoal.reconciler.items import Item, Kind
from shoal.reconciler.kinds import ENGINE_CLASS, GPU_POOL, MODEL_PROFILE, Custom
from shoal.reconciler.store import Store
from shoal.render.names import LABEL_MANAGED_BY, MANAGER

R = TypeVar("R", bound=Resource)
_Version = tuple[int, Mapping[str, str]]


class Library:
    """Typed views of the store's custom resources. An entry is read again when its spec or annotations change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, tuple[_Version, Resource | ApiError]] = {}
        self._profiles: dict[str, tuple[int, Profile]] = {}

    def service(self, item: Item[Custom]) -> ModelService | ApiError:
        """A ModelService without its status, or why it cannot be read."""
        return self._get(ModelService, item)

    def run(self, item: Item[Custom]) -> ProfileRun | ApiError:
        """A ProfileRun without its status, or why it cannot be read."""
        return self._get(ProfileRun, item)

    def pools(self) -> dict[str, tuple[Item[Custom], GPUPool]]:
        """Every readable pool that is not being deleted."""
        return {item.name: (item, pool) for item, pool in self._all(GPU_POOL, GPUPool) if item.deleted_at is None}

    def engine_class(self, name: str) -> EngineClass | None:
        """The class of that name; None when there is none or it cannot be read."""
        item = self._store.get(ENGINE_CLASS, None, name)
        found = self._get(EngineClass, item) if item else None
        return None if isinstance(found, ApiError) else found

    def profiles(self) -> dict[str, list[Profile]]:
        """Readable profiles by namespace, but for those that a ModelService learned: they count for it alone."""
        found: dict[str, list[Profile]] = {}
        for item, resource in self._all(MODEL_PROFILE, ModelProfile):
            if is_learned(item):
                continue
            known = self._profiles.get(item.uid)
            if known is None or known[0] != item.generation:
                known = self._profiles[item.uid] = (item.generation, profile_to_domain(resource))
            found.setdefault(item.namespace or "", []).append(known[1])
        return found

    def learned_profiles(self, service: Item[Custom]) -> list[ModelProfile]:
        """What a ModelService has learned: the profiles that it controls."""
        items = self._store.of_service(MODEL_PROFILE, service.namespace or "", service.name)
        own = [item for item in items if is_learned(item) and item.owner == service.uid and item.deleted_at is None]
        found = [self._get(ModelProfile, item) for item in sorted(own, key=lambda item: item.name)]
        return [profile for profile in found if isinstance(profile, ModelProfile)]

    def forget(self, uid: str) -> None:
        """Drop what was read of an object that is gone."""
        self._read.pop(uid, None)
        self._profiles.pop(uid, None)

    def _all(self, kind: Kind[Custom], model: type[R]) -> Iterator[tuple[Item[Custom], R]]:
        for item in sorted(self._store.all(kind), key=lambda item: (item.namespace or "", item.name)):
            found = self._get(model, item)
            if not isinstance(found, ApiError):
                yield item, found

    def _get(self, model: type[R], item: Item[Custom]) -> R | ApiError:
        version = item.generation, item.annotations
        known = self._read.get(item.uid)
        if known is None or known[0] != version:
            known = self._read[item.uid] = version, _parse(model, item)
        answer = known[1]
        assert isinstance(answer, model | ApiError)
        return answer


def is_learned(item: Item[Custom]) -> bool:
    """Whether a ModelProfile is what a ModelService learned: the operator's own writing, kept for after a restart."""
    return item.labels.get(LABEL_MANAGED_BY) == MANAGER and item.owner is not None


def _parse(model: type[R], item: Item[Custom]) -> R | ApiError:
    wish = {key: value for key, value in item.body.raw.items() if key != "status"}
    try:
        return parse_object(model, wish)
    except ApiError as error:
        return error
