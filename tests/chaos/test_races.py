"""Races while workers are killed: whoever won, stays the winner."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.chaos import worker
from tests.chaos.kit import connected, free_port, results, stage

from stepwell import RunHandle
from stepwell.v1 import types_pb2

RUNS, RACES = 5, 6


async def recorded(handle: RunHandle[Any]) -> list[tuple[int, str]]:
    """Of each race who is on record as its winner, and what was done after it."""
    steps = [step async for step in handle.steps() if not step.scope]
    markers = [step for step in steps if step.name == "__race"]
    after = [step for step in steps if step.name.startswith("after")]
    assert all(step.state == types_pb2.STEP_STATE_COMPLETED for step in after)
    assert len(after) == len(steps) / 2 == len({step.key for step in markers})
    return [(int(marker.result.json) - int(marker.key), step.name) for marker, step in zip(markers, after, strict=True)]


async def test_a_winner_outlives_its_worker(tmp_path: Path, database_url: str) -> None:
    """Killed between an end and its record, between that and what follows, or in the middle of a replay."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with stage(tmp_path, database_url, hold_seconds=0.05) as scene:
        await scene.server(port)
        async with connected(address) as (client,):
            workers = [await scene.worker(address) for _ in range(2)]
            started = (client.start_run(worker.contest, RACES, task_queue=worker.QUEUE) for _ in range(RUNS))
            handles = await asyncio.gather(*started)
            for _ in range(2):
                await scene.more(RUNS)
                await workers.pop(0).kill()
                workers.append(await scene.worker(address))
            for handle, places in zip(handles, await results(handles, 60), strict=True):
                assert await recorded(handle) == [(place, f"after {place}") for place in places]
