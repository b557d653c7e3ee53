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
import structlog

from stepwell_server import errors
from stepwell_server.dispatch.beat_traces import BeatTraces
from stepwell_server.store import recall
from stepwell_server.store.faults import Conflict, Lost, Rejected, Unsettled

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.model.payloads import Payload
    from stepwell_server.settings import Settings
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database


_log = structlog.get_logger("stepwell.beats")
_STOP_SECONDS = 2.0


# Who beats: run, ordinal, token and session. A stale holder's beat is another one than the present holder's.
Holder = tuple[int, int, int, UUID]


class TaskBeat(msgspec.Struct, frozen=True, gc=False):
    """A heartbeat of one activity, of a worker's session; `traceparent` is what the worker reported as its span."""

    run_key: int
    ordinal: int
    token: int
    session_id: UUID
    details: Payload | None
    namespace_id: int
    worker_id: str
    traceparent: str
    received_ns: int

    @property
    def holder(self) -> Holder:
        """Who beats."""
        return self.run_key, self.ordinal, self.token, self.session_id


class Flushed(msgspec.Struct, frozen=True, gc=False):
    """What a flush came to, for one session: its new end, or None if it is gone; and which activities it holds.

    `held` names them by run, ordinal and token, each with whether it should stop.
    """

    expire_time: datetime | None
    held: dict[tuple[int, int, int], bool]


class Beats:
    """See the module."""

    def __init__(self, database: Database, clock: Clock, real_clock: Clock, settings: Settings) -> None:
        self._database = database
        self._clock = clock
        self._real_clock = real_clock
        self._seconds = settings.session_seconds
        self._sessions: dict[UUID, asyncio.Future[Flushed]] = {}
        self._items: dict[Holder, TaskBeat] = {}
        self._traces = BeatTraces()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._stopping = False
        self.failed_time: datetime | None = None
        """When some could not be written last."""

    def start(self) -> None:
        """Begins to flush."""
        self._task = asyncio.create_task(self._run(), name="beats")

    async def stop(self) -> None:
        """Writes what has come, if the database is there, and closes the connection."""
        self._stopping = True
        if self._task is not None:
            self._arrived.set()
            await asyncio.wait([self._task], timeout=_STOP_SECONDS)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            await self._connection.close()

    def beat(self, session_id: UUID, items: list[TaskBeat]) -> asyncio.Future[Flushed]:
        """Prolongs a session and notes items of its activities; the answer comes after the write."""
        for item in items:
            self._traces.receive(item)
            before = self._items.get(item.holder)
            if item.details is None and before is not None:
                continue
            self._items[item.holder] = item
        future = self._sessions.get(session_id)
        if future is None:
            future = self._sessions[session_id] = asyncio.get_running_loop().create_future()
        self._arrived.set()
        return future

    async def _run(self) -> None:
        while self._sessions or not self._stopping:
            await self._arrived.wait()
            self._arrived.clear()
            if self._sessions:
                await self._round()

    async def _round(self) -> None:
        sessions, items, received = self._sessions, self._items, self._traces.take()
        self._sessions, self._items = {}, {}
        written: dict[Holder, int] | None = None
        try:
            connection = await self._connected()
            written = await self._flush(connection, sessions, items)
            self._traces.tell(received, written)
            await self._traces.record(connection)
        except Exception as error:  # noqa: BLE001 - the next beats must be written all the same
            if not isinstance(error, (Conflict, Lost, Rejected, Unsettled)):
                _log.exception("heartbeats not written")
            if written is None:
                self._traces.tell(received, None)
            await self._fail(sessions)

    async def _fail(self, sessions: dict[UUID, asyncio.Future[Flushed]]) -> None:
        """Nothing is known to be written: the callers hear so, and the next beat tries anew."""
        self.failed_time = self._clock.now()
        for future in sessions.values():
            if not future.done():
                future.set_exception(errors.DatabaseUnavailable())
                future.exception()
        await self._drop_connection()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await self._database.reconnect("beats")
        return self._connection

    async def _flush(
        self, connection: Connection, sessions: dict[UUID, asyncio.Future[Flushed]], items: dict[Holder, TaskBeat]
    ) -> dict[Holder, int]:
        """Writes, and answers the callers; answers whose beats were written, and in which attempt."""
        now = self._clock.now()
        # Sessions live by real time: moving a test clock ends none.
        expire_time = self._real_clock.now() + timedelta(seconds=self._seconds)
        alive = await recall.extend_sessions(connection, list(sessions), expire_time)
        held: dict[UUID, dict[tuple[int, int, int], bool]] = {session_id: {} for session_id in sessions}
        written: dict[Holder, int] = {}
        for part in _apart(items.values()):
            beats: list[recall.Beat] = [
                (item.run_key, item.ordinal, item.token, item.session_id, now, item.details) for item in part
            ]
            found = await recall.write_heartbeats(connection, beats)
            for item in part:
                there = found.get((item.run_key, item.ordinal))
                if there is not None and item.session_id in held:
                    stops, written[item.holder] = there
                    held[item.session_id][item.run_key, item.ordinal, item.token] = stops
        for session_id, future in sessions.items():
            if not future.done():
                future.set_result(Flushed(expire_time if session_id in alive else None, held[session_id]))
        return written

    async def _drop_connection(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def _apart(items: Iterable[TaskBeat]) -> list[list[TaskBeat]]:
    """Beats in as few parts as name each activity once, since a statement answers by activity."""
    parts: list[dict[tuple[int, int], TaskBeat]] = []
    for item in items:
        key = (item.run_key, item.ordinal)
        part = next((each for each in parts if key not in each), None)
        if part is None:
            part = {}
            parts.append(part)
        part[key] = item
    return [list(part.values()) for part in parts]
