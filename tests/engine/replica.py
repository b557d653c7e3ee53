"""Committers on a real database, and ways to get into theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from stepwell_server.clock import SystemClock
from stepwell_server.engine.committer import Claim, Committers
from stepwell_server.engine.committer.protocols import AnyChange, Queues, Reservation
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import ScopeClaim
from stepwell_server.engine.starts import NewRun, Started, StartRun
from stepwell_server.model.runs import EMPTY_HASH, RunRef
from stepwell_server.model.tasks import Grant, Task, TaskKind
from stepwell_server.settings import Settings
from stepwell_server.store.database import Database

MAIN = 1


class Ears:
    """A listener that remembers, and a capacity whose places are counted."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, Sequence[AnyChange]]] = []
        self.unknown = 0
        self.session: UUID | None = None
        self.taken = 0

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        self.batches.append((committer, position, changes))

    def unsettled(self) -> None:
        self.unknown += 1

    def reserve(self, task: Task) -> Reservation | None:
        if self.session is None:
            return None
        self.taken += 1
        return Reservation(self.session, "worker", ())

    def release(self, task: Task, reservation: Reservation) -> None:
        self.taken -= 1

    def is_here(self, session_id: UUID) -> bool:
        return session_id == self.session


class Replica:
    """One server's committers."""

    def __init__(self, url: str, queues: Queues | None = None, **fields: Any) -> None:
        self.settings = Settings(**{"database_url": url, "committers": 1, **fields})
        self.database = Database(self.settings)
        self.ears = Ears()
        self.committers = Committers(self.database, SystemClock(), self.settings, self.ears, self.ears, queues)
        self.session = uuid4()

    @property
    def committer(self) -> Any:
        """The first committer, to look inside."""
        return self.committers.members[0]

    def submit(self, order: Any, seconds: float = 30.0) -> asyncio.Future[object]:
        return self.committers.submit(order, 0, seconds)

    async def do(self, order: Any, seconds: float = 30.0) -> Any:
        return await self.submit(order, seconds)

    async def start(self, **fields: Any) -> Started:
        started = await self.do(StartRun(new_run(**fields)))
        assert isinstance(started, Started)
        return started

    async def claim(self, most: int = 1) -> list[Grant]:
        grants: list[Grant] = await self.do(claim(self.session, most))
        return grants


def new_run(**fields: Any) -> NewRun:
    return NewRun(**{"namespace_id": MAIN, "namespace": "main", "type": "flow", "task_queue": "q", **fields})


def ref(started: Started) -> RunRef:
    return RunRef(MAIN, "main", started.run_key)


def claim(session: UUID, most: int = 1) -> Claim:
    return Claim(MAIN, "main", "q", TaskKind.RUN, ("flow",), session, "worker", (), most)


def end_of(grant: Grant, end: Any) -> ProgressRun:
    """The end of a run that did nothing else."""
    named = RunRef(MAIN, "main", grant.run.run_key)
    claims = [ScopeClaim("", 0, EMPTY_HASH, closed=False)]
    return ProgressRun(named, grant.session_id, grant.run.grants, claims, [], [], waiting=False, end=end, resident=True)


@asynccontextmanager
async def replica(url: str, **fields: Any) -> AsyncIterator[Replica]:
    made = Replica(url, **fields)
    await made.committers.start()
    try:
        yield made
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(made.committers.stop(), 60)
        await made.database.close()


class Look:
    """A look into the database beside the service."""

    def __init__(self, raw: asyncpg.Connection) -> None:
        self.raw = raw

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        return list(await self.raw.fetch(query, *arguments))

    async def value(self, query: str, *arguments: Any) -> Any:
        return await self.raw.fetchval(query, *arguments)

    async def check(self) -> None:
        """What must hold of every run, whatever was cut: gapless history, steps counted, tasks that somebody wants."""
        assert not await self.rows(
            """SELECT run_key FROM (SELECT run_key, last_event FROM runs UNION ALL
            SELECT run_key, last_event FROM closed_runs) AS r
            WHERE last_event <> (SELECT count(*) FROM events AS e WHERE e.run_key = r.run_key)
            OR last_event <> (SELECT max(number) FROM events AS e WHERE e.run_key = r.run_key)"""
        )
        assert not await self.rows(
            "SELECT 1 FROM runs AS r WHERE open_steps <> (SELECT count(*) FROM steps AS s WHERE s.run_key = r.run_key)"
        )
        assert not await self.rows(
            """SELECT 1 FROM runs AS r WHERE queued <>
            EXISTS (SELECT FROM tasks AS t WHERE t.run_key = r.run_key AND t.ordinal = 0)"""
        )
        assert not await self.rows("SELECT 1 FROM runs WHERE queued AND session_id IS NOT NULL")
        assert not await self.rows(
            """SELECT 1 FROM runs AS r INNER JOIN tasks AS t ON t.run_key = r.run_key AND t.ordinal = 0
            WHERE t.build_id <> r.build_id"""
        )
        assert not await self.rows("SELECT 1 FROM runs AS r INNER JOIN closed_runs AS c USING (run_key)")


@asynccontextmanager
async def look(url: str) -> AsyncIterator[Look]:
    raw = await asyncpg.connect(url, server_settings={"search_path": "stepwell"})
    try:
        yield Look(raw)
    finally:
        await raw.close()
