"""Matching tasks with workers that have room.

There is one order: priority, then age. A fresh task may go straight to a waiting worker when this replica knows of
nothing older for it (`reserve`, called while the task is being decided on); else it waits in its table, and the pump
claims from there for whoever has room. `_backlog` is what this replica knows to be waiting: a key stays in it until a
claim comes back short, and every key is looked at again each poll, since an empty claim proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from stepwell_server import errors
from stepwell_server.engine.committer import Claim
from stepwell_server.engine.committer.protocols import Reservation
from stepwell_server.model.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stepwell_server.dispatch.sessions import WorkerSession
    from stepwell_server.engine.committer import Committers
    from stepwell_server.model.tasks import Grant, Task
    from stepwell_server.settings import Settings

_log = structlog.get_logger("stepwell.matching")
Key = tuple[int, str, int, str]  # namespace, queue, kind, type
Queue = tuple[int, str]
_KINDS = (TaskKind.RUN, TaskKind.ACTIVITY)
_CLAIMERS_AT_ONCE = 4
_MOST_TASKS = 256


class Matcher:
    """See the module."""

    def __init__(self, settings: Settings, granted: Callable[[WorkerSession, list[Grant]], None]) -> None:
        self._poll_seconds = settings.dispatch_poll_seconds
        self._granted = granted
        self._rings: dict[Queue, list[WorkerSession]] = {}
        self._backlog: dict[Key, int] = {}
        self._version = 0
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

    def look(self, session: WorkerSession) -> None:
        """Looks for tasks that waited before the worker came."""
        for queue in session.hello.task_queues:
            for kind in _KINDS:
                self.mark((session.namespace_id, queue, kind, each) for each in session.types(kind))

    def mark(self, keys: Iterable[Key]) -> None:
        """Tasks wait, or may wait."""
        self._version += 1
        marked = False
        for key in keys:
            if key[:2] in self._rings:
                self._backlog[key] = self._version
                marked = True
        if marked:
            self._wake.set()

    def freed(self) -> None:
        """A worker has room again."""
        if self._backlog:
            self._wake.set()

    def serves(self, queue: Queue) -> bool:
        """Whether a worker of this replica takes from that queue."""
        return queue in self._rings

    # --- the straight way -------------------------------------------------------------------------------------------

    def reserve(self, task: Task) -> Reservation | None:
        """A place for a fresh task, if nothing older is known to wait for one."""
        ring = self._rings.get((task.namespace_id, task.task_queue))
        if ring is None or (task.namespace_id, task.task_queue, task.kind, task.type) in self._backlog:
            return None
        for place, session in enumerate(ring):
            if task.type in session.type_sets[TaskKind(task.kind)] and session.free(task.kind, task.task_queue):
                slot = session.slot_for(task.kind, task.task_queue)
                if slot is None:
                    continue
                session.occupy(slot)
                ring.append(ring.pop(place))
                return Reservation(session.session_id, session.hello.worker_id, session.hello.build_id)
        return None

    # --- the way through the table ----------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_seconds)
            if not self._wake.is_set():
                for session in {id(each): each for ring in self._rings.values() for each in ring}.values():
                    self.look(session)
            self._wake.clear()
            try:
                while await self._round():
                    pass
            except errors.Refusal as refusal:
                _log.warning("claim failed", reason=refusal.reason)
            except Exception:  # noqa: BLE001 - matching goes on
                _log.exception("matching failed")

    async def _round(self) -> bool:
        """Claims once for some of those who have room. True if more may wait for somebody."""
        claims = [
            (session, claim, versions)
            for (namespace_id, queue), ring in list(self._rings.items())
            for kind in _KINDS
            for session, claim, versions in self._claims(namespace_id, queue, kind, ring)
        ]
        if not claims or self._committers is None:
            return False
        for session, claim, _ in claims:
            for _ in range(claim.most):
                slot = session.slot_for(claim.kind, claim.task_queue)
                if slot is not None:
                    session.occupy(slot)
        futures = [self._committers.submit(claim) for _, claim, _ in claims]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for (session, claim, versions), answer in zip(claims, answers, strict=True):
            self._take(session, claim, versions, answer)
        return any(not isinstance(answer, BaseException) and answer for answer in answers)

    def _claims(
        self, namespace_id: int, queue: str, kind: TaskKind, ring: list[WorkerSession]
    ) -> list[tuple[WorkerSession, Claim, dict[Key, int]]]:
        waiting = {key[3]: key for key in self._backlog if key[:3] == (namespace_id, queue, kind)}
        if not waiting:
            return []
        claims: list[tuple[WorkerSession, Claim, dict[Key, int]]] = []
        for session in list(ring):
            types = tuple(each for each in session.types(kind) if each in waiting)
            most = min(session.free(kind, queue), _MOST_TASKS)
            if not types or not most:
                continue
            hello = session.hello
            claim = Claim(
                namespace_id,
                session.namespace,
                queue,
                kind,
                types,
                session.session_id,
                hello.worker_id,
                hello.build_id,
                most,
            )
            claims.append((session, claim, {waiting[each]: self._backlog[waiting[each]] for each in types}))
            ring.append(ring.pop(ring.index(session)))
            if len(claims) == _CLAIMERS_AT_ONCE:
                break
        return claims

    def _take(self, session: WorkerSession, claim: Claim, versions: dict[Key, int], answer: object) -> None:
        grants: list[Grant] = answer if isinstance(answer, list) else []
        slot = session.slot_for(claim.kind, claim.task_queue)
        if slot is not None:
            for _ in range(claim.most - len(grants)):
                session.vacate(slot)
        if isinstance(answer, BaseException):
            return
        if len(grants) < claim.most:
            for key, version in versions.items():
                if self._backlog.get(key) == version:
                    del self._backlog[key]
        if grants:
            self._granted(session, grants)
