"""Matching tasks with workers that have room.

There is one order: priority, then age. A fresh task may go straight to a waiting worker when this replica knows of
nothing older for it (`reserve`, called while the task is being decided on); else it waits in its table, and the pump
claims from there for whoever has room. `_backlog` is what this replica knows to be waiting, by type and build: a sort
stays in it until a claim comes back short, and every one is looked at again each poll, since an empty claim proves
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog

from stepwell_server import refusals
from stepwell_server.dispatch.resting import Key, Queue, Resting
from stepwell_server.engine.committer import Claim
from stepwell_server.engine.committer.protocols import Queues, Rationed, Reservation
from stepwell_server.model.tasks import WORKERS_KINDS, TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.sessions import Room, TaskKey, WorkerSession
    from stepwell_server.engine.committer import Committers
    from stepwell_server.model.tasks import AnyGrant, Task
    from stepwell_server.model.workers import Sort
    from stepwell_server.settings import Settings

_log = structlog.get_logger("stepwell.matching")
_CLAIMERS_AT_ONCE = 4
_MOST_TASKS = 256


class Matcher:
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        granted: Callable[[WorkerSession, list[AnyGrant]], None],
        queues: Queues,
        clock: Clock,
    ) -> None:
        self._poll_seconds = settings.dispatch_poll_seconds
        self._granted = granted
        self._rings: dict[Queue, list[WorkerSession]] = {}
        self._backlog: dict[tuple[int, str, int], dict[Sort, int]] = {}
        self._reserved: dict[TaskKey, tuple[WorkerSession, Task]] = {}
        self._version = 0
        self._turn = 0
        self._queues = queues
        self._clock = clock
        self._resting = Resting(clock)
        self._wake = asyncio.Event()
        self._committers: Committers | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, committers: Committers) -> None:
        """Begins to claim."""
        self._committers = committers
        self._task = asyncio.create_task(self._pump(), name="matching")

    async def stop(self) -> None:
        """Claims no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # --- who is there -----------------------------------------------------------------------------------------------

    def join(self, session: WorkerSession) -> None:
        """A worker that takes tasks."""
        for queue in session.hello.task_queues:
            ring = self._rings.setdefault((session.namespace_id, queue), [])
            if session not in ring:
                ring.append(session)
        self.look(session)

    def leave(self, session: WorkerSession) -> None:
        """A worker that takes none any more."""
        for queue in session.hello.task_queues:
            ring = self._rings.get((session.namespace_id, queue), [])
            if session in ring:
                ring.remove(session)
            if not ring:
                self._rings.pop((session.namespace_id, queue), None)
        for queue, kind, sort in _taken_by(session):
            if not self._is_taken((session.namespace_id, queue, kind, *sort)):
                self._drop((session.namespace_id, queue, kind), sort)

    def look(self, session: WorkerSession) -> None:
        """Looks for tasks that waited before the worker came."""
        keys = ((session.namespace_id, queue, kind, *sort) for queue, kind, sort in _taken_by(session))
        self._mark([key for key in keys if key[:2] in self._rings])

    def mark(self, keys: Iterable[Key]) -> None:
        """Tasks wait, or may wait. Those that nobody here takes are left to whoever does, and looks when he comes."""
        told = list(keys)
        self._queues.walks.disturb(key[:3] for key in told)
        self._mark([key for key in told if self._is_taken(key)])

    def _mark(self, keys: list[Key]) -> None:
        self._version += 1
        for namespace_id, queue, kind, type_, build in keys:
            self._backlog.setdefault((namespace_id, queue, kind), {})[type_, build] = self._version
        if keys:
            self._resting.disturb(keys)
            self._wake.set()

    def _is_taken(self, key: Key) -> bool:
        namespace_id, queue, kind, *sort = key
        ring = self._rings.get((namespace_id, queue), ())
        return any(tuple(sort) in session.takes[kind] for session in ring)

    def settings_changed(self) -> None:
        """Something else is set for some queues, or the clock was moved: all may give something."""
        self._resting.clear()
        self._wake.set()

    def freed(self) -> None:
        """A worker has room again."""
        if self._backlog:
            self._wake.set()

    def rooms(self, queue: Queue, kind: TaskKind) -> list[Room]:
        """What each of this replica's workers can take on of a kind from a queue; those who take none are left out."""
        rooms = [session.room(kind, queue[1]) for session in self._rings.get(queue, ())]
        return [room for room in rooms if room.most]

    # --- the straight way -------------------------------------------------------------------------------------------

    def reserve(self, task: Task) -> Reservation | None:
        """A place for a fresh task, at a worker for which nothing older is known to wait.

        There is none in a queue whose rate is limited: only a claim may take out of its bucket.
        """
        ring = self._rings.get((task.namespace_id, task.task_queue))
        if ring is None or self._queues.is_limited(task.namespace_id, task.task_queue):
            return None
        waiting = self._backlog.get((task.namespace_id, task.task_queue, task.kind), {})
        for place, session in enumerate(ring):
            takes = session.takes[task.kind]
            if (task.type, task.build_id) not in takes or not session.free(task.kind, task.task_queue):
                continue
            if waiting and not takes.isdisjoint(waiting):
                continue
            self.unreserve((task.run_key, task.ordinal))
            session.occupy(task.kind, task.task_queue)
            self._reserved[task.run_key, task.ordinal] = (session, task)
            ring.append(ring.pop(place))
            return Reservation(session.session_id, session.hello.worker_id, session.hello.builds)
        return None

    def unreserve(self, key: TaskKey) -> WorkerSession | None:
        """Ends a reservation, and answers for which stream it was."""
        found = self._reserved.pop(key, None)
        if found is None:
            return None
        session, task = found
        session.vacate(task.kind, task.task_queue)
        return session

    # --- the way through the table ----------------------------------------------------------------------------------

    async def _pump(self) -> None:
        quiet_until = time.monotonic() + self._poll_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(quiet_until - time.monotonic(), self._resting.seconds())):
                    await self._wake.wait()
            # A queue that has rested is no reason to put off the look at what no hint told of.
            is_quiet = not self._wake.is_set() and time.monotonic() >= quiet_until
            if is_quiet:
                for session in {id(each): each for ring in self._rings.values() for each in ring}.values():
                    self.look(session)
            if is_quiet or self._wake.is_set():
                quiet_until = time.monotonic() + self._poll_seconds
            self._wake.clear()
            try:
                while await self._round():
                    pass
            except Exception:  # noqa: BLE001 - matching goes on
                _log.exception("matching failed")

    async def _round(self) -> bool:
        """Claims once for some of those who have room, queues in turn. True if another round may bring more."""
        self._turn += 1
        self._resting.look()
        queues = [queue for queue in self._rings if not self._resting.is_resting(queue)]
        first = self._turn % len(queues) if queues else 0
        claims = [
            self._claim(session, claim, versions)
            for queue in queues[first:] + queues[:first]
            for kind in WORKERS_KINDS
            for session, claim, versions in self._claims(queue, kind)
        ]
        return any(await asyncio.gather(*claims))

    def _claims(self, queue: Queue, kind: TaskKind) -> Iterator[tuple[WorkerSession, Claim, dict[Sort, int]]]:
        """What is to be claimed from a queue; the places are occupied as it goes."""
        namespace_id, name = queue
        waiting = self._backlog.get((namespace_id, name, kind))
        ring = self._rings.get(queue, [])
        left = _CLAIMERS_AT_ONCE
        for session in list(ring) if waiting else ():
            sorts = self._resting.awake((namespace_id, name, kind), session.takes[kind].intersection(waiting or ()))
            most = min(session.free(kind, name), _MOST_TASKS)
            if not sorts or not most or not waiting:
                continue
            claim = Claim(
                namespace_id,
                session.namespace,
                name,
                kind,
                tuple({each for each, _ in sorts}),
                session.session_id,
                session.hello.worker_id,
                tuple({build for _, build in sorts if build}),
                most,
            )
            session.occupy(kind, name, most)
            ring.append(ring.pop(ring.index(session)))
            yield session, claim, {sort: waiting[sort] for sort in sorts}
            left -= 1
            if not left:
                return

    async def _claim(self, session: WorkerSession, claim: Claim, versions: dict[Sort, int]) -> bool:
        """Claims; whatever comes of it, places that stay empty are given back. False if it failed."""
        if self._committers is None:
            raise AssertionError("not started")
        grants: list[AnyGrant] = []
        try:
            answer = await self._committers.submit(claim)
            grants = answer if isinstance(answer, list) else []
        except refusals.Refusal as refusal:
            _log.warning("claim failed", reason=refusal.reason)
            return False
        finally:
            session.vacate(claim.kind, claim.task_queue, claim.most)
            # Also without any: news of its waiting runs may have found all places taken meanwhile.
            self._granted(session, grants)
        if isinstance(grants, Rationed):
            self._rest(claim, grants, versions)
        elif len(grants) < claim.most:
            self._forget((claim.namespace_id, claim.task_queue, claim.kind), versions)
        return True

    def _rest(self, claim: Claim, grants: Rationed, versions: dict[Sort, int]) -> None:
        if not grants.of_keys:
            self._resting.rest((claim.namespace_id, claim.task_queue), grants.next_time)
            return
        place = (claim.namespace_id, claim.task_queue, claim.kind)
        keys = [(*place, *sort) for sort in versions]
        self._resting.rest_sorts(keys, grants.next_time)
        # What was marked meanwhile may be of a key that was passed already.
        backlog = self._backlog.get(place, {})
        self._resting.disturb(
            key for key, sort in zip(keys, versions, strict=True) if backlog.get(sort) != versions[sort]
        )

    def _forget(self, queue: tuple[int, str, int], versions: dict[Sort, int]) -> None:
        """Sorts of which nothing waits, unless they were marked meanwhile."""
        for sort, version in versions.items():
            if self._backlog.get(queue, {}).get(sort) == version:
                self._drop(queue, sort)

    def _drop(self, queue: tuple[int, str, int], sort: Sort) -> None:
        waiting = self._backlog.get(queue, {})
        waiting.pop(sort, None)
        if not waiting:
            self._backlog.pop(queue, None)


def _taken_by(session: WorkerSession) -> Iterator[tuple[str, TaskKind, Sort]]:
    """All that a session takes: of which queue, kind and sort."""
    return (
        (queue, kind, sort)
        for queue in session.hello.task_queues
        for kind in WORKERS_KINDS
        for sort in session.takes[kind]
    )
