"""What every service learned from its traffic: in memory between decisions, read from its ModelProfiles at first."""

from __future__ import annotations

from shoal.domain.live import Learned
from shoal.domain.plan import Decision
from shoal.domain.service import Service
from shoal.planner.learning import learn
from shoal.reconciler.items import Item
from shoal.reconciler.kinds import Custom
from shoal.reconciler.library import Library
from shoal.render.learned import read_learned


class Lessons:
    """By UID of the ModelService. Only the leader learns."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._known: dict[str, tuple[Learned, ...]] = {}

    def of(self, service: Item[Custom]) -> tuple[Learned, ...]:
        """What is known of a service; what its ModelProfiles say as long as nothing was learned in this process."""
        known = self._known.get(service.uid)
        if known is None:
            profiles = self._library.learned_profiles(service)
            known = self._known[service.uid] = tuple(one for profile in profiles for one in read_learned(profile))
        return known

    def learn(self, service: Service, decision: Decision, at: float) -> None:
        """Take in what a decision compared, unless what it began from was forgotten meanwhile."""
        if self._known.get(service.uid) is service.learned:
            self._known[service.uid] = learn(service, decision, at)

    def forget(self, uid: str) -> None:
        """The service is gone, or somebody deleted what it had learned."""
        self._known.pop(uid, None)

    def reset(self) -> None:
        """Another process has learned meanwhile."""
        self._known.clear()
