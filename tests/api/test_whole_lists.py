"""Lists of driven runs with their payloads: as many on a page as a message holds, and none left out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.api.stores import COMPLETED, RUNNING, SUSPENDED, Store, at, create, json
from tests.service import Service, serving


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def test_a_list_tells_what_a_single_read_tells(service: Service) -> None:
    store = Store(service, "run")
    ids = [await create(service, workflow_id=f"w{number}", input=json(str(number))) for number in range(4)]
    await store.call("MarkRunCompleted", run_id=ids[0], result=json('"done"'))
    await store.call("MarkRunFailed", run_id=ids[1], failure={"message": "boom"})
    await store.call("SuspendRun", run_id=ids[2], step_name="s", wake_time=at(9), data=json("[9]"))
    topics = Store(service, "topic")
    await topics.call("RegisterWatcher", run_id=ids[3], step_name="s", topic="paid")
    await topics.call("ResolveWatchers", topic="paid", payload=json("42"))
    listed = await store.pages("ListDrivenRuns", "runs", payloads=True, page_size=3)
    assert listed == [(await store.call("ReadRun", run_id=run_id)).run for run_id in reversed(ids)]
    assert [run.phase for run in listed] == [RUNNING, SUSPENDED, RUNNING, COMPLETED]
    assert listed[0].wake.payload.json == "42"
    plain = await store.pages("ListDrivenRuns", "runs")
    assert [run.HasField("input") for run in plain] == [False] * 4


async def test_a_page_is_shorter_where_payloads_are_large(service: Service) -> None:
    store = Store(service, "run")
    await create(service, workflow_id="parent")
    large = json(f'"{"x" * 1_500_000}"')
    ids = [
        await create(service, workflow_id=f"w{number}", input=large, parent_workflow_id="parent") for number in range(5)
    ]
    page = await store.call("ListChildRuns", workflow_id="parent", payloads=True)
    assert [run.run_id for run in page.runs] == [ids[4], ids[3]]
    children = await store.pages("ListChildRuns", "runs", workflow_id="parent", payloads=True)
    assert [run.run_id for run in children] == ids[::-1]
    listed = await store.pages("ListDrivenRuns", "runs", payloads=True, order_by="create_time")
    assert [run.run_id for run in listed][1:] == ids
