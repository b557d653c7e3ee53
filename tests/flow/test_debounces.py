"""Debounced starts end to end: over replicas, repeats and bad input."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.sdk.live import Live, live
from tests.stream.kit import BLOCKED, until

from stepwell import Concurrency, Context, Debounce, workflow
from stepwell.reasons import InvalidField


@workflow
async def echo(ctx: Context, value: int) -> int:
    return value


async def test_the_last_input_is_what_the_run_gets(one: Live) -> None:
    """It is shown, given to a worker, and of a run under a limit too; and the callers hear one id."""
    async with one.working(workflows=[echo]):
        far, soon = Debounce(key="k", period=3600), Debounce(key="k", period=0.01)
        limit = Concurrency(key="k")
        first = await one.client.start_run(echo, 1, debounce=far, concurrency=limit)
        second = await one.client.start_run(echo, 2, debounce=far)
        assert (first.started, second.started, second.run_id) == (True, False, first.run_id)
        assert (await first.describe()).input.json == "2"
        third = await one.client.start_run(echo, 3, debounce=soon)
        assert third.run_id == first.run_id
        assert await first.result() == 3
        assert (await first.describe()).input.json == "3"
        fourth = await one.client.start_run(echo, 4, debounce=soon)
        assert fourth.started
        assert await fourth.result() == 4


async def test_starts_on_two_replicas_are_one_run(two: tuple[Live, Live]) -> None:
    debounce = Debounce(key="k", period=3600)
    runs = await asyncio.gather(*(two[n % 2].client.start_run(echo, n, debounce=debounce) for n in range(12)))
    assert len({run.run_id for run in runs}) == 1
    assert sum(bool(run.started) for run in runs) == 1
    assert len([event async for event in runs[0].history() if event.type == "RunDebounced"]) == 11


async def test_a_key_that_somebody_else_takes_at_that_moment_is_looked_for_again(database_url: str) -> None:
    """A start whose key is there when it is written looks anew, and begins a run when that key is free again."""
    sql = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    async with live(database_url, lock_seconds=60) as one:
        async with sql.transaction():
            await sql.execute("INSERT INTO run_debounces VALUES (1, 1, 'echo', 'k')")
            starting = asyncio.create_task(one.client.start_run(echo, 1, debounce=Debounce(key="k", period=3600)))
            await until(lambda: sql.fetchval(BLOCKED))
        await sql.execute("DELETE FROM run_debounces WHERE run_key = 1")
        assert (await starting).started
    await sql.close()


async def test_a_repeat_pushes_nothing_on(one: Live) -> None:
    debounce = Debounce(key="k", period=3600)
    first = await one.client.start_run(echo, 1, debounce=debounce)
    for _ in range(2):
        again = await one.client.start_run(echo, 2, debounce=debounce, request_id="r")
        assert again.run_id == first.run_id
    assert len([event async for event in first.history() if event.type == "RunDebounced"]) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"debounce": Debounce(key="", period=1)}, "debounce.key"),
        ({"debounce": Debounce(key="k" * 513, period=1)}, "debounce.key"),
        ({"debounce": Debounce(key="k\0", period=1)}, "debounce.key"),
        ({"debounce": Debounce(key="k", period=0)}, "debounce.period"),
        ({"debounce": Debounce(key="k", period=2, maximum_delay=1)}, "debounce.maximum_delay"),
        ({"debounce": Debounce(key="k", period=1), "workflow_id": "w"}, "workflow_id"),
        ({"debounce": Debounce(key="k", period=1), "start_delay": 1}, "start_delay"),
        ({"concurrency": Concurrency(key="")}, "concurrency.key"),
        ({"concurrency": Concurrency(key="k" * 513)}, "concurrency.key"),
        ({"concurrency": Concurrency(key="k", name="\0")}, "concurrency.name"),
        ({"concurrency": Concurrency(key="k", maximum_runs=10_001)}, "concurrency.maximum_runs"),
        ({"concurrency": Concurrency(key="k", maximum_runs=-1)}, "concurrency.maximum_runs"),
    ],
)
async def test_what_is_asked_amiss_is_refused(shared: Live, options: Any, field: str) -> None:
    with pytest.raises(InvalidField, match=field):
        await shared.client.start_run(echo, 1, **options)
