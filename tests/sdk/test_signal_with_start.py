"""Signalling a run that is started if it is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.mending.kit import stepwell
from tests.sdk.live import Live, live

from stepwell import Client, Context, RunHandle, errors, sync, workflow


@workflow
async def cart(ctx: Context, owner: str) -> list[Any]:
    return [owner, *[await ctx.wait_signal("item") for _ in range(3)]]


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


async def put(client: Client, item: str, **options: Any) -> RunHandle[list[Any]]:
    return await client.signal_with_start(cart, "Ada", signal="item", value=item, workflow_id="cart-1", **options)


async def test_the_first_signal_starts_the_run(one: Live) -> None:
    """The later ones go to the run that is open; a repeat of one is no other."""
    async with one.working(workflows=[cart]):
        first = await put(one.client, "tea")
        second = await put(one.client, "salt", request_id="r-1")
        again = await put(one.client, "salt", request_id="r-1")
        assert [each.started for each in (first, second, again)] == [True, False, False]
        assert {each.run_id for each in (second, again)} == {first.run_id}

        def more() -> tuple[str, bool]:
            with sync.Client.connect(one.client.address) as client:
                run = client.signal_with_start("cart", "Bob", signal="item", value="rice", workflow_id="cart-1")
                return run.run_id, run.started

        assert await asyncio.to_thread(more) == (first.run_id, False)
        assert await first.result() == ["Ada", "tea", "salt", "rice"]
        anew = await put(one.client, "oil")
        assert anew.started
        assert anew.run_id != first.run_id


async def test_the_command_does_too(one: Live) -> None:
    async with one.working(workflows=[cart]):
        start = ("run", "start", "cart", "--input", '"Ada"', "--workflow-id", "cart-1", "--signal", "item")
        assert "was started" in await stepwell(one.client, *start, "--signal-value", '"tea"')
        assert "was there already" in await stepwell(one.client, *start, "--signal-value", '"salt"')
        assert "rice" in await stepwell(one.client, *start, "--signal-value", '"rice"', "--wait")


async def test_the_run_must_have_a_name(one: Live) -> None:
    with pytest.raises(errors.InvalidArgument, match="workflow_id"):
        await one.client.signal_with_start(cart, "Ada", signal="item")
