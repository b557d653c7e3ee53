"""Watching over sessions: assignments that nobody acknowledged, silent streams, sessions that are over, lost news."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING
from uuid import UUID

from stepwell_server import errors
from stepwell_server.dispatch.messages import TaskNotice
from stepwell_server.store import recall

if TYPE_CHECKING:
    from stepwell_server.dispatch.assignments import Reader
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.beats import Beats
    from stepwell_server.dispatch.pushes import Pushes
    from stepwell_server.dispatch.registry import Registry
    from stepwell_server.dispatch.sessions import TaskKey, WorkerSession
    from stepwell_server.settings import Settings

_LATE_SECONDS = 2.5
_RECONCILE_SECONDS = 5.0
_RUNS_AT_ONCE = 500


class Upkeep:
    """See the module."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        settings: Settings,
        registry: Registry,
        pushes: Pushes,
        beats: Beats,
        reader: Reader,
        background: Background,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._sessions = registry.sessions
        self._pushes = pushes
        self._beats = beats
        self._reader = reader
        self._background = background

    def start(self) -> None:
        """Begins."""
        self._background.spawn(self._watch_over())
        self._background.spawn(self._reconcile_for_ever())

    async def _watch_over(self) -> None:
        """Looks for assignments that nobody acknowledged, silent streams, and sessions that are over."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            # A replica that is itself late does not judge others.
            if now - last < _LATE_SECONDS:
                for session in list(self._sessions.values()):
                    self._judge(session, now)
            last = now

    def _judge(self, session: WorkerSession, now: float) -> None:
        settings = self._settings
        if not session.attached:
            if now - session.detached_at > settings.session_seconds:
                self._sessions.pop(session.session_id, None)
            return
        for key, held in list(session.held.items()):
            if held.assigned and not held.acknowledged and now - held.assigned_at > settings.ack_seconds:
                session.drop(key)
                session.outbox.revoke(TaskNotice(*key, held.token, "ACK_TIMEOUT"))
                self._registry.give_back(session, key, held.token, counts=False, reason="not acknowledged in time")
        silent = now - session.heard_at
        if silent > settings.ping_seconds * 1.5:
            self._registry.detach(session)
        elif silent > settings.ping_seconds:
            session.outbox.ping(int(now * 1000))
        if session.heard_since_beat and now - session.beaten_at > settings.heartbeat_seconds / 2:
            session.heard_since_beat, session.beaten_at = False, now
            self._background.spawn(self._prolong(session))

    async def _prolong(self, session: WorkerSession) -> None:
        flushed = await self._beats.beat(session.session_id, [])
        if flushed.expire_time is None:
            self._registry.lose(session)
        else:
            session.outbox.prolonged(flushed.expire_time)

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_RECONCILE_SECONDS)
            with contextlib.suppress(errors.Refusal):
                await self.reconcile()

    async def reconcile(self) -> None:
        """Compares what is held in memory with the database: news, grants and returns may have gone astray."""
        await self._compare_sessions()
        await self._compare_runs()

    async def _compare_sessions(self) -> None:
        """Every lease must be held in memory, and the other way round; what differs twice in a row is put right."""
        sessions = {each.session_id: each for each in self._sessions.values() if each.attached}
        if not sessions:
            return
        async with self._reader.connection() as connection:
            leases = await recall.leases_of_all(connection, list(sessions))
        found: dict[UUID, set[tuple[TaskKey, int]]] = {session_id: set() for session_id in sessions}
        for session_id, key, token in leases:
            found[session_id].add((key, token))
        for session_id, session in sessions.items():
            held = {(key, each.token) for key, each in session.held.items()}
            differing = found[session_id] ^ held
            for key, token in differing & session.unclaimed:
                if (key, token) in held:
                    self._pushes.revoke(session_id, TaskNotice(*key, token, "LEASE_LOST"))
                else:
                    self._registry.give_back(session, key, token, counts=False, reason="its worker does not have it")
            session.unclaimed = differing

    async def _compare_runs(self) -> None:
        held = [
            (session, key)
            for session in self._sessions.values()
            if session.attached
            for key in session.held
            if not key[1]
        ]
        for start in range(0, len(held), _RUNS_AT_ONCE):
            part = held[start : start + _RUNS_AT_ONCE]
            async with self._reader.connection() as connection:
                found = await recall.read_leases(connection, [key[0] for _, key in part])
            for session, key in part:
                await self._compare(session, key, found.get(key[0]))

    async def _compare(self, session: WorkerSession, key: TaskKey, found: tuple[UUID | None, int, int] | None) -> None:
        held = session.held.get(key)
        if held is None or not held.assigned:
            return
        if found is None or found[0] != session.session_id or found[1] != held.token:
            self._pushes.revoke(session.session_id, TaskNotice(key[0], 0, held.token, "LEASE_LOST"))
        elif found[2] > held.seen_event:
            await self._pushes.catch_up(session, key[0])
