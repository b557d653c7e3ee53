"""Runs that are opened again, on a real database: rows move back, and of one name one run is open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.engine.replica import Replica, claim, end_of, look, new_run, ref, replica

from stepwell_server import errors
from stepwell_server.engine.mending import Mended, RetryRun
from stepwell_server.engine.reported import End
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import Phase


def retry(started: Started) -> RetryRun:
    return RetryRun(ref(started), (), "")


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[Replica, Replica]]:
    async with replica(url) as one, replica(url) as other:
        yield one, other


async def failed(one: Replica, **fields: Any) -> Started:
    """A run that has ended badly."""
    started = await one.start(**fields)
    (grant,) = await one.claim()
    await one.do(end_of(grant, End(Phase.FAILED, failure=Failure("no"))))
    return started


async def test_the_row_moves_and_signals_are_there_again(database_url: str) -> None:
    """Those with an id, which are kept for a day, and those without, which went with the end of the run."""
    async with replica(database_url) as one, look(database_url) as database:
        started = await one.start()
        for signal_id in (None, "x"):
            await one.do(SignalRun(ref(started), "go", NULL, signal_id))
        (grant,) = await one.claim()
        await one.do(end_of(grant, End(Phase.FAILED, failure=Failure("no"))))
        assert await database.value("SELECT count(*) FROM signals") == 1
        answer = await one.do(retry(started))
        assert isinstance(answer, Mended)
        rows = await database.rows("SELECT ordinal, event, signal_id, consumed FROM signals ORDER BY ordinal")
        assert [tuple(row) for row in rows] == [(1, 2, None, False), (2, 3, "x", False)]
        assert await database.value("SELECT count(*) FROM closed_runs") == 0
        await database.check()
        (again,) = await one.do(claim(one.session))
        assert again.run.grants == 2
        await one.do(end_of(again, End(Phase.COMPLETED)))
        assert await database.value("SELECT phase FROM closed_runs") == Phase.COMPLETED
        await database.check()


async def test_two_who_open_a_run_at_once(database_url: str) -> None:
    """One does, and the other finds it open."""
    async with two(database_url) as replicas, look(database_url) as database:
        for _ in range(10):
            started = await failed(replicas[0])
            answers = await asyncio.gather(*(each.submit(retry(started)) for each in replicas), return_exceptions=True)
            assert {type(answer) for answer in answers} == {Mended, errors.RunPhaseConflict}
            await database.check()
            (grant,) = await replicas[0].claim()
            await replicas[0].do(end_of(grant, End(Phase.COMPLETED)))


@pytest.mark.parametrize("bearer", ["itself", "a later one"])
async def test_opening_again_and_starting_under_the_same_name(database_url: str, bearer: str) -> None:
    """Two replicas at once: never are two runs of one name open, whether the old one bears the name or a later one."""
    async with two(database_url) as (one, other), look(database_url) as database:
        wins = set()
        for place in range(30):
            name = f"w{place}"
            old = await failed(one, workflow_id=name)
            if bearer == "a later one":
                await failed(one, workflow_id=name)
            start = StartRun(new_run(workflow_id=name))
            answers = await asyncio.gather(one.submit(retry(old)), other.submit(start), return_exceptions=True)
            refused = [isinstance(answer, errors.WorkflowIdInUse) for answer in answers]
            assert refused.count(True) == 1, answers
            wins.add(refused.index(False))
            query = "SELECT run_key FROM runs WHERE workflow_id = $1"
            (open_run,) = await database.rows(query, name)
            assert await database.value("SELECT run_key FROM workflow_ids WHERE workflow_id = $1", name) == open_run[0]
            for grant in await one.claim(10):
                await one.do(end_of(grant, End(Phase.COMPLETED)))
        await database.check()
