"""Lists of driven runs by what they belong to read along an index, however many other runs there are."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event
from tests.loops.rig import Rig, rigged
from tests.store.filled import Filled
from tests.store.plans import Part, scans

from stepwell_server.ids import uuid7
from stepwell_server.model.definitions import DefinitionRef
from stepwell_server.model.runs import RunRef
from stepwell_server.store import run_lists
from stepwell_server.store.run_lists import RunFilter

OTHERS, FEW, MOST = 50_000, 5, 3
COMMON = (
    "SELECT column_name FROM information_schema.columns WHERE table_schema = 'stepwell' AND table_name = $1 "
    "ORDER BY ordinal_position"
)
DEFINITION = """
    INSERT INTO definitions
        (namespace_id, definition_id, code, version, name, description, active, revision, create_time, update_time)
    VALUES (1, gen_random_uuid(), $1, 1, '', '', TRUE, 1, now(), now()) RETURNING definition_key
"""


@pytest_asyncio.fixture(scope="module")
async def rig(filled: Filled) -> AsyncIterator[Rig]:
    """Fifty thousand driven runs that belong to one another, and five that belong to something rare; only looked at."""
    async with rigged(await filled.url()) as made:
        pattern = await made.start(driven=True, managed=False, run_id=uuid7())
        keys = [await made.sql.fetchval(DEFINITION, code) for code in ("common", "rare")]
        names = [row[0] for row in await made.sql.fetch(COMMON, "runs")]
        put = {
            "run_key": "1000000 + n",
            "run_id": "gen_random_uuid()",
            "correlation_id": f"CASE WHEN n % {OTHERS // FEW} = 0 THEN 'rare' ELSE 'common' END",
            "parent_key": f"CASE WHEN n % {OTHERS // FEW} = 0 THEN {pattern} ELSE 7 END",
        }
        columns = ", ".join(put.get(name, name) for name in names)
        source = f"runs, generate_series(1, {OTHERS}) AS n WHERE run_key = {pattern}"
        await made.sql.execute(f"INSERT INTO runs SELECT {columns} FROM {source}")  # noqa: S608 - of this test
        await made.sql.execute(
            "INSERT INTO run_definitions "
            "SELECT run_key, CASE WHEN correlation_id = 'rare' THEN $1::bigint ELSE $2::bigint END "
            "FROM runs WHERE run_key > 1000000",
            keys[1],
            keys[0],
        )
        for table in ("runs", "run_definitions", "closed_runs"):
            await made.sql.execute(f"ANALYZE {table}")
        yield made


async def reads(rig: Rig, wanted: RunFilter) -> dict[tuple[str, str], int]:
    """What the list's own statement reads."""
    told: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        told.append((statement, parameters))

    engine = rig.database.pool.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        found = await run_lists.page(rig.database, wanted, (), None, MOST, 0)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert len(found) == MOST
    statement, parameters = told[-1]
    explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
    return scans(Part(json.loads(await rig.sql.fetchval(explain, *parameters))[0]["Plan"]))


async def wanted_of(kind: str, sql: asyncpg.Connection) -> RunFilter:
    if kind == "definition":
        return RunFilter(1, driven=True, definition=DefinitionRef(code="rare"))
    if kind == "correlation":
        return RunFilter(1, driven=True, correlation_id="rare")
    parent = await sql.fetchval("SELECT run_id FROM runs WHERE run_key < 1000000")
    assert RunRef(1, "main", run_id=parent).run_id == parent
    return RunFilter(1, driven=True, parent_run_id=parent)


@pytest.mark.parametrize("kind", ["definition", "correlation", "parent"])
async def test_what_is_rare_is_found_without_what_is_common(rig: Rig, kind: str) -> None:
    read = await reads(rig, await wanted_of(kind, rig.sql))
    assert sum(read.values()) <= 4 * FEW, read
    assert ("runs", "") not in read
