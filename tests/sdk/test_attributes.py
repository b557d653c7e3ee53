"""Search attributes by the client: typed values, patches, and those that a run's code sets, once."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.mending.kit import described, happened, stepwell, suspended
from tests.sdk.live import Live, live

from stepwell import Client, Context, RunHandle, sync, workflow
from stepwell.reasons import InvalidField, LimitExceeded
from stepwell.search_attributes import Value, spelled, values_of
from stepwell.v1 import types_pb2

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
VALUES: dict[str, Value] = {"env": "prod", "done": False, "count": 3, "score": 0.5, "due": NOON, "none": None}


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as made:
        yield made


@workflow(name="flow")
async def flow(ctx: Context, rounds: int) -> str:
    ctx.set_attributes(stage="begun", rounds=rounds)
    await ctx.wait_signal("go")
    ctx.set_attributes({"stage": "over", "by.hand": None})
    if rounds:
        ctx.continue_as_new(rounds - 1)
    return "done"


async def found(client: Client, text: str) -> list[str]:
    return [run.run_id async for run in client.list_runs(filter=text)]


def test_values_come_back_as_they_went() -> None:
    assert values_of(spelled(VALUES)) == VALUES
    assert {type(value) for value in values_of(spelled(VALUES)).values()} == {type(each) for each in VALUES.values()}
    with pytest.raises(TypeError, match="env: a search attribute is text"):
        spelled({"env": ["prod"]})  # type: ignore[dict-item]


async def test_code_sets_them_once(one: Live) -> None:
    """A replay by another worker does not set again what somebody has changed since; the run never waits for it."""
    handle = await one.client.start_run(flow, 0, search_attributes={"env": "prod"})
    async with one.working(workflows=[flow]):
        await suspended(handle)
    assert await handle.set_attributes({"stage": "changed", "by.hand": True}) == {
        "by.hand": True,
        "env": "prod",
        "rounds": 0,
        "stage": "changed",
    }
    assert await found(one.client, "attribute.stage = changed AND attribute.by.hand = true") == [handle.run_id]
    async with one.working(workflows=[flow]):
        await handle.signal("go")
        async with asyncio.timeout(60):
            assert await handle.result() == "done"
    assert values_of((await handle.describe()).search_attributes) == {"env": "prod", "rounds": 0, "stage": "over"}
    assert (await happened(handle)).count("SearchAttributesSet") == 3
    steps = [step async for step in handle.steps()]
    assert [(step.name, step.kind) for step in steps if step.name == "attributes"] == [
        ("attributes", types_pb2.STEP_KIND_MARKER)
    ] * 2


async def test_they_go_along_with_a_chain(one: Live) -> None:
    handle = await one.client.start_run(flow, 1, workflow_id="w", search_attributes={"env": "prod"})
    async with one.working(workflows=[flow]):
        await suspended(handle)
        await handle.signal("go")
        later: RunHandle[str] = one.client.run(workflow_id="w")
        await described(later, lambda run: run.run_id != handle.run_id and run.phase == types_pb2.RUN_PHASE_SUSPENDED)
        assert values_of((await later.describe()).search_attributes) == {"env": "prod", "rounds": 0, "stage": "begun"}
        await later.signal("go")
        async with asyncio.timeout(60):
            assert await handle.result() == "done"


async def test_too_many_stop_nobody(one: Live) -> None:
    @workflow(name="greedy")
    async def greedy(ctx: Context) -> str:
        ctx.set_attributes({f"n{place}": place for place in range(32)})
        return await ctx.step("last", lambda: "went on")

    handle = await one.client.start_run(greedy, search_attributes={"env": "prod"})
    async with one.working(workflows=[greedy]), asyncio.timeout(60):
        assert await handle.result() == "went on"
    (step, _) = [step async for step in handle.steps()]
    assert (step.state, step.failure.type) == (types_pb2.STEP_STATE_FAILED, "LIMIT_EXCEEDED")
    assert values_of((await handle.describe()).search_attributes) == {"env": "prod"}


async def test_refusals_have_classes(one: Live) -> None:
    handle = await one.client.start_run("none", search_attributes={f"n{place}": place for place in range(32)})
    with pytest.raises(LimitExceeded):
        await handle.set_attributes({"more": 1})
    with pytest.raises(InvalidField, match="attributes"):
        await handle.set_attributes({"no name": 1})


async def test_the_sync_client_sets_them(one: Live) -> None:
    def work() -> tuple[dict[str, Value], list[str]]:
        with sync.Client.connect(one.client.address) as client:
            handle = client.start_run("none", search_attributes=VALUES)
            after = handle.set_attributes({"env": None, "none": None})
            return after, [run.run_id for run in client.list_runs(filter="attribute.score = 0.5")]

    after, listed = await asyncio.to_thread(work)
    assert after == {name: value for name, value in VALUES.items() if name not in {"env", "none"}}
    assert len(listed) == 1


async def test_the_command_shows_and_sets_them(one: Live) -> None:
    out = await stepwell(one.client, "run", "start", "none", "--workflow-id", "w", "--attribute", "env=prod")
    assert "was started" in out
    assert await stepwell(one.client, "run", "attributes", "w") == 'env = "prod"\n'
    out = await stepwell(
        one.client, "run", "attributes", "w", "score=0.5", "ok=true", 'code="7"', "--remove", "env", "-o", "json"
    )
    assert json.loads(out) == {"code": "7", "ok": True, "score": 0.5}
    out = await stepwell(one.client, "run", "list", "--where", 'attribute.code = "7" AND attribute.score < 1')
    assert " w " in out
    assert "no run is like that" in await stepwell(one.client, "run", "list", "--where", "attribute.env:*")
    assert "score=0.5" in await stepwell(one.client, "run", "show", "w")
