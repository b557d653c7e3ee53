"""Numbers about runs by the client and by the command."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator

import pytest_asyncio
from tests.mending.kit import stepwell
from tests.sdk.live import Live, live

from stepwell import sync


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as made:
        for place in range(3):
            handle = await made.client.start_run("ab"[place % 2], workflow_id=f"w{place}")
        await handle.terminate()
        yield made


async def test_the_clients_count_alike(one: Live) -> None:
    now = dt.datetime.now(dt.UTC)
    span = (now - dt.timedelta(hours=1), now + dt.timedelta(seconds=60))
    own = one.client.statistics
    counted = await own.count("type", filter="phase != FAILED")
    assert [(group.value, group.count) for group in counted.groups] == [("a", 2), ("b", 1)]
    today, series, storage = await own.today(), await own.series(*span, by="hour"), await own.storage()
    assert (today.open_count, today.cancelled_today, today.type_count) == (2, 1, 2)
    assert (sum(each.total for each in series.buckets), storage.run_count) == (3, 3)
    found = [run.workflow_id async for run in own.search("W", type="a")]
    assert found == ["w2", "w0"]
    assert [run.workflow_id async for run in own.search("w", limit=1)] == ["w2"]

    def work() -> list[object]:
        with sync.Client.connect(one.client.address) as client:
            other = client.statistics
            return [
                other.count("type", filter="phase != FAILED"),
                other.today(),
                other.series(*span, by="hour"),
                [run.workflow_id for run in other.search("W", type="a")],
                other.storage().run_count,
            ]

    assert await asyncio.to_thread(work) == [counted, today, series, found, storage.run_count]


async def test_the_command_shows_them(one: Live) -> None:
    out = await stepwell(one.client, "stats", "--by", "type", "-o", "json")
    assert json.loads(out)["groups"] == [{"value": "a", "count": "2"}, {"value": "b", "count": "1"}]
    assert "TERMINATED" in await stepwell(one.client, "stats")
    assert "open" in await stepwell(one.client, "stats", "today")
    lines = (await stepwell(one.client, "stats", "series", "--last", "3")).splitlines()
    assert len(lines) == 4
    assert "history" in await stepwell(one.client, "stats", "storage")
    assert " w1 " in await stepwell(one.client, "run", "search", "W1")
    assert "no run holds that" in await stepwell(one.client, "run", "search", "nothing like it")
