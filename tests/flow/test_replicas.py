"""Concurrency limits across replicas: they hold, and whoever was left waiting is found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.flow.test_concurrency import gated, has_slot, is_waiting, start
from tests.sdk.live import Live, live

from stepwell import Concurrency, Context, workflow
from stepwell_server.engine.committer.protocols import AnyChange
from stepwell_server.loops.concurrency import Slots

AT_WORK: dict[str, int] = {}
MOST = 3


@workflow
async def counted(ctx: Context, key: str) -> int:
    """Notes how many of its key are at work while it is."""
    AT_WORK[key] = AT_WORK.get(key, 0) + 1
    seen = AT_WORK[key]
    await ctx.step("at work", asyncio.sleep, 0)
    AT_WORK[key] -= 1
    return seen


async def test_a_limit_holds_across_replicas(two: tuple[Live, Live]) -> None:
    """Runs that are started on both, and ended by workers of both: never more than the limit at once, and all end."""
    AT_WORK.clear()
    limits = {key: Concurrency(key=key, maximum_runs=MOST) for key in ("a", "b")}
    async with two[0].working(workflows=[counted]), two[1].working(workflows=[counted]):
        runs = await asyncio.gather(
            *(
                two[n % 2].client.start_run(counted, "ab"[n % 3 % 2], concurrency=limits["ab"[n % 3 % 2]])
                for n in range(20)
            )
        )
        seen: Sequence[int] = await asyncio.gather(*(run.result() for run in runs))
    assert 1 < max(seen) <= MOST
    assert AT_WORK == {"a": 0, "b": 0}


async def test_who_was_left_waiting_is_found(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that dies before it comes to look leaves a free slot and a run that waits: the leader finds them."""

    def deaf(slots: Slots, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        del slots, committer, position, changes

    monkeypatch.setattr(Slots, "committed", deaf)
    async with live(database_url, slot_poll_seconds=0.05) as one, one.working(workflows=[gated]):
        first, second = await start(one), await start(one)
        await has_slot(first)
        await is_waiting(second)
        await first.terminate()
        await has_slot(second)
