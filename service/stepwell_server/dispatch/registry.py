"""Which workers are here: sessions opened, resumed, attached, detached and closed, and what they held given back.

A session lives in the database; this replica holds those whose streams it has, or had a moment ago. One session has one
stream: the one that resumed it last. What an older stream still does changes nothing any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from stepwell_server import errors, refusals
from stepwell_server.dispatch.messages import TaskNotice
from stepwell_server.dispatch.outbox import Outbox
from stepwell_server.dispatch.sessions import Held, TaskKey, WorkerSession
from stepwell_server.engine.grants import ReturnTask, ref_to
from stepwell_server.ids import uuid7
from stepwell_server.model.jobs import JOB_ORDINAL
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import Step
from stepwell_server.model.tasks import TaskKind
from stepwell_server.model.workers import Hello, Session, listed_of, pack_hello
from stepwell_server.store import batch_reads, job_batches, recall
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Collection

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.assignments import Reader
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.matching import Matcher
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.connection import Connection

_log = structlog.get_logger("stepwell.sessions")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
# Workers who are asked to move do so within this, once what is on its way to them has gone out, if that is soon.
MOVE_SECONDS = 1.0
_SENDING_SECONDS, _SENDING_POLL_SECONDS = 2.0, 0.005
# Reasons by which a worker gives a task up; by all others it loses one.
_CONSENTED = frozenset({"evicted", "worker left", "cancelled before it began"})


class Registry:
    """See the module."""

    def __init__(
        self, settings: Settings, clock: Clock, reader: Reader, matcher: Matcher, background: Background
    ) -> None:
        self.sessions: dict[UUID, WorkerSession] = {}
        self._settings = settings
        self._clock = clock
        self._reader = reader
        self._matcher = matcher
        self._background = background
        self._committers: Committers | None = None

    def start(self, committers: Committers) -> None:
        """From here on tasks can be given back."""
        self._committers = committers

    @property
    def committers(self) -> Committers:
        """The committers, once started."""
        if self._committers is None:
            raise AssertionError("not started")
        return self._committers

    # --- a session's life -------------------------------------------------------------------------------------------

    async def open(
        self, namespace_id: int, namespace: str, hello: Hello, *, streaming: bool, owner: str | None = None
    ) -> WorkerSession:
        """A new session, known in the database; `owner` is whose it is, None if nobody was asked."""
        now = self._clock.now()
        expire_time = now + timedelta(seconds=self._settings.session_seconds)
        session = self._made(uuid7(), namespace_id, namespace, hello)
        told = pack_hello(hello), expire_time, *listed_of(hello)
        row = Session(session.session_id, namespace_id, hello.worker_id, now, *told, owner)
        async with self._reader.connection() as connection:
            await recall.insert_session(connection, row)
        if streaming:
            self.sessions[session.session_id] = session
        return session

    def _made(self, session_id: UUID, namespace_id: int, namespace: str, hello: Hello) -> WorkerSession:
        session = WorkerSession(session_id, namespace_id, namespace, hello, Outbox(self._settings.outbox_messages))
        session.outbox.on_overflow = lambda: self.detach(session)
        session.outbox.on_sent = self._matcher.freed
        return session

    async def resume(  # noqa: PLR0917 - what a hello says, and who says it
        self,
        session_id: UUID,
        namespace_id: int,
        namespace: str,
        hello: Hello,
        named: dict[TaskKey, int],
        owner: str | None = None,
    ) -> tuple[WorkerSession, list[tuple[TaskKey, int]]]:
        """A session that goes on, with those of its tasks that the worker names; the others go back to their queues.

        Another owner's is as one that is not there; None may resume anybody's. Refuses with SESSION_EXPIRED.
        """
        expire_time = self._clock.now() + timedelta(seconds=self._settings.session_seconds)
        async with self._reader.connection() as connection:
            known = await recall.resume_session(connection, session_id, namespace_id, hello, expire_time, owner)
            leases = await recall.leases_of(connection, session_id) if known else []
            resumed = await _read_held(connection, [lease[:3] for lease in leases], hello.builds)
        if not known:
            raise errors.SessionExpired(session_id=session_id)
        old = self.sessions.get(session_id)
        begun = self._supersede(old, named) if old is not None else None
        session = self._made(session_id, namespace_id, namespace, hello)
        self.sessions[session_id] = session
        kept: list[tuple[TaskKey, int]] = []
        for run_key, ordinal, token, _ in leases:
            key = (run_key, ordinal)
            held = resumed.get(key)
            if named.get(key) == token and held is not None:
                session.resumed[key] = held
                kept.append((key, token))
            else:
                # One that the old stream never saw acknowledged was not begun.
                counts = begun is None or key in begun
                self.give_back(session, key, token, counts=counts, reason="not held after resume")
        return session, kept

    def _supersede(self, old: WorkerSession, named: dict[TaskKey, int]) -> set[TaskKey]:
        """Ends the stream that had the session. Answers which of its tasks had been begun."""
        for key, token in named.items():
            held = old.holds(key, token)
            if held is not None:
                held.acknowledged = True
        self.detach(old)
        begun = set(old.held)
        old.is_superseded = True
        old.drop_all()
        return begun

    def moved(self, session_id: UUID) -> None:
        """Another replica has the session now: what it holds is no longer for this one to judge."""
        session = self.sessions.pop(session_id, None)
        if session is None:
            return
        session.is_superseded = True
        session.attached = False
        session.drop_all()
        session.outbox.close()
        self._matcher.leave(session)

    def attach(self, session: WorkerSession) -> None:
        """The session's stream is up and its capacity stated: it takes tasks."""
        if not session.is_superseded:
            session.attached = True
            self._matcher.join(session)

    async def send_away(self, sessions: Collection[WorkerSession]) -> None:
        """Asks workers to connect anew, and gives them nothing more meanwhile.

        What is on its way to them comes first. A worker that heard of a task only after it had said elsewhere what it
        holds would lose it, though it may have begun.
        """
        for session in sessions:
            self._matcher.leave(session)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SENDING_SECONDS):
                while any(each.is_open and (each.coming or each.unassigned) for each in sessions):  # noqa: ASYNC110
                    await asyncio.sleep(_SENDING_POLL_SECONDS)
        for session in sessions:
            session.outbox.rotate(MOVE_SECONDS)

    def detach(self, session: WorkerSession) -> None:
        """The session's stream is gone. What it had not acknowledged goes back at once."""
        session.outbox.close()
        self._matcher.leave(session)
        if not session.attached:
            return
        session.attached = False
        session.detached_at = time.monotonic()
        for key, held in list(session.held.items()):
            if not held.acknowledged:
                session.drop(key)
                self.give_back(session, key, held.token, counts=False, reason="stream lost before acknowledgement")

    async def close(self, session: WorkerSession) -> None:
        """The worker has left for good: what it still holds goes back, and the session is forgotten."""
        session.attached = False
        session.outbox.close()
        self._matcher.leave(session)
        if session.is_superseded:
            return
        self.forget(session)
        for key, held in list(session.held.items()):
            session.drop(key)
            self.give_back(session, key, held.token, counts=False, reason="worker left")
        async with self._reader.connection() as connection:
            await recall.delete_sessions(connection, [session.session_id])

    async def close_unary(self, row: Session, namespace: str) -> bool:
        """Ends a session by name: what it holds goes back to its queues."""
        session = self.sessions.get(row.session_id)
        if session is not None:
            session.lost = True
            await self.close(session)
            return True
        async with self._reader.connection() as connection:
            leases = await recall.leases_of(connection, row.session_id)
        for run_key, ordinal, token, _ in leases:
            ref = ref_to(run_key, ordinal, row.namespace_id, namespace)
            order = ReturnTask(ref, ordinal, token, row.session_id, counts=False, reason="session closed")
            await self.committers.submit(order)
        async with self._reader.connection() as connection:
            return bool(await recall.delete_sessions(connection, [row.session_id]))

    def lose(self, session: WorkerSession) -> None:
        """The session is not known any more: its tasks are others' now, also those that came after its end."""
        for key, held in list(session.held.items()):
            session.drop(key)
            session.outbox.revoke(TaskNotice(*key, held.token, "LEASE_LOST"))
            self.give_back(session, key, held.token, counts=held.acknowledged, reason="session expired")
        session.lost = True
        session.attached = False
        self._matcher.leave(session)
        self.forget(session)
        session.outbox.close()

    def forget(self, session: WorkerSession) -> None:
        """Holds the session in memory no longer, unless another stream of it is there."""
        if self.sessions.get(session.session_id) is session:
            del self.sessions[session.session_id]

    # --- giving back ------------------------------------------------------------------------------------------------

    def give_back(self, session: WorkerSession, key: TaskKey, token: int, *, counts: bool, reason: str) -> None:
        """Returns a task of a session to its queue."""
        ref = ref_to(*key, session.namespace_id, session.namespace)
        self.return_task(ReturnTask(ref, key[1], token, session.session_id, counts, reason))

    def return_task(self, order: ReturnTask) -> None:
        """Returns a task to its queue, however long the database or the committer refuse to hear of it."""
        self._background.spawn(self._done(order))

    async def _done(self, order: ReturnTask) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                returned = await self.committers.submit(order)
            except (errors.RunNotFound, errors.JobNotFound):
                return
            except refusals.Refusal as refusal:
                _log.info("task not returned yet", key=order.ref.key, reason=refusal.reason)
            else:
                if returned is True and order.reason not in _CONSENTED:
                    metrics.count_lost_lease(order.reason)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def _read_held(
    connection: Connection, leases: list[tuple[int, int, int]], builds: tuple[str, ...]
) -> dict[TaskKey, Held]:
    """What a session holds, as it stands in the database: a suspended run is one that waits.

    Runs of other builds than the worker now takes are left out.
    """
    found = await _read_held_jobs(connection, [lease for lease in leases if lease[1] == JOB_ORDINAL])
    leases = [lease for lease in leases if lease[1] != JOB_ORDINAL]
    runs = await recall.read_runs(connection, sorted({run_key for run_key, _, _ in leases})) if leases else {}
    wanted = sorted((run_key, ordinal) for run_key, ordinal, _ in leases if ordinal)
    steps = await batch_reads.read_steps(connection, wanted) if wanted else []
    activities = {(step.run_key, step.ordinal): step for step in steps if isinstance(step, Step)}
    for run_key, ordinal, token in leases:
        run, step = runs.get(run_key), activities.get((run_key, ordinal))
        if run is None or (ordinal and step is None):
            continue
        if not ordinal and run.build_id and run.build_id not in builds:
            continue
        held = Held(token, TaskKind.RUN, run.task_queue, assigned=True, acknowledged=True)
        held.waiting = run.phase == Phase.SUSPENDED
        if step is not None:
            held.kind, held.queue, held.waiting = TaskKind.ACTIVITY, step.task_queue, False
            held.is_to_stop = step.cancel_requested
        found[run_key, ordinal] = held
    return found


async def _read_held_jobs(connection: Connection, leases: list[tuple[int, int, int]]) -> dict[TaskKey, Held]:
    jobs = await job_batches.read_jobs(connection, sorted(key for key, _, _ in leases)) if leases else {}
    found: dict[TaskKey, Held] = {}
    for key, ordinal, token in leases:
        job = jobs.get(key)
        if job is not None:
            held = Held(token, TaskKind.ACTIVITY, job.task_queue, assigned=True, acknowledged=True)
            held.is_to_stop = job.cancel_requested
            found[key, ordinal] = held
    return found
