"""The workers of this replica, as one: what the committer, the API and other replicas see of them.

It is the committer's Capacity (a fresh task may go straight to a waiting worker) and its Listener (what was committed
is told to those whom it concerns). A session that another replica holds is told by a hint, and found again by the
reconciliation that runs behind: a lost hint costs time only.

| module | its idea |
|---|---|
| registry | sessions: opened, resumed, attached, detached, closed; tasks given back |
| matching | tasks to workers with room |
| resting | what a rate limit keeps from them for now |
| queue_settings | for which queues something is set |
| pushes | what workers are told |
| upkeep | acknowledgements, silence, expiry, lost news |
| beats | heartbeats, written in batches |
| run_calls | queries and updates of this replica's callers |
| deliveries | queries and updates brought to those who hold the runs |
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from stepwell_server import errors
from stepwell_server.dispatch.assignments import Reader
from stepwell_server.dispatch.background import Background
from stepwell_server.dispatch.beats import Beats
from stepwell_server.dispatch.matching import Matcher
from stepwell_server.dispatch.messages import RecordedStep, TaskNotice
from stepwell_server.dispatch.pushes import HintSink, Pushes
from stepwell_server.dispatch.queue_settings import KnownQueues
from stepwell_server.dispatch.registry import MOVE_SECONDS, Registry
from stepwell_server.dispatch.resting import Key
from stepwell_server.dispatch.run_calls import RunCalls
from stepwell_server.dispatch.upkeep import Upkeep
from stepwell_server.engine.change import Change
from stepwell_server.engine.committer.protocols import Claim
from stepwell_server.engine.grants import ReturnTask, ref_to, return_of
from stepwell_server.model.tasks import WORKERS_KINDS, TaskKind
from stepwell_server.model.workers import Hello, Session, unpack_hello
from stepwell_server.store import recall

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.sessions import Room, TaskKey, WorkerSession
    from stepwell_server.dispatch.watches import Watches
    from stepwell_server.engine.committer import Committers
    from stepwell_server.engine.committer.protocols import AnyChange, Reservation
    from stepwell_server.model.tasks import AnyGrant, Task
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database


IsOwn = Callable[[Session], bool]
"""Whether a caller may use a session."""
_LOST = "commits were lost"


class Dispatcher:
    """See the module."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        clock: Clock,
        real_clock: Clock,
        watches: Watches | None = None,
    ) -> None:
        self.watches = watches
        self._background = Background()
        self._clock = clock
        self.reader = Reader(database)
        self.beats = Beats(database, clock, real_clock, settings)
        self.queues = KnownQueues(database)
        self.matcher = Matcher(settings, self._granted, self.queues, clock)
        self.queues.changed = self.matcher.settings_changed
        self.registry = Registry(settings, real_clock, self.reader, self.matcher, self._background)
        self.sessions = self.registry.sessions
        self.pushes = Pushes(settings, self.registry, self.reader, self.matcher, self._background)
        self.run_calls = RunCalls(database, real_clock, self.reader, self.registry, self.pushes, self._background)
        self._upkeep = Upkeep(settings, self.registry, self.pushes, self.beats, self.reader, self._background)
        self._marked = asyncio.Event()
        self._is_leaving = False

    @property
    def committers(self) -> Committers:
        """The committers, once started."""
        return self.registry.committers

    async def start(self, committers: Committers, hints: HintSink | None) -> None:
        """Begins to hand out tasks."""
        self.registry.start(committers)
        self.pushes.start(hints)
        self.beats.start()
        self.matcher.start(committers)
        self._upkeep.start()

    async def drain(self) -> None:
        """Asks every worker to connect anew, elsewhere, and assigns nothing more."""
        self._is_leaving = True
        self._wake_unary()
        await self.registry.send_away(list(self.sessions.values()))

    async def stop(self) -> None:
        """Ends every stream. Sessions live on in the database, for other replicas."""
        for session in self.sessions.values():
            session.outbox.close()
        await self.matcher.stop()
        await self._background.stop()
        await self.beats.stop()
        await self.reader.close()

    # --- Capacity ---------------------------------------------------------------------------------------------------

    def reserve(self, task: Task) -> Reservation | None:
        """See `Matcher.reserve`."""
        return self.matcher.reserve(task)

    def release(self, task: Task, reservation: Reservation) -> None:
        """Gives a reserved place back."""
        del reservation
        session = self.matcher.unreserve((task.run_key, task.ordinal))
        if session is not None:
            self.pushes.freed(session)

    def is_here(self, session_id: UUID) -> bool:
        """Whether the session is attached to this replica, or was until a moment ago."""
        return session_id in self.sessions

    def _granted(self, session: WorkerSession, grants: list[AnyGrant]) -> None:
        self.pushes.granted(session, grants)

    def rooms(self, namespace_id: int, task_queue: str) -> dict[TaskKind, list[Room]]:
        """See `Matcher.rooms`."""
        return {kind: self.matcher.rooms((namespace_id, task_queue), kind) for kind in WORKERS_KINDS}

    # --- Listener ---------------------------------------------------------------------------------------------------

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """Tells workers what was committed; what concerns other replicas goes out as a hint."""
        if self.watches is not None:
            self.watches.committed(committer, position, changes)
        waiting: dict[Key, None] = {}
        for change in changes:
            news = change.news
            for grant in news.grants:
                self.pushes.granted_directly(grant)
            for task in news.tasks:
                if task.ordinal in change.tasks:
                    waiting[task.namespace_id, task.task_queue, task.kind, task.type, task.build_id] = None
            for session_id, ordinal, token, reason in news.cancels:
                self.pushes.cancel(session_id, TaskNotice(change.key, ordinal, token, reason))
            for session_id, ordinal, token, reason in news.revokes:
                self.pushes.revoke(session_id, TaskNotice(change.key, ordinal, token, reason))
            if isinstance(change, Change):
                self.pushes.changed(change)
                self.run_calls.committed(change)
        if not all(change.is_open for change in changes):
            self.pushes.hint("ends", None)
        if waiting:
            self.matcher.mark(waiting)
            self._wake_unary()
            self.pushes.hint("tasks", [list(key) for key in waiting])

    def unsettled(self) -> None:
        """What is held in memory may be out of date: look everything up."""
        self._upkeep.doubt()
        if self.watches is not None:
            self.watches.hint()

    def take_back_runs(self) -> list[ReturnTask]:
        """Workers give up their runs, a part of which is lost; answers what puts them into queues again."""
        orders = []
        for session in list(self.sessions.values()):
            for key, held in [each for each in session.held.items() if not each[0][1]]:
                session.outbox.revoke(TaskNotice(*key, held.token, "EVICTED"))
                session.drop(key)
                ref = ref_to(*key, session.namespace_id, session.namespace)
                orders.append(ReturnTask(ref, 0, held.token, session.session_id, counts=False, reason=_LOST))
        return orders

    def hinted(self, kind: str, data: object) -> None:
        """A hint from another replica."""
        if kind == "tasks" and isinstance(data, list):
            self.matcher.mark(tuple(key) for key in data)
            self._wake_unary()
        elif kind == "ends" and self.watches is not None:
            self.watches.hint()
        elif kind == "run" and isinstance(data, list):
            session = self.sessions.get(UUID(data[0]))
            if session is not None:
                self._background.spawn(self.pushes.catch_up(session, data[1]))
        elif kind in ("cancel", "revoke") and isinstance(data, list):
            session_id, notice = UUID(data[0]), TaskNotice(*data[1:])
            if session_id in self.sessions:
                (self.pushes.cancel if kind == "cancel" else self.pushes.revoke)(session_id, notice)
        elif kind == "moved" and isinstance(data, str):
            self.registry.moved(UUID(data))
        elif kind in ("called", "answered") and isinstance(data, int):
            self.run_calls.hinted(kind, data)

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def open(
        self, namespace_id: int, namespace: str, hello: Hello, *, streaming: bool, owner: str | None = None
    ) -> WorkerSession:
        """See `Registry.open`."""
        return await self.registry.open(namespace_id, namespace, hello, streaming=streaming, owner=owner)

    async def resume(  # noqa: PLR0917 - what a hello says, and who says it
        self,
        session_id: UUID,
        namespace_id: int,
        namespace: str,
        hello: Hello,
        named: dict[TaskKey, int],
        owner: str | None = None,
    ) -> tuple[WorkerSession, list[tuple[TaskKey, int]]]:
        """See `Registry.resume`. Refuses with SESSION_EXPIRED."""
        return await self.registry.resume(session_id, namespace_id, namespace, hello, named, owner)

    def keep(self, session: WorkerSession, kept: list[tuple[TaskKey, int]]) -> None:
        """See `Pushes.keep`."""
        self.pushes.keep(session, kept)

    def attach(self, session: WorkerSession) -> None:
        """See `Registry.attach`. A replica that leaves lets the worker finish what it has, and come to know so."""
        if self._is_leaving:
            session.outbox.rotate(MOVE_SECONDS)
        else:
            self.registry.attach(session)

    def detach(self, session: WorkerSession) -> None:
        """See `Registry.detach`."""
        self.registry.detach(session)

    async def close(self, session: WorkerSession) -> None:
        """See `Registry.close`."""
        await self.registry.close(session)

    async def close_unary(self, row: Session, namespace: str) -> bool:
        """See `Registry.close_unary`."""
        return await self.registry.close_unary(row, namespace)

    def lose(self, session: WorkerSession) -> None:
        """See `Registry.lose`."""
        self.registry.lose(session)

    def give_back(self, session: WorkerSession, key: TaskKey, token: int, *, reason: str) -> None:
        """See `Registry.give_back`; no attempt is spent."""
        self.registry.give_back(session, key, token, counts=False, reason=reason)

    def freed(self, session: WorkerSession) -> None:
        """See `Pushes.freed`."""
        self.pushes.freed(session)

    # --- unary claims -----------------------------------------------------------------------------------------------

    def _wake_unary(self) -> None:
        self._marked.set()
        self._marked = asyncio.Event()

    async def tasks_marked(self, seconds: float) -> None:
        """Waits until tasks have come that may be had, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._marked.wait(), seconds)

    @property
    def is_leaving(self) -> bool:
        """Whether this replica is being stopped."""
        return self._is_leaving

    def seconds_until(self, moment: datetime) -> float:
        """How long it is until a moment of the service's clock."""
        return max(0.0, (moment - self._clock.now()).total_seconds())

    def unary_claims(self, row: Session, namespace: str, kind: int, queue: str, most: int) -> list[Claim]:
        """The claims that a session without a stream makes: of each of its queues and kinds, or those named."""
        hello = unpack_hello(row.hello)
        return [
            Claim(
                row.namespace_id,
                namespace,
                each,
                of_kind,
                hello.types(of_kind),
                row.session_id,
                hello.worker_id,
                hello.builds if of_kind == TaskKind.RUN else (),
                most,
            )
            for of_kind in WORKERS_KINDS
            for each in ([queue] if queue else hello.task_queues)
            if hello.types(of_kind) and kind in (0, of_kind)
        ]

    def give_back_claimed(self, answer: object) -> None:
        """Returns the tasks of a claim whose caller will not hear its answer."""
        grants: list[AnyGrant] = answer if isinstance(answer, list) else []
        for grant in grants:
            self.registry.return_task(return_of(grant, "claim was not answered"))

    async def prolong(self, session_id: UUID) -> datetime:
        """Extends a session and answers its new end. Refuses with SESSION_EXPIRED."""
        flushed = await self.beats.beat(session_id, [])
        if flushed.expire_time is None:
            raise errors.SessionExpired(session_id=session_id)
        return flushed.expire_time

    async def recorded(
        self, namespace_id: int, run_key: int, token: int, after: int, is_own: IsOwn | None = None
    ) -> tuple[list[RecordedStep], bool]:
        """Further steps of a run that is held, in a session that is the caller's own. Refuses with LEASE_LOST."""
        async with self.reader.connection() as connection:
            run = (await recall.read_runs(connection, [run_key])).get(run_key)
            if run is None or run.namespace_id != namespace_id:
                raise errors.LeaseLost(run_id=str(run_key), token=token, current=-1)
            row = await recall.read_session(connection, run.session_id) if is_own and run.session_id else None
        if run.grants != token or run.session_id is None or (is_own and (row is None or not is_own(row))):
            raise errors.LeaseLost(run_id=str(run_key), token=token, current=run.grants)
        return await self.reader.recorded(run_key, after)
