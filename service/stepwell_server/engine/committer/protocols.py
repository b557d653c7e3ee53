"""What the committer needs of those that hold connected workers, and what they ask of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

import msgspec

from stepwell_server.engine.change import Change
from stepwell_server.engine.fairness import Rounds
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.key_limits import Walks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stepwell_server.model.tasks import AnyGrant, Task

AnyChange = Change | JobChange


class Claim(msgspec.Struct, frozen=True, gc=False):
    """Asks for waiting tasks of one queue and kind, those first that go first. Answered with a list of Grants.

    A run that is pinned to a build comes only if that is among `builds`.
    """

    namespace_id: int
    namespace: str
    task_queue: str
    kind: int
    types: tuple[str, ...]
    session_id: UUID
    owner_id: str
    builds: tuple[str, ...]
    most: int


class Rationed(list["AnyGrant"]):
    """What a claim got of a queue whose limit leaves no more for now. `next_time` is when it gives again.

    With `of_keys` that is so of what waits there of the claim's sorts: the keys that have tokens have nothing waiting.
    """

    def __init__(self, grants: Sequence[AnyGrant], next_time: datetime, *, of_keys: bool = False) -> None:
        super().__init__(grants)
        self.next_time = next_time
        self.of_keys = of_keys


class ActivityClaim(msgspec.Struct, frozen=True, gc=False):
    """Asks for the driven activity of one queue that has waited longest. Answered with a ClaimedActivity, or None.

    `now` is the caller's time, None for the service's: what is to be had later waits on.
    """

    namespace_id: int
    namespace: str
    task_queue: str
    owner_id: str
    now: datetime | None


class Reservation(NamedTuple):
    """A place kept at a worker for a task that is just being decided on."""

    session_id: UUID
    owner_id: str
    builds: tuple[str, ...]


class Capacity(Protocol):
    """Who could take a fresh task at once."""

    def reserve(self, task: Task) -> Reservation | None:
        """A place for the task, if a worker of this replica has one and nothing older is known to wait for it."""
        ...

    def release(self, task: Task, reservation: Reservation) -> None:
        """Gives the place back: the task was not granted after all."""
        ...

    def is_here(self, session_id: UUID) -> bool:
        """Whether that worker is connected to this replica."""
        ...


class Queues(Protocol):
    """What is known of the queues for which something is set. Of most nothing is, so it must cost next to nothing."""

    def is_limited(self, namespace_id: int, task_queue: str) -> bool:
        """Whether the queue has a limit of its rate, or each of its keys has."""
        ...

    def aging_of(self, namespace_id: int, task_queue: str) -> float | None:
        """In how many seconds a task that waits in the queue gains a step of priority. None: it gains none."""
        ...

    def weights_of(self, namespace_id: int, task_queue: str) -> Mapping[str, int] | None:
        """The weights of keys that take turns in the queue; those not named weigh 1. None: no turns are taken."""
        ...

    @property
    def rounds(self) -> Rounds:
        """Whose turn it is where keys take turns."""
        ...

    @property
    def walks(self) -> Walks:
        """How far claims have looked where keys have a limit each."""
        ...

    @property
    def any_fair(self) -> bool:
        """Whether keys take turns anywhere."""
        ...


class Listener(Protocol):
    """Who must hear of what was committed."""

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """Called after each commit, in commit order, before any caller is answered. Must not block or raise.

        `position` counts the committer's batches that changed anything, from 1 on. 0: this one changed nothing, and
        must not be taken for one that did.
        """
        ...

    def unsettled(self) -> None:
        """Called when the outcome of a batch stays unknown: what is held in memory may be out of date."""
        ...


class NoCapacity:
    """Nobody is connected."""

    def reserve(self, task: Task) -> Reservation | None:
        """Nobody can."""
        del task
        return None

    def release(self, task: Task, reservation: Reservation) -> None:
        """Nothing to give back."""

    def is_here(self, session_id: UUID) -> bool:
        """Nobody is."""
        del session_id
        return False


class NoListener:
    """Nobody listens."""

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """Nobody hears."""

    def unsettled(self) -> None:
        """Nobody hears."""


class NoQueues:
    """Nothing is set for any queue."""

    any_fair = False
    rounds = Rounds()
    walks = Walks()

    def is_limited(self, namespace_id: int, task_queue: str) -> bool:
        """None is."""
        del namespace_id, task_queue
        return False

    def aging_of(self, namespace_id: int, task_queue: str) -> float | None:
        """Nothing ages."""
        del namespace_id, task_queue
        return None

    def weights_of(self, namespace_id: int, task_queue: str) -> Mapping[str, int] | None:
        """No turns are taken."""
        del namespace_id, task_queue
        return None
