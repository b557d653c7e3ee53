"""Heartbeats: merged in memory, written in batches, answered after the write.

A beat of a session costs no statement of its own: whatever gathers while one flush is under way is the next flush.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.store import recall
from stepwell_server.store.database import Conflict, Lost, Rejected, Unsettled

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.model.payloads import Payload
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Connection, Database


class TaskBeat(msgspec.Struct, frozen=True, gc=False):
    """A heartbeat of one activity."""

    run_key: int
    ordinal: int
    token: int
    session_id: UUID
    details: Payload | None


class Flushed(msgspec.Struct, frozen=True, gc=False):
    """What a flush came to, for one session: its new end, or None if it is gone; and which activities it holds."""

    expire_time: datetime | None
    held: dict[tuple[int, int], bool]


class Beats:
    """See the module."""

    def __init__(self, database: Database, clock: Clock, real_clock: Clock, settings: Settings) -> None:
        self._database = database
        self._clock = clock
        self._real_clock = real_clock
        self._seconds = settings.session_seconds
        self._sessions: dict[UUID, asyncio.Future[Flushed]] = {}
        self._items: list[TaskBeat] = []
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Begins to flush."""
        self._task = asyncio.create_task(self._run(), name="beats")

    async def stop(self) -> None:
        """Stops, and closes the connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            await self._connection.close()

    def beat(self, session_id: UUID, items: list[TaskBeat]) -> asyncio.Future[Flushed]:
        """Prolongs a session and notes items of its activities; the answer comes after the write."""
        self._items.extend(items)
        future = self._sessions.get(session_id)
        if future is None:
            future = self._sessions[session_id] = asyncio.get_running_loop().create_future()
        self._arrived.set()
        return future

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            sessions, items = self._sessions, self._items
            self._sessions, self._items = {}, []
            try:
                await self._flush(sessions, items)
            except (Conflict, Lost, Rejected, Unsettled):
                for future in sessions.values():
                    if not future.done():
                        future.set_exception(errors.DatabaseUnavailable())
                        future.exception()
                await self._drop_connection()

    async def _flush(self, sessions: dict[UUID, asyncio.Future[Flushed]], items: list[TaskBeat]) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = await self._database.reconnect()
        now = self._clock.now()
        # Sessions live by real time: moving a test clock ends none.
        expire_time = self._real_clock.now() + timedelta(seconds=self._seconds)
        alive = await recall.extend_sessions(self._connection, list(sessions), expire_time)
        held: dict[tuple[int, int], bool] = {}
        if items:
            beats: list[recall.Beat] = [
                (item.run_key, item.ordinal, item.token, item.session_id, now, item.details) for item in items
            ]
            held = await recall.write_heartbeats(self._connection, beats)
        for session_id, future in sessions.items():
            if not future.done():
                future.set_result(Flushed(expire_time if session_id in alive else None, held))

    async def _drop_connection(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
