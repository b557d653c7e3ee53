"""What ended or began in a time is found by the pages of that time, however many runs there are."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import Subquery
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from tests.store.plans import Part, scans
from tests.store.test_task_plans import connected

from stepwell_server.model.statistics import Granularity, window
from stepwell_server.store import statistics
from stepwell_server.store.run_lists import RunFilter, matching

# A hundred thousand ended runs, one a minute, the last of them now.
RUNS = 100_000
NOW = datetime(2026, 6, 1, tzinfo=UTC)
GROW = f"""
INSERT INTO closed_runs
SELECT
    n, 1, gen_random_uuid(), '', 't', 'q', 4, FALSE, TRUE, NULL, 0, '', '', '', s, NULL, 4, 1, 2, 0, 0, 0, '', 0,
    NULL, NULL, '', s + interval '30 s', 2, NULL
FROM generate_series(1, {RUNS}) AS n, LATERAL (SELECT '{NOW}'::timestamptz - ({RUNS} - n) * interval '1 min') AS t (s);
VACUUM ANALYZE closed_runs;
"""  # noqa: S608 - numbers and a time from above


async def read(raw: asyncpg.Connection, query: Subquery) -> dict[tuple[str, str], int]:
    """How many rows were read of each table by each index, as the pool asks: with the values at hand."""
    made: Any = query.element
    dialect = dialects.dialect()  # type: ignore[no-untyped-call]
    compiled = made.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    values = [compiled.params[name] for name in compiled.positiontup]
    rows = await raw.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {compiled}", *values)
    plan = Part(json.loads(rows[0][0])[0]["Plan"])
    rechecked = sum(part.node.get("Rows Removed by Index Recheck", 0) for part in plan.parts())
    return {**scans(plan), ("rechecked", ""): rechecked}


async def test_a_time_reads_its_own_pages(database_url: str) -> None:
    """An hour of a hundred thousand minutes: some thirty-two pages, and not all three thousand."""
    async with connected(database_url, pinned=False) as (_, connection):
        for statement in GROW.split(";\n"):
            if statement.strip():
                await connection.raw.execute(statement)
        begin = NOW - timedelta(days=30)
        wanted = window(Granularity.HOUR, begin, begin + timedelta(hours=1))
        (_, (columns, conditions)) = matching(RunFilter(1))
        found = await read(connection.raw, statistics._started(columns, conditions, wanted))
        assert 60 <= sum(found.values()) < RUNS / 20, found
