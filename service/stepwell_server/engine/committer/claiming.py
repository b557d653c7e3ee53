"""Claims of driven activities within a batch: what they find, and who gets which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine import activity_claims
from stepwell_server.store import batch_reads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from stepwell_server.engine.change import Change
    from stepwell_server.engine.committer.protocols import ActivityClaim
    from stepwell_server.store.connection import Connection


class Claiming:
    """See the module. `stale` are tasks in the table that nobody can do any more; `held` answers who should wait."""

    def __init__(self, connection: Connection, changes: dict[int, Change], now: datetime, held: object) -> None:
        self._connection = connection
        self._changes = changes
        self._now = now
        self._held = held
        self._found: dict[int, tuple[int, int]] = {}
        self.stale: list[tuple[int, int]] = []

    async def claim(self, claims: Iterable[tuple[int, ActivityClaim]]) -> None:
        """Finds an activity for each claim, with one statement for those of one queue and time.

        A transaction does not skip its own locks: what was found for one time is left out for the next.
        """
        queues: dict[tuple[int, str, datetime], list[int]] = {}
        for place, claim in claims:
            queues.setdefault((claim.namespace_id, claim.task_queue, claim.now or self._now), []).append(place)
        taken: set[tuple[int, int]] = set()
        for queue, places in queues.items():
            found = await batch_reads.claim_driven_activities(self._connection, *queue, len(places) + len(taken))
            mine = [task for task in found if task not in taken][: len(places)]
            taken.update(mine)
            self._found.update(zip(places, mine, strict=False))

    @property
    def tasks(self) -> Iterator[tuple[int, int]]:
        """The activities found, by run and ordinal."""
        yield from self._found.values()

    def granted(self, place: int, claim: ActivityClaim) -> object:
        """The activity that a claim gets, or None. Who found one that is locked, or gone, looks again."""
        if place not in self._found:
            return None
        key, ordinal = self._found[place]
        change = self._changes.get(key)
        if change is None:
            return self._held
        change.begin()
        answer = activity_claims.claim(change, ordinal, claim.owner_id, claim.now or self._now)
        if answer is None:
            self.stale.append((key, ordinal))
            return self._held
        return answer
