"""A real load of a real service, small: what was begun is counted, and the database is asked whether it is so."""

from __future__ import annotations

import asyncpg
import pytest

from bench.checks import CheckError, Expected, check
from bench.ground import standing_ground
from bench.programs import TYPES
from bench.stand import Crew, standing


async def test_what_was_begun_is_what_the_database_holds_and_nothing_else_passes() -> None:
    async with standing_ground(is_durable=False) as ground, standing(ground, crews=[Crew(slots=50)]) as stand:
        measured = await stand.closed("one_activity", callers=50, seconds=0.2, warm=0.1, wal=True)
        assert measured.told["started"] == measured.told["completed"] >= 50
        assert measured.wal is not None
        assert measured.statements > 0
        await stand.closed("jobs", callers=10, seconds=0.1, warm=0.0)
        for controlled in TYPES:
            await stand.closed(controlled, callers=10, seconds=0.1, warm=0.0)
        await stand.check()

        begun = stand.expected
        one_more = Expected({"one_activity": begun.runs["one_activity"] + 1}, dict(begun.steps), begun.jobs)
        with pytest.raises(CheckError, match="runs of one_activity were started"):
            await check(stand.url, one_more)
        with pytest.raises(CheckError, match="jobs were started"):
            await check(stand.url, Expected(jobs=begun.jobs - 1))

        connection = await asyncpg.connect(stand.url)
        await connection.execute(
            "DELETE FROM stepwell.closed_steps WHERE run_key = (SELECT min(run_key) FROM stepwell.closed_steps)"
        )
        with pytest.raises(CheckError, match="steps are recorded"):
            await stand.check()
        await connection.execute(
            "DELETE FROM stepwell.events WHERE type = 2 AND run_key = (SELECT min(run_key) FROM stepwell.closed_runs)"
        )
        await connection.close()
        with pytest.raises(CheckError, match="events of completion"):
            await stand.check()
    with pytest.raises(CheckError, match="not answered well"):
        stand.expect("jobs", {"started": 2, "completed": 1, "wrong": 0, "errors": {"Unavailable": 1}})
