"""Servers, schemas and clients of two versions side by side: what one of them has begun, the other brings to its end.

The older one is real: it is taken out of history, before the migration that the schema ended with then.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import grpc.aio
import pytest
from tests.chaos.invariants import check
from tests.chaos.job_invariants import check_jobs
from tests.chaos.kit import Process, Stage, connected, free_port, stage
from tests.replicas.errands import ALL, without_turns
from tests.replicas.kit import calling, serving, workers
from tests.replicas.older import TODAYS, Build, command, older, server
from tests.replicas.test_rolling import interruptions, judged
from tests.service import refusal

from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc
from stepwell_server.store import migrations

# The parent of the commit that added migration 0036. Its server must be able to run on today's schema, unless a
# migration says by `min-server` that it may not: then a later commit is to be pinned here.
BEFORE = "78fec67d1bda36f2d094a79367f3341f7e7d885d"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Build:
    build = older(BEFORE, tmp_path_factory.mktemp("older"))
    assert build.number == 35
    lowest = max(each.min_server for each in migrations.shipped())
    assert build.number >= lowest, f"server {build.number} may not run beside today's: pin a commit of {lowest}"
    return build


@asynccontextmanager
async def on(url: str, folder: Path) -> AsyncIterator[Stage]:
    async with stage(folder, url) as made:
        yield made


async def why_not(port: int) -> str:
    """Why a replica refuses a call."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = namespaces_pb2_grpc.NamespaceServiceStub(channel)
        call = stub.ListNamespaces(namespaces_pb2.ListNamespacesRequest(), wait_for_ready=True, timeout=30)
        assert await refusal(call) == ("UNAVAILABLE", "SERVER_NOT_READY")
        return str(await call.details())


async def standing_by(port: int) -> str:
    """The same, once it has looked."""
    async with asyncio.timeout(60):
        while "starting" in (advice := await why_not(port)):  # noqa: ASYNC110 - it tells only who asks
            await asyncio.sleep(0.05)
    return advice


async def leave(process: Process) -> None:
    process.send(signal.SIGTERM)
    async with asyncio.timeout(30):
        assert await process.process.wait() == 0, process.log.read_text()[-2000:]


async def test_an_upgrade_under_load_and_back(
    empty_database_url: str, tmp_path: Path, before: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new server waits for the migration and needs no restart; the old one serves on; either may leave."""
    old_port, new_port = free_port(), free_port()
    both = f"ipv4:127.0.0.1:{old_port},127.0.0.1:{new_port}"
    async with on(empty_database_url, tmp_path) as scene:
        assert (await command(scene, before, "migrate"))["version"] == before.number
        old = await server(scene, before, old_port)
        await workers(scene, both, **before.variables)
        async with calling(monkeypatch, [both], 3) as callers:
            await callers.more(5)
            new = await server(scene, TODAYS, new_port, is_ready=False)
            assert f"version {before.number}, this server has {TODAYS.number}: run" in await standing_by(new_port)
            await callers.more(5)
            assert (await command(scene, TODAYS, "migrate"))["version"] == TODAYS.number
            await serving(new_port)
            found = await command(scene, before, "check")
            assert (found["exit"], found["standing"]) == (0, "AHEAD")
            await workers(scene, both)
            await callers.more(10)
            await leave(new)
            await callers.more(5)
            await server(scene, TODAYS, new_port)
            await leave(old)
            await callers.more(5)
            await callers.end()
        # What the older server itself does wrong when it leaves may interrupt something, and is told by history.
        await judged(scene, callers.noticed)


async def test_two_versions_side_by_side(scene: Stage, before: Build) -> None:
    """Each errand with each of them first, and workers of either client at the other's server."""
    old_port, new_port = free_port(), free_port()
    await asyncio.gather(server(scene, before, old_port), server(scene, TODAYS, new_port))
    old_address, new_address = (f"127.0.0.1:{port}" for port in (old_port, new_port))
    await workers(scene, new_address, **before.variables)
    await workers(scene, old_address)
    async with connected(old_address, new_address) as (old, new):
        async with asyncio.timeout(60):
            errands = [
                errand(one, other, place)
                for place, (one, other) in enumerate([(old, new), (new, old)])
                for errand in ALL
            ]
            run_ids = [run_id for found in await asyncio.gather(*errands) for run_id in found]
        seen = await check(scene.database_url, [line for line in scene.done() if line["kind"] != "job"], run_ids)
        assert interruptions(seen) == 0
        await check_jobs(scene.database_url, scene.done(), [])


async def test_turns_that_an_older_server_takes_away(scene: Stage, before: Build) -> None:
    """With them goes the limit of each key, of which it knows nothing; what is queued then is done all the same."""
    old_port, new_port = free_port(), free_port()
    often = "0.2"
    await asyncio.gather(
        server(scene, before, old_port, QUEUE_SETTINGS_SECONDS=often),
        server(scene, TODAYS, new_port, QUEUE_SETTINGS_SECONDS=often),
    )
    await workers(scene, f"127.0.0.1:{new_port}")
    async with connected(f"127.0.0.1:{old_port}", f"127.0.0.1:{new_port}") as (old, new):
        async with asyncio.timeout(60):
            await without_turns(new, old)


async def test_an_older_server_outside_the_window_stands_by(scene: Stage, before: Build) -> None:
    """It says what to do, and does nothing to the database."""
    sql = await asyncpg.connect(scene.database_url)
    await sql.execute("UPDATE stepwell.stepwell_version SET min_server = $1", before.number + 1)
    port = free_port()
    await server(scene, before, port, is_ready=False)
    advice = await standing_by(port)
    assert f"bears none older than {before.number + 1}: upgrade the server" in advice
    found = await command(scene, before, "check")
    assert (found["exit"], found["standing"]) == (1, "TOO_NEW")
    await sql.execute("UPDATE stepwell.stepwell_version SET min_server = 0")
    await serving(port)
    await sql.close()
