"""What this replica knows of the queues for which something is set: read as a whole, now and then and after a hint.

Nothing is asked for a queue when a task comes or goes. So a change counts here at once, on another replica when the
hint comes, and at the latest after a period. How much a limit leaves is taken from the queue's row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.engine.fairness import Rounds
from stepwell_server.engine.key_limits import Walks
from stepwell_server.store import queue_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from stepwell_server.model.queue_settings import QueueSettings
    from stepwell_server.store.database import Database


class KnownQueues:
    """See the module. `changed` is called when something else is set than before."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[int, str], QueueSettings] = {}
        self._weights: dict[tuple[int, str], dict[str, int] | None] = {}
        self.rounds = Rounds()
        self.walks = Walks()
        self.changed: Callable[[], None] = lambda: None

    async def look(self) -> int:
        """Reads what is set; answers for how many queues. Raises Lost."""
        rows = await queue_settings.read_all(self._database)
        known = {(row.namespace_id, row.task_queue): row for row in rows}
        versions = {queue: row.version for queue, row in self._known.items()}
        self._known = known
        self._weights = {queue: row.weights for queue, row in known.items() if row.fairness_weights is not None}
        self.rounds.keep(set(self._weights))
        if versions != {queue: row.version for queue, row in known.items()}:
            self.walks.clear()
            self.changed()
        return len(known)

    async def mark_late(self, since: datetime) -> None:
        """Gives the empty key to what was queued by replicas that had not heard that keys take turns, set since then.

        Where each key has a limit, nothing is given without a key. Raises Lost.
        """
        for row in list(self._known.values()):
            if row.key_rate_limit is not None and row.update_time > since:
                await queue_settings.mark_without_key(self._database, row.namespace_id, row.task_queue)

    def version_of(self, namespace_id: int, task_queue: str) -> int:
        """Which settings of a queue are known; 0 if there are none."""
        found = self._known.get((namespace_id, task_queue))
        return 0 if found is None else found.version

    def is_limited(self, namespace_id: int, task_queue: str) -> bool:
        """Whether the queue has a limit of its rate, or each of its keys has."""
        if not self._known:
            return False
        found = self._known.get((namespace_id, task_queue))
        return found is not None and found.is_limited

    def aging_of(self, namespace_id: int, task_queue: str) -> float | None:
        """In how many seconds a task that waits in the queue gains a step of priority. None: it gains none."""
        if not self._known:
            return None
        found = self._known.get((namespace_id, task_queue))
        return None if found is None else found.aging_seconds

    def weights_of(self, namespace_id: int, task_queue: str) -> dict[str, int] | None:
        """The weights of keys that take turns in the queue; those not named weigh 1. None: no turns are taken."""
        return self._weights.get((namespace_id, task_queue)) if self._weights else None

    @property
    def any_fair(self) -> bool:
        """Whether keys take turns anywhere."""
        return bool(self._weights)
