"""Keeps what services learned in ModelProfiles: rarely, only what changed, never over what is somebody else's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from shoal.api.model_service import ModelService
from shoal.domain.service import Service
from shoal.reconciler.apply import NameTakenError, Writer
from shoal.reconciler.clock import Now, steady
from shoal.reconciler.errors import ClusterError
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import MODEL_PROFILE, Custom
from shoal.reconciler.lessons import Lessons
from shoal.reconciler.store import Store
from shoal.reconciler.workqueue import RequeueError
from shoal.render.changes import is_close
from shoal.render.learned import make_learned_profiles

logger = logging.getLogger(__name__)

KEEP_SECONDS: Final = 60.0


class Keeper:
    """A profile that cannot be written is told and stops nothing: what was learned stays in memory."""

    def __init__(self, writer: Writer, store: Store, lessons: Lessons, now: Now = steady) -> None:
        self._writer, self._store, self._lessons, self._now = writer, store, lessons, now
        self._tried: dict[tuple[str, str], float] = {}  # UID of the service, name -> when

    async def keep(self, item: Item[Custom], resource: ModelService, service: Service) -> str:
        """Write what is due; answer what is wrong, in words, or nothing."""
        wrong = []
        for body in self._render(item, resource, service):
            name = body["metadata"]["name"]
            if self._is_due(item, name, body["spec"]):
                self._tried[item.uid, name] = self._now()
                try:
                    await self._writer.save_profile(body, item.uid)
                except NameTakenError as error:
                    wrong.append(f"what was learned is not kept: {error}")
                except (ClusterError, RequeueError) as error:
                    logger.warning("%s: ModelProfile %s: %s", service.key, name, error)
        return "; ".join(wrong)

    def forget(self, uid: str) -> None:
        """The service is gone."""
        self._tried = {key: at for key, at in self._tried.items() if key[0] != uid}

    def _render(self, item: Item[Custom], resource: ModelService, service: Service) -> list[dict[str, Any]]:
        try:
            return make_learned_profiles(resource, service, self._lessons.of(item))
        except ValueError as error:
            logger.warning("%s: what was learned cannot be kept: %s", service.key, error)
            return []

    def _is_due(self, item: Item[Custom], name: str, spec: Mapping[str, Any]) -> bool:
        """Whether some number is more than 10 % from what stands there, and the last write lies back."""
        at = self._tried.get((item.uid, name))
        if at is not None and self._now() - at < KEEP_SECONDS:
            return False
        known = self._store.get(MODEL_PROFILE, item.namespace, name)
        return known is None or known.owner != item.uid or not is_close(known.body.raw.get("spec"), spec)
