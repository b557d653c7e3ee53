"""A walk by pages sees each run that was there at its beginning, and none twice, while others are written."""

from __future__ import annotations

import asyncio
from itertools import product

import asyncpg
import pytest
from tests.api.stores import create
from tests.api.walks import MOST_STARTS, busy, check, start_many, walk
from tests.service import serving

NEWEST_FIRST, BY_NAME, BY_TYPE = "", "workflow_id", "type desc"
EVERY, SOME = "", 'type = "a" AND workflow_id = w*'
MANY, PAGE, CALLERS = 100_000, 1_000, 4
DRIVE = "UPDATE stepwell.runs SET driven = TRUE WHERE run_id = ANY($1::uuid[])"


@pytest.mark.parametrize("list_", ["ListRuns", "ListDrivenRuns"])
async def test_a_walk_sees_each_run_once(database_url: str, list_: str) -> None:
    """Pages end among runs that are equal in what they are sorted by."""
    async with serving(database_url) as service:
        ids = await start_many(service, 0, 60)
        driven = [await create(service, workflow_id=f"wd{number}", type="ab"[number % 2]) for number in range(40)]
        there = driven if list_ == "ListDrivenRuns" else ids + driven
        async with busy(service, ids + driven) as others:
            for order_by, filter_ in product((NEWEST_FIRST, BY_NAME, BY_TYPE), (EVERY, SOME)):
                seen = await walk(service, list_, 17, order_by=order_by, filter=filter_)
                check(seen, there[::2] if filter_ else there)
            await others.have_done_all()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_walk_over_a_hundred_thousand_runs_sees_each_once(database_url: str) -> None:
    """They are started by calls, 256 in each, over four callers: quick enough.

    Driven runs are created singly only, which is not. So one statement makes a fifth of the runs driven.
    """
    async with serving(database_url, committers=2) as service:
        firsts = iter(range(0, MANY, MOST_STARTS))
        ids: list[str] = [""] * MANY

        async def fill() -> None:
            for first in firsts:
                started = await start_many(service, first, min(MOST_STARTS, MANY - first))
                ids[first : first + len(started)] = started

        await asyncio.gather(*(fill() for _ in range(CALLERS)))
        assert len(set(ids)) == MANY
        driven = ids[: MANY // 5]
        connection = await asyncpg.connect(database_url)
        await connection.execute(DRIVE, driven)
        await connection.execute("ANALYZE")
        await connection.close()
        async with busy(service, ids) as others:
            lists = (("ListRuns", ids), ("ListDrivenRuns", driven))
            for (list_, there), order_by, filter_ in product(lists, (NEWEST_FIRST, BY_NAME), (EVERY, SOME)):
                others.done.clear()
                seen = await walk(service, list_, PAGE, order_by=order_by, filter=filter_)
                check(seen, there[::2] if filter_ else there)
                await others.have_done_all()
