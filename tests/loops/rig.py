"""A replica's inside without its outside: committers, the duties' connection, and runs that wait for something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from stepwell_server.clock import SystemClock
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.committer import Claim, Committers
from stepwell_server.engine.committer.protocols import NoCapacity, NoListener
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.engine.reported import End, NewChild, NewStep, NewTimer, NewTopicWait, NewWait, ScopeClaim
from stepwell_server.engine.starts import NewRun, Started, StartRun
from stepwell_server.ids import uuid7
from stepwell_server.loops.connection import SharedConnection
from stepwell_server.loops.timers import JobTimers
from stepwell_server.model.runs import EMPTY_HASH, RunRef
from stepwell_server.model.steps import Kind
from stepwell_server.model.tasks import Grant, TaskKind
from stepwell_server.model.workers import Hello, pack_hello
from stepwell_server.settings import Settings
from stepwell_server.store.database import Database

KINDS: dict[Any, Kind] = {
    NewActivity: Kind.ACTIVITY,
    NewTimer: Kind.TIMER,
    NewWait: Kind.WAIT,
    NewTopicWait: Kind.WAIT,
    NewChild: Kind.CHILD,
}


class Rig:
    """See the module. `sql` is a connection of the test's own, in the schema."""

    def __init__(self, settings: Settings, sql: asyncpg.Connection, listener: Any) -> None:
        self.settings = settings
        self.sql = sql
        self.database = Database(settings)
        self.clock = SystemClock()
        self.committers = Committers(self.database, self.clock, settings, NoCapacity(), listener)
        self.connection = SharedConnection(self.database)

    async def open_session(self, seconds: float = 30.0) -> UUID:
        """A session that expires in so many seconds; negative, it has."""
        session_id = uuid7()
        now = self.clock.now()
        await self.sql.execute(
            "INSERT INTO sessions VALUES ($1, 1, 'worker', $2, $3, $4)",
            session_id,
            now,
            pack_hello(Hello("worker")),
            now + timedelta(seconds=seconds),
        )
        return session_id

    async def start(self, **fields: Any) -> int:
        new = NewRun(**{"namespace_id": 1, "namespace": "main", "type": "wf", "task_queue": "q", **fields})
        return (await self.committers.do(Started, StartRun(new))).run_key

    async def claim(self, session_id: UUID, kind: TaskKind = TaskKind.RUN, type_: str = "wf") -> Grant:
        claim = Claim(1, "main", "q", kind, (type_,), session_id, "worker", (), 1)
        grant: Grant
        (grant,) = await self.committers.do(list, claim)
        return grant

    async def progress(self, grant: Grant, *bodies: Any, end: End | None = None, resident: bool = True) -> list[int]:
        """The first progress of a grant's run, after which it waits; answers the steps' ordinals."""
        run = grant.run
        steps = [NewStep("", f"step{place}", 0, "", b"", KINDS[type(body)], body) for place, body in enumerate(bodies)]
        scopes = [ScopeClaim("", 0, EMPTY_HASH, closed=False)]
        order = ProgressRun(
            RunRef(1, "main", run.run_key), grant.session_id, run.grants, scopes, steps, [], end is None, end, resident
        )
        return (await self.committers.do(ProgressAnswer, order)).ordinals

    async def waiting_run(self, *bodies: Any) -> int:
        """A run whose code waits for these steps, and that nobody holds."""
        session_id = await self.open_session()
        key = await self.start()
        await self.progress(await self.claim(session_id), *bodies, resident=False)
        return key

    async def events(self, key: int, type_: int) -> int:
        count: int = await self.sql.fetchval("SELECT count(*) FROM events WHERE run_key = $1 AND type = $2", key, type_)
        return count


def job_timers(rig: Rig, seconds: float = 60.0) -> JobTimers:
    return JobTimers(rig.connection, rig.committers, rig.clock, seconds)


def rig_settings(url: str, **fields: Any) -> Settings:
    return Settings(**{"database_url": url, "port": 0, **fields})


@asynccontextmanager
async def rigged(url: str, listener: Any = None, **fields: Any) -> AsyncIterator[Rig]:
    settings = rig_settings(url, **fields)
    sql = await asyncpg.connect(url, server_settings={"search_path": settings.database_schema})
    rig = Rig(settings, sql, listener or NoListener())
    await rig.committers.start()
    try:
        yield rig
    finally:
        await rig.committers.stop()
        await rig.connection.close()
        await rig.database.close()
        await sql.close()


async def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """For what another process does, and can't be awaited."""
    async with asyncio.timeout(seconds):
        while True:
            held = holds()
            if asyncio.iscoroutine(held):
                held = await held
            if held:
                return
            await asyncio.sleep(0.02)
