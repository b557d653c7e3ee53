"""Which workers are here: sessions opened, resumed, attached, detached and closed, and what they held given back.

A session lives in the database; this replica holds those whose streams it has, or had a moment ago.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from stepwell_server import errors
from stepwell_server.dispatch.messages import TaskNotice
from stepwell_server.dispatch.outbox import Outbox
from stepwell_server.dispatch.sessions import TaskKey, WorkerSession
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.ids import uuid7
from stepwell_server.model.runs import RunRef
from stepwell_server.model.workers import Hello, Session, pack_hello
from stepwell_server.store import recall

if TYPE_CHECKING:
    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.assignments import Reader
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.matching import Matcher
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings


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

    async def open(self, namespace_id: int, namespace: str, hello: Hello, *, streaming: bool) -> WorkerSession:
        """A new session, known in the database."""
        now = self._clock.now()
        expire_time = now + timedelta(seconds=self._settings.session_seconds)
        session = WorkerSession(uuid7(), namespace_id, namespace, hello, Outbox(self._settings.outbox_messages))
        row = Session(session.session_id, namespace_id, hello.worker_id, now, pack_hello(hello), expire_time)
        async with self._reader.connection() as connection:
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
        async with self._reader.connection() as connection:
            known = await recall.resume_session(connection, session_id, namespace_id, hello, expire_time, now)
            leases = await recall.leases_of(connection, session_id) if known else []
        if not known:
            raise errors.SessionExpired(session_id=session_id)
        old = self.sessions.get(session_id)
        if old is not None:
            for key, token in named.items():
                held = old.held.get(key)
                if held is not None and held.token == token:
                    held.acknowledged = True
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

    def attach(self, session: WorkerSession) -> None:
        """The session's stream is up and its capacity stated: it takes tasks."""
        session.attached = True
        self._matcher.join(session)

    def detach(self, session: WorkerSession) -> None:
        """The session's stream is gone. What it had not acknowledged goes back at once."""
        session.attached = False
        session.detached_at = time.monotonic()
        session.outbox.close()
        self._matcher.leave(session)
        for key, held in list(session.held.items()):
            if not held.acknowledged:
                session.drop(key)
                self.give_back(session, key, held.token, counts=False, reason="stream lost before acknowledgement")

    async def close(self, session: WorkerSession) -> None:
        """The worker has left for good: what it still holds goes back, and the session is forgotten."""
        session.attached = False
        session.outbox.close()
        self._matcher.leave(session)
        self.sessions.pop(session.session_id, None)
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
            ref = RunRef(row.namespace_id, namespace, run_key)
            order = ReturnTask(ref, ordinal, token, row.session_id, counts=False, reason="session closed")
            await self.committers.submit(order)
        async with self._reader.connection() as connection:
            return bool(await recall.delete_sessions(connection, [row.session_id]))

    def lose(self, session: WorkerSession) -> None:
        """The session is not known any more: its tasks are others' now."""
        for key, held in list(session.held.items()):
            session.drop(key)
            session.outbox.revoke(TaskNotice(*key, held.token, "LEASE_LOST"))
        session.lost = True
        self._matcher.leave(session)
        self.sessions.pop(session.session_id, None)
        session.outbox.close()

    def give_back(self, session: WorkerSession, key: TaskKey, token: int, *, counts: bool, reason: str) -> None:
        """Returns a task to its queue."""
        order = ReturnTask(
            RunRef(session.namespace_id, session.namespace, key[0]), key[1], token, session.session_id, counts, reason
        )
        self._background.spawn(self._done(order))

    async def _done(self, order: ReturnTask) -> None:
        await self.committers.submit(order)
