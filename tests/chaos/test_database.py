"""Postgres killed under two replicas, and back: also in the middle of one's batch while the other commits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.chaos import worker
from tests.chaos.commits import CommitHolder, outcome, through
from tests.chaos.invariants import check
from tests.chaos.kit import Proxy, Stage, connected, free_port, results, stage, start_errands

from stepwell_server.embedded import EmbeddedPostgres, create_database
from stepwell_server.store import migrations

COUNT, ACTIVITIES = 6, 12
EXPECTED = worker.expected(ACTIVITIES)


async def judged(scene: Stage, handles: Any) -> Counter[str]:
    assert await results(handles) == [EXPECTED] * len(handles)
    return await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])


@asynccontextmanager
async def on_stage(tmp_path: Path, session_dir: Path) -> AsyncIterator[tuple[EmbeddedPostgres, Stage]]:
    """A durable Postgres to kill, and who works on it."""
    async with EmbeddedPostgres(session_dir / tmp_path.name) as postgres:
        url = await create_database(postgres.url, "chaos")
        await migrations.migrate(url)
        async with stage(tmp_path, url) as scene:
            yield postgres, scene


@asynccontextmanager
async def looking(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


def kill(postgres: EmbeddedPostgres) -> None:
    """The server with all its backends at once, as a power cut would, where it is known which those are."""
    backends = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            backends += [int(entry.parent.name)] if parent == postgres.pid else []
    for pid in (postgres.pid, *backends):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("reply", [False, True], ids=["before the commit", "before its reply"])
async def test_the_database_killed_in_one_replicas_batch_while_anothers_commits(
    tmp_path: Path, session_dir: Path, reply: bool
) -> None:
    """One has written its batch and its COMMIT (or the reply) is under way; the other commits and acknowledges."""
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with AsyncExitStack() as stack:
        postgres, scene = await stack.enter_async_context(on_stage(tmp_path, session_dir))
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
        await scene.server(ports[0], through(scene.database_url, proxy), IDLE_TRANSACTION_SECONDS="60")
        await scene.server(ports[1])
        one, other = await stack.enter_async_context(connected(*addresses))
        for address in addresses:
            await scene.worker(address)
        handles = [*await start_errands(one, COUNT, ACTIVITIES), *await start_errands(other, COUNT, ACTIVITIES)]
        await scene.more(10)

        look = await stack.enter_async_context(looking(scene.database_url))
        holder = CommitHolder(proxy, look, reply=reply)
        # What has an attribute is more than one statement, and so has a COMMIT.
        start = one.start_run(worker.errand, ACTIVITIES, task_queue=worker.QUEUE, search_attributes={"held": 1})
        unheard = asyncio.create_task(start)
        xid = await holder.held()
        handles += await start_errands(other, COUNT, ACTIVITIES)
        assert await outcome(look, xid) == ("committed" if reply else "in progress")
        assert not unheard.done()
        restarts = postgres.restart_count
        kill(postgres)
        holder.lose()
        await postgres.wait_restarted(restarts)

        look = await stack.enter_async_context(looking(scene.database_url))
        assert await outcome(look, xid) == ("committed" if reply else "aborted")
        handles.append(await unheard)
        await judged(scene, handles)


async def killed_under_load(tmp_path: Path, session_dir: Path, kills: int) -> None:
    """In turn while activities are performed, and while runs are started."""
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with on_stage(tmp_path, session_dir) as (postgres, scene):
        for port in ports:
            await scene.server(port)
        async with connected(*addresses) as clients:
            for address in addresses:
                await scene.worker(address)
            handles = []
            for number in range(kills):
                starting = [start_errands(client, COUNT, ACTIVITIES) for client in clients]
                under_way = asyncio.gather(*starting)
                if number % 2:
                    await asyncio.sleep(0.02)
                else:
                    handles += [handle for started in await under_way for handle in started]
                    await scene.more(20)
                restarts = postgres.restart_count
                kill(postgres)
                await postgres.wait_restarted(restarts)
                if number % 2:
                    handles += [handle for started in await under_way for handle in started]
            await judged(scene, handles)


async def test_the_database_killed_under_load(tmp_path: Path, session_dir: Path) -> None:
    await killed_under_load(tmp_path, session_dir, 2)


@pytest.mark.long
async def test_the_database_killed_again_and_again(tmp_path: Path, session_dir: Path) -> None:
    await killed_under_load(tmp_path, session_dir, 6)
