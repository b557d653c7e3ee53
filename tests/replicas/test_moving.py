"""A worker's stream is cut, or its replica dies: it goes on at another one with what it has in hand."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.chaos.invariants import check
from tests.chaos.kit import Process, Stage, connect, results, until
from tests.chaos.worker import QUEUE
from tests.replicas import worker
from tests.replicas.kit import Balancer, Fleet, workers

# How often an activity was granted, in which attempt, and to whose session.
LEASE = "SELECT grants, attempt, session_id::text FROM stepwell.steps WHERE session_id IS NOT NULL AND ordinal > 0"
SESSION = re.compile(r"connected: session (\S+?)(, resumed)?$", re.MULTILINE)


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def lease(look: asyncpg.Connection) -> list[Any]:
    return [tuple(row) for row in await look.fetch(LEASE)]


def resumptions(process: Process) -> int:
    """How often the worker has gone on with its session on another stream."""
    return sum(bool(resumed) for _, resumed in SESSION.findall(process.log.read_text()))


@pytest.mark.parametrize("how", ["cut", "killed", "stopped"])
async def test_a_worker_moves_with_what_it_has_in_hand(scene: Stage, how: str) -> None:
    """The same session holds the same activity under the same token, and its effect happens once."""
    fleet = Fleet(scene, 2)
    gate = scene.folder / "gate"
    await fleet.start()
    async with (
        Balancer(fleet.ports[:1]) as balancer,
        looking(scene.database_url) as look,
        await connect(f"127.0.0.1:{fleet.ports[1]}") as client,
    ):
        (working,) = await workers(scene, balancer.address, REPLICAS_GATE=str(gate))
        handle = await client.start_run(worker.single, "x", task_queue=QUEUE)
        await until(lambda: scene.done("activity"))
        held = await lease(look)
        assert [grants for grants, _, _ in held] == [1]
        balancer.targets = fleet.ports[1:]
        match how:
            case "cut":
                balancer.cut()
            case "killed":
                await fleet.kill(0)
            case _:
                assert await fleet.end(0) < 10
        await until(lambda: resumptions(working) == 1)
        assert await lease(look) == held
        gate.touch()
        assert await results([handle]) == ["x"]
        seen = await check(scene.database_url, scene.done(), [handle.run_id])
    assert seen["run interrupted"] + seen["activity interrupted"] + seen["activity returned"] == 0
    assert len(scene.done("activity")) == 1
