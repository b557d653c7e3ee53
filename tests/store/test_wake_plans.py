"""The leader's looks at what is due pass nothing by that outside engines have to ask for, however much of it is due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio
from tests.loops.rig import Rig, rigged
from tests.store.filled import Filled
from tests.store.plans import explained, scans

from stepwell_server.engine.driven_timers import CreateTimer
from stepwell_server.engine.reported import NewTimer
from stepwell_server.ids import unpack
from stepwell_server.model.runs import RunRef
from stepwell_server.store import timer_store, timers
from stepwell_server.store.statements import Statement

UNMANAGED = 100_000


@pytest_asyncio.fixture(scope="module")
async def rig(filled: Filled) -> AsyncIterator[Rig]:
    """Of a hundred thousand unmanaged runs each is due with a step; of two managed ones, too. Tests change nothing."""
    async with crowded(await filled.url()) as made:
        yield made


@asynccontextmanager
async def crowded(database_url: str) -> AsyncIterator[Rig]:
    async with rigged(database_url) as made:
        for _ in range(2):
            await made.waiting_run(NewTimer(1))
        driven = await made.start(driven=True, managed=False)
        await made.committers.do(object, CreateTimer(RunRef(1, "main", driven), 1, datetime.now(UTC), 0))
        await made.sql.execute("UPDATE runs SET wake_time = now()")
        await repeated(made.sql, "runs", driven, "gen_random_uuid()")
        await repeated(made.sql, "steps", driven)
        await made.sql.execute("ANALYZE runs")
        await made.sql.execute("ANALYZE steps")
        yield made


async def repeated(sql: asyncpg.Connection, table: str, key: int, run_id: str = "") -> None:
    """The rows of a run again and again, as those of others."""
    names = await sql.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position", table
    )
    put = {"run_key": "1000000 + n", "run_id": run_id}
    columns = ", ".join(put.get(row[0]) or row[0] for row in names)
    source = f"{table}, generate_series(1, {UNMANAGED}) AS n WHERE run_key = {key}"
    await sql.execute(f"INSERT INTO {table} SELECT {columns} FROM {source}")  # noqa: S608 - of this test


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        (timers.STEPS["read_due_steps"], {"steps_managed_wake_idx": 2, "runs_pkey": 2}),
        (timers.RUNS["read_due_runs"], {"runs_managed_wake_idx": 2}),
    ],
    ids=["steps", "runs"],
)
async def test_what_is_not_managed_is_not_read(rig: Rig, statement: Statement, read: dict[str, int]) -> None:
    plan = await explained(rig.sql, statement, datetime.now(UTC) + timedelta(days=1), 500)
    assert {index: rows for (_, index), rows in scans(plan).items()} == read


@pytest.mark.parametrize("name", ["next_step_after", "next_run_after"])
async def test_the_next_time_is_that_of_what_is_managed(rig: Rig, name: str) -> None:
    plan = await explained(rig.sql, timers.TIMERS[name], datetime.now(UTC) + timedelta(days=1))
    assert sum(scans(plan).values()) == 0


async def test_engines_still_find_all_that_is_theirs(database_url: str) -> None:
    """Timers of runs that are not managed, and of one that is."""
    async with crowded(database_url) as rig:
        managed = await rig.start(driven=True, managed=True)
        ref = RunRef(1, "main", managed)
        await rig.committers.do(object, CreateTimer(ref, 1, datetime.now(UTC) - timedelta(hours=1), 0))
        found = await timer_store.due(rig.database, 1, datetime.now(UTC), (), 3)
    assert len(found) == 3
    assert unpack(found[0])[0] == managed
