"""The workers of this replica: their sessions, what is pushed to them, and what becomes of their tasks.

It is the committer's Capacity (a fresh task may go straight to a waiting worker) and its Listener (what was committed
is told to those whom it concerns). A session that another replica holds is told by a hint, and found again by the
reconciliation that runs behind: a lost hint costs time only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import structlog

from stepwell_server import errors, telemetry
from stepwell_server.dispatch.assignments import Reader
from stepwell_server.dispatch.beats import Beats
from stepwell_server.dispatch.matching import Matcher
from stepwell_server.dispatch.messages import AdvanceRun, RecordedStep, TaskNotice
from stepwell_server.dispatch.outbox import Outbox
from stepwell_server.dispatch.sessions import Held, TaskKey, WorkerSession
from stepwell_server.engine.committer.protocols import Claim
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.ids import uuid7
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import EndedStep, Kind
from stepwell_server.model.tasks import TaskKind
from stepwell_server.model.workers import Hello, Session, pack_hello, unpack_hello
from stepwell_server.store import recall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.watches import Watches
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.committer import Committers
    from stepwell_server.engine.committer.protocols import Reservation
    from stepwell_server.model.tasks import Grant, Task
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database

_log = structlog.get_logger("stepwell.dispatch")
_RECONCILE_SECONDS = 5.0
_RUNS_AT_ONCE = 500


class HintSink(Protocol):
    """Where hints for other replicas go."""

    def publish(self, kind: str, data: object) -> None:
        """Sends a hint, some milliseconds later, or never."""
        ...


class Dispatcher:
    """See the module."""

    def __init__(self, database: Database, settings: Settings, clock: Clock, watches: Watches | None = None) -> None:
        self.watches = watches
        self._database = database
        self._settings = settings
        self._clock = clock
        self.sessions: dict[UUID, WorkerSession] = {}
        self.reader = Reader(database)
        self.beats = Beats(database, clock, settings)
        self.matcher = Matcher(settings, self._granted)
        self._hints: HintSink | None = None
        self._committers: Committers | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._marked = asyncio.Event()
        self.nudge: Callable[[datetime], None] = lambda _: None

    @property
    def committers(self) -> Committers:
        """The committers, once started."""
        if self._committers is None:
            raise AssertionError("not started")
        return self._committers

    async def start(self, committers: Committers, hints: HintSink | None) -> None:
        """Begins to hand out tasks."""
        self._committers, self._hints = committers, hints
        self.beats.start()
        self.matcher.start(committers)
        self._spawn(self._watch_over())
        self._spawn(self._reconcile_for_ever())

    async def drain(self) -> None:
        """Asks every worker to connect anew, elsewhere, and assigns nothing more."""
        for session in self.sessions.values():
            self.matcher.leave(session)
            session.outbox.rotate(1.0)

    async def stop(self) -> None:
        """Ends every stream. Sessions live on in the database, for other replicas."""
        for session in self.sessions.values():
            session.outbox.close()
        await self.matcher.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.beats.stop()
        await self.reader.close()

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except errors.Refusal as refusal:
                _log.info("gave up", reason=refusal.reason)
            except Exception:  # noqa: BLE001 - nobody awaits this task
                _log.exception("dispatch failed")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- Capacity ---------------------------------------------------------------------------------------------------

    def reserve(self, task: Task) -> Reservation | None:
        """See `Matcher.reserve`."""
        return self.matcher.reserve(task)

    def release(self, task: Task, reservation: Reservation) -> None:
        """Gives a reserved place back."""
        session = self.sessions.get(reservation.session_id)
        slot = session.slot_for(task.kind, task.task_queue) if session is not None else None
        if session is not None and slot is not None:
            session.vacate(slot)

    # --- Listener ---------------------------------------------------------------------------------------------------

    def committed(self, committer: int, position: int, changes: Sequence[Change]) -> None:
        """Tells workers what was committed; what concerns other replicas goes out as a hint."""
        if self.watches is not None:
            self.watches.committed(committer, position, changes)
        waiting: dict[tuple[int, str, int, str], None] = {}
        for change in changes:
            news = change.news
            for grant in news.grants:
                self._granted_directly(grant)
            for task in news.tasks:
                if task.ordinal in change.tasks:
                    waiting[task.namespace_id, task.task_queue, task.kind, task.type] = None
            for session_id, ordinal, token, reason in news.cancels:
                self._cancel(session_id, TaskNotice(change.run_key, ordinal, token, reason))
            for session_id, ordinal, token, reason in news.revokes:
                self._revoke(session_id, TaskNotice(change.run_key, ordinal, token, reason))
            if change.run is not None and change.run.session_id is not None and (news.ended or news.run_cancel):
                self._advance(change, change.run.session_id)
            self._note_times(change)
        if any(change.run is None for change in changes):
            self._hint("ends", None)
        if waiting:
            self.matcher.mark(waiting)
            self._wake_unary()
            self._hint("tasks", [list(key) for key in waiting])

    def unsettled(self) -> None:
        """What is held in memory may be out of date: look everything up."""
        self._spawn(self._reconcile())
        if self.watches is not None:
            self.watches.hint()

    def hinted(self, kind: str, data: object) -> None:
        """A hint from another replica."""
        if kind == "tasks" and isinstance(data, list):
            self.matcher.mark((key[0], key[1], key[2], key[3]) for key in data)
            self._wake_unary()
        elif kind == "ends" and self.watches is not None:
            self.watches.hint()
        elif kind == "run" and isinstance(data, list):
            session = self.sessions.get(UUID(data[0]))
            if session is not None:
                self._spawn(self._catch_up(session, data[1]))
        elif kind in ("cancel", "revoke") and isinstance(data, list):
            session_id, notice = UUID(data[0]), TaskNotice(*data[1:])
            if session_id in self.sessions:
                (self._cancel if kind == "cancel" else self._revoke)(session_id, notice)

    def _hint(self, kind: str, data: object) -> None:
        if self._hints is not None:
            self._hints.publish(kind, data)

    def _note_times(self, change: Change) -> None:
        """Tells the timers of what wants to be looked at, lest they sleep too long."""
        if change.run is not None and change.run.wake_time is not None and change.run is not change.original:
            self.nudge(change.run.wake_time)
        for ordinal in change.touched:
            step = change.steps.get(ordinal)
            if step is not None and step.wake_time is not None:
                self.nudge(step.wake_time)

    # --- unary claims -----------------------------------------------------------------------------------------------

    def _wake_unary(self) -> None:
        self._marked.set()
        self._marked = asyncio.Event()

    async def tasks_marked(self, seconds: float) -> None:
        """Waits until tasks have come that may be had, at most so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._marked.wait(), seconds)

    def unary_claims(self, row: Session, namespace: str, kind: int, queue: str, most: int) -> list[Claim]:
        """The claims that a session without a stream makes: of each of its queues and kinds, or those named."""
        hello = unpack_hello(row.hello)
        types = {TaskKind.RUN: hello.workflow_types, TaskKind.ACTIVITY: hello.activity_types}
        return [
            Claim(
                row.namespace_id,
                namespace,
                each,
                of_kind,
                served,
                row.session_id,
                hello.worker_id,
                hello.build_id,
                most,
            )
            for of_kind, served in types.items()
            for each in ([queue] if queue else hello.task_queues)
            if served and kind in (0, of_kind)
        ]

    async def prolong(self, session_id: UUID) -> datetime:
        """Extends a session and answers its new end. Refuses with SESSION_EXPIRED."""
        flushed = await self.beats.beat(session_id, [])
        if flushed.expire_time is None:
            raise errors.SessionExpired(session_id=session_id)
        return flushed.expire_time

    async def close_unary(self, row: Session, namespace: str) -> bool:
        """Ends a session by name: what it holds goes back to its queues."""
        session = self.sessions.get(row.session_id)
        if session is not None:
            session.lost = True
            await self.close(session)
            return True
        async with self.reader.connection() as connection:
            leases = await recall.leases_of(connection, row.session_id)
        for run_key, ordinal, token, _ in leases:
            ref = RunRef(row.namespace_id, namespace, run_key)
            order = ReturnTask(ref, ordinal, token, row.session_id, counts=False, reason="session closed")
            await self.committers.submit(order)
        async with self.reader.connection() as connection:
            return bool(await recall.delete_sessions(connection, [row.session_id]))

    async def recorded(
        self, namespace_id: int, run_key: int, token: int, after: int
    ) -> tuple[list[RecordedStep], bool]:
        """Further steps of a held run. Refuses with LEASE_LOST."""
        async with self.reader.connection() as connection:
            run = (await recall.read_runs(connection, [run_key])).get(run_key)
        if run is None or run.namespace_id != namespace_id or run.grants != token or run.session_id is None:
            raise errors.LeaseLost(run_id=str(run_key), token=token, current=run.grants if run is not None else -1)
        return await self.reader.recorded(run_key, after)

    def trace_beat(self, session: WorkerSession, key: TaskKey, parent: str, outcome: str, start_ns: int) -> None:
        """The span of one heartbeat item, in the run's own trace."""
        held = session.held.get(key)
        if held is None:
            telemetry.session_heartbeat_span(session.session_id, worker=session.hello.worker_id, outcome=outcome)
            return
        telemetry.heartbeat_span(
            held.traceparent,
            run=held.run_id,
            step=held.step,
            queue=held.slot[1],
            worker=session.hello.worker_id,
            attempt=held.attempt,
            outcome=outcome,
            start_ns=start_ns,
            reported=parent,
        )

    # --- grants -----------------------------------------------------------------------------------------------------

    def _granted_directly(self, grant: Grant) -> None:
        session = self.sessions.get(grant.session_id)
        if session is not None:
            self._granted(session, [grant])

    def _granted(self, session: WorkerSession, grants: list[Grant]) -> None:
        """Tasks that were just given to a session, their places occupied: reads what they need and pushes them."""
        for grant in grants:
            key, kind, queue, token = _described(grant)
            slot = session.slot_for(kind, queue) or (kind, queue)
            held = session.take(key, token, slot)
            held.seen_event = grant.run.last_event
            held.traceparent, held.run_id = grant.run.traceparent, str(grant.run.run_id)
            if grant.step is not None:
                held.step, held.attempt = grant.step.name, grant.step.attempt
        self._spawn(self._assign(session, grants))

    async def _assign(self, session: WorkerSession, grants: list[Grant]) -> None:
        for assign in await self.reader.assignments(grants, session.hello.worker_id):
            key, _, _, token = _described(assign.grant)
            held = session.held.get(key)
            if held is not None and held.token == token:
                held.assigned_at = time.monotonic()
                held.assigned = True
                session.outbox.assign(assign)
                for advance in session.early.pop(key, []):
                    session.outbox.advance(advance)

    # --- news of held tasks -----------------------------------------------------------------------------------------

    def _cancel(self, session_id: UUID, notice: TaskNotice) -> None:
        session = self.sessions.get(session_id)
        if session is None:
            self._hint("cancel", [str(session_id), *_plain(notice)])
        else:
            session.outbox.cancel(notice)

    def _revoke(self, session_id: UUID, notice: TaskNotice) -> None:
        session = self.sessions.get(session_id)
        if session is None:
            self._hint("revoke", [str(session_id), *_plain(notice)])
            return
        key = (notice.run_key, notice.ordinal)
        held = session.held.get(key)
        if held is not None and held.token == notice.token:
            session.drop(key)
            session.outbox.revoke(notice)
            self.matcher.freed()

    def _advance(self, change: Change, session_id: UUID) -> None:
        session, run = self.sessions.get(session_id), change.run
        if run is None:
            return
        if session is None:
            self._hint("run", [str(session_id), run.run_key])
            return
        key = (run.run_key, 0)
        held = session.held.get(key)
        if held is None or held.token != run.grants:
            return
        held.seen_event = run.last_event
        cancel = run.cancel_time is not None
        self._push(
            session, key, AdvanceRun(run.run_key, run.grants, change.news.ended, cancel, run.cancel_reason or "")
        )

    def _push(self, session: WorkerSession, key: TaskKey, advance: AdvanceRun) -> None:
        """Pushes news of a run. A waiting one needs a slot first; if none comes free in time, it is evicted."""
        held = session.held[key]
        if not held.assigned:
            session.early.setdefault(key, []).append(advance)
            return
        if key in session.advances or not session.wake(key):
            if key not in session.advances:
                delay = self._settings.resident_advance_seconds
                asyncio.get_running_loop().call_later(delay, self._evict_if_stuck, session, key, held)
            session.advances.setdefault(key, []).append(advance)
            return
        session.outbox.advance(advance)

    def freed(self, session: WorkerSession) -> None:
        """A place came free at a worker: for its own waiting runs first, then for what waits in the queues."""
        for key in list(session.advances):
            if session.wake(key):
                for advance in session.advances.pop(key):
                    session.outbox.advance(advance)
        self.matcher.freed()

    def _evict_if_stuck(self, session: WorkerSession, key: TaskKey, held: Held) -> None:
        if key not in session.advances or session.held.get(key) is not held:
            return
        session.drop(key)
        session.outbox.revoke(TaskNotice(key[0], 0, held.token, "EVICTED"))
        self.give_back(session, key, held.token, counts=False, reason="evicted")

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def open(self, namespace_id: int, namespace: str, hello: Hello, *, streaming: bool) -> WorkerSession:
        """A new session, known in the database."""
        now = self._clock.now()
        expire_time = now + timedelta(seconds=self._settings.session_seconds)
        session = WorkerSession(uuid7(), namespace_id, namespace, hello, Outbox(self._settings.outbox_messages))
        row = Session(session.session_id, namespace_id, hello.worker_id, now, pack_hello(hello), expire_time)
        async with self.reader.connection() as connection:
            await recall.insert_session(connection, row)
        if streaming:
            self.sessions[session.session_id] = session
        return session

    async def resume(
        self, session_id: UUID, namespace_id: int, namespace: str, hello: Hello, named: dict[TaskKey, int]
    ) -> tuple[WorkerSession, list[tuple[TaskKey, int]]]:
        """A session that goes on, with those of its tasks that the worker names; the others go back to their queues.

        Refuses with SESSION_EXPIRED.
        """
        now = self._clock.now()
        expire_time = now + timedelta(seconds=self._settings.session_seconds)
        async with self.reader.connection() as connection:
            known = await recall.resume_session(connection, session_id, namespace_id, hello, expire_time, now)
            leases = await recall.leases_of(connection, session_id) if known else []
        if not known:
            raise errors.SessionExpired(session_id=session_id)
        old = self.sessions.get(session_id)
        if old is not None:
            self.detach(old)
        session = WorkerSession(session_id, namespace_id, namespace, hello, Outbox(self._settings.outbox_messages))
        self.sessions[session_id] = session
        kept: list[tuple[TaskKey, int]] = []
        for run_key, ordinal, token, _ in leases:
            key = (run_key, ordinal)
            if named.get(key) == token:
                kept.append((key, token))
            else:
                self.give_back(session, key, token, counts=True, reason="not held after resume")
        return session, kept

    def keep(self, session: WorkerSession, kept: list[tuple[TaskKey, int]]) -> None:
        """Takes over the tasks of a resumed session, and tells its runs what they may have missed."""
        for key, token in kept:
            kind = 2 if key[1] else 1
            slot = session.slot_for(kind, "") or next((each for each in session.rooms if each[0] == kind), (kind, ""))
            session.occupy(slot)
            held = session.take(key, token, slot)
            held.acknowledged = held.assigned = True
            if not key[1]:
                self._spawn(self._catch_up(session, key[0]))

    def attach(self, session: WorkerSession) -> None:
        """The session's stream is up and its capacity stated: it takes tasks."""
        session.attached = True
        self.matcher.join(session)

    def detach(self, session: WorkerSession) -> None:
        """The session's stream is gone. What it had not acknowledged goes back at once."""
        session.attached = False
        session.detached_at = time.monotonic()
        session.outbox.close()
        self.matcher.leave(session)
        for key, held in list(session.held.items()):
            if not held.acknowledged:
                session.drop(key)
                self.give_back(session, key, held.token, counts=False, reason="stream lost before acknowledgement")

    async def close(self, session: WorkerSession) -> None:
        """The worker has left for good: what it still holds goes back, and the session is forgotten."""
        session.attached = False
        session.outbox.close()
        self.matcher.leave(session)
        self.sessions.pop(session.session_id, None)
        for key, held in list(session.held.items()):
            session.drop(key)
            self.give_back(session, key, held.token, counts=False, reason="worker left")
        async with self.reader.connection() as connection:
            await recall.delete_sessions(connection, [session.session_id])

    def give_back(self, session: WorkerSession, key: TaskKey, token: int, *, counts: bool, reason: str) -> None:
        """Returns a task to its queue."""
        order = ReturnTask(
            RunRef(session.namespace_id, session.namespace, key[0]), key[1], token, session.session_id, counts, reason
        )
        self._spawn(self._done(order))

    async def _done(self, order: ReturnTask) -> None:
        await self.committers.submit(order)

    # --- watching over ----------------------------------------------------------------------------------------------

    async def _watch_over(self) -> None:
        """Looks for assignments that nobody acknowledged, silent streams, and sessions that are over."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            # A replica that is itself late does not judge others.
            if now - last < _LATE_SECONDS:
                for session in list(self.sessions.values()):
                    self._judge(session, now)
            last = now

    def _judge(self, session: WorkerSession, now: float) -> None:
        settings = self._settings
        if not session.attached:
            if now - session.detached_at > settings.session_seconds:
                self.sessions.pop(session.session_id, None)
            return
        for key, held in list(session.held.items()):
            if held.assigned and not held.acknowledged and now - held.assigned_at > settings.ack_seconds:
                session.drop(key)
                session.outbox.revoke(TaskNotice(*key, held.token, "ACK_TIMEOUT"))
                self.give_back(session, key, held.token, counts=False, reason="not acknowledged in time")
        silent = now - session.heard_at
        if silent > settings.ping_seconds * 1.5:
            self.detach(session)
        elif silent > settings.ping_seconds:
            session.outbox.ping(int(now * 1000))
        if session.heard_since_beat and now - session.beaten_at > settings.heartbeat_seconds / 2:
            session.heard_since_beat, session.beaten_at = False, now
            self._spawn(self._prolong(session))

    async def _prolong(self, session: WorkerSession) -> None:
        flushed = await self.beats.beat(session.session_id, [])
        if flushed.expire_time is None:
            self.lose(session)
        else:
            session.outbox.prolonged(flushed.expire_time)

    def lose(self, session: WorkerSession) -> None:
        """The session is not known any more: its tasks are others' now."""
        for key, held in list(session.held.items()):
            session.drop(key)
            session.outbox.revoke(TaskNotice(*key, held.token, "LEASE_LOST"))
        session.lost = True
        self.matcher.leave(session)
        self.sessions.pop(session.session_id, None)
        session.outbox.close()

    # --- reconciliation ---------------------------------------------------------------------------------------------

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_RECONCILE_SECONDS)
            with contextlib.suppress(errors.Refusal):
                await self._reconcile()

    async def _reconcile(self) -> None:
        """Compares what is held in memory with the database, for runs whose news may have gone astray."""
        held = [
            (session, key)
            for session in self.sessions.values()
            if session.attached
            for key in session.held
            if not key[1]
        ]
        for start in range(0, len(held), _RUNS_AT_ONCE):
            part = held[start : start + _RUNS_AT_ONCE]
            async with self.reader.connection() as connection:
                found = await recall.read_leases(connection, [key[0] for _, key in part])
            for session, key in part:
                await self._compare(session, key, found.get(key[0]))

    async def _compare(self, session: WorkerSession, key: TaskKey, found: tuple[UUID | None, int, int] | None) -> None:
        held = session.held.get(key)
        if held is None or not held.assigned:
            return
        if found is None or found[0] != session.session_id or found[1] != held.token:
            self._revoke(session.session_id, TaskNotice(key[0], 0, held.token, "LEASE_LOST"))
        elif found[2] > held.seen_event:
            await self._catch_up(session, key[0])

    async def _catch_up(self, session: WorkerSession, run_key: int) -> None:
        """Reads what has ended of a resident run since its worker was last told, and tells it."""
        key = (run_key, 0)
        held = session.held.get(key)
        if held is None:
            return
        async with self.reader.connection() as connection:
            run = (await recall.read_runs(connection, [run_key])).get(run_key)
            steps = await recall.closed_steps_since(connection, run_key, held.told_event)
        if run is None or run.session_id != session.session_id or run.grants != held.token:
            return
        held.seen_event = max(held.seen_event, run.last_event)
        news = [EndedStep(step, None, None) for step in steps if step.kind not in (Kind.LOCAL, Kind.MARKER)]
        if steps:
            held.told_event = steps[-1].end_event
        ended = await self.reader.completed(news)
        if ended or run.cancel_time is not None:
            cancel = run.cancel_time is not None
            self._push(session, key, AdvanceRun(run_key, held.token, ended, cancel, run.cancel_reason or ""))


_LATE_SECONDS = 2.5


def _described(grant: Grant) -> tuple[TaskKey, int, str, int]:
    if grant.step is None:
        return (grant.run.run_key, 0), 1, grant.run.task_queue, grant.run.grants
    return (grant.run.run_key, grant.step.ordinal), 2, grant.step.task_queue, grant.step.grants


def _plain(notice: TaskNotice) -> list[object]:
    return [notice.run_key, notice.ordinal, notice.token, notice.reason]
