"""Connections cut at the worst moment: around a COMMIT, and between workers and the service."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.chaos import worker
from tests.chaos.commits import CommitCutter, through
from tests.chaos.invariants import check
from tests.chaos.kit import Proxy, Stage, connected, free_port, results, start_errands

COUNT, ACTIVITIES = 6, 12
EXPECTED = worker.expected(ACTIVITIES)


async def judged(scene: Stage, handles: Any) -> Counter[str]:
    assert await results(handles) == [EXPECTED] * len(handles)
    return await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])


async def cut_at_commits(scene: Stage, between: Proxy, rounds: int, every: int) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    await scene.server(port, through(scene.database_url, between))
    async with connected(address) as (client,):
        for _ in range(2):
            await scene.worker(address)
        cutter = CommitCutter(between, every)
        handles = []
        for _ in range(rounds):
            handles += await start_errands(client, COUNT, ACTIVITIES)
        assert await results(handles) == [EXPECTED] * len(handles)
        cutter.stop()
        assert cutter.before >= 2
        assert cutter.after >= 2
        await judged(scene, handles)


async def test_the_connection_cut_before_a_commit_and_before_its_reply(scene: Stage, between: Proxy) -> None:
    """Every caller gets the true answer: what was committed is not done again, what was not is."""
    await cut_at_commits(scene, between, 1, every=9)


@pytest.mark.long
async def test_the_connection_cut_at_every_fourth_commit(scene: Stage, between: Proxy) -> None:
    await cut_at_commits(scene, between, 3, every=4)


async def test_workers_streams_cut_again_and_again(scene: Stage) -> None:
    """They resume what they hold; each report that had no answer is sent again, and recorded once."""
    port = free_port()
    await scene.server(port)
    async with Proxy("127.0.0.1", port) as proxy, connected(f"127.0.0.1:{port}") as (client,):
        for _ in range(2):
            await scene.worker(f"127.0.0.1:{proxy.port}")
        handles = await start_errands(client, COUNT, ACTIVITIES)
        for _ in range(5):
            await scene.more(8)
            proxy.cut()
        await judged(scene, handles)


async def test_workers_whose_answers_are_kept_back(scene: Stage) -> None:
    """What they report is recorded and they do not hear so: half-open connections."""
    port = free_port()
    await scene.server(port)
    async with Proxy("127.0.0.1", port) as proxy, connected(f"127.0.0.1:{port}") as (client,):
        for _ in range(2):
            await scene.worker(f"127.0.0.1:{proxy.port}")
        handles = await start_errands(client, COUNT, ACTIVITIES)
        for _ in range(3):
            await scene.more(10)
            proxy.kept.clear()
            proxy.keeps_answers = True
            await proxy.kept.wait()
            proxy.keeps_answers = False
            # What was kept back is gone for good: the stream has a hole, and must end.
            proxy.cut()
        await judged(scene, handles)
