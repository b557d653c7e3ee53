"""PgBouncer in transaction mode: good for cold calls, and found out where sessions are needed."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs
from tests.hostile.answers import alarming
from tests.hostile.methods import Method, methods
from tests.hostile.test_hostile import NOT_OK
from tests.hostile.world import World, world
from tests.loops.rig import rig_settings
from tests.main.program import outcome
from tests.main.test_service import NOT_SERVING, QUICK, SERVING, has_looked, health, refused, watched
from tests.poolers import pooler
from tests.sdk.live import live
from tests.service import soon

from stepwell import Context, activity, workflow
from stepwell_server.service import Service
from stepwell_server.store import migrations
from stepwell_server.store.directness import ANOTHER_DATABASE, NOT_DIRECT, Misaddressed

# A pooler that was told to swallow what it does not know.
SWALLOWS = {"ignore_startup_parameters": "search_path,extra_float_digits"}
# And one whose sessions happen to begin with the setting that is looked at.
SEEMING = "connect_query='select set_config(''search_path'', ''\"stepwell\"'', false)'"
# As many server connections as it may have; there are more who want one.
FEW = 3
AT_ONCE = 12
# The pooler comes by TCP, and all else by the socket.
POOLED = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND client_addr IS NOT NULL"


@activity
async def double(number: int) -> int:
    return number * 2


@workflow
async def sums(ctx: Context, count: int) -> int:
    return sum(await ctx.map(double, list(range(count))))


async def test_every_call_is_good_through_a_pooler(data_dir: Path, database_url: str) -> None:
    """Each RPC, a dozen at a time, over three sessions that any of them may get."""
    async with (
        pooler(data_dir, database_url, default_pool_size=str(FEW)) as through,
        world(database_url, pool_url=through.url, pool_connections=AT_ONCE) as made,
    ):
        with capture_logs() as logs:
            found = await every_outcome(made)
        look = await asyncpg.connect(database_url)
        sessions = await look.fetchval(POOLED)
        await look.close()
    assert {name: code.split()[0] for name, code in found.items()} == {name: NOT_OK.get(name, "OK") for name in found}
    assert alarming(logs) == []
    assert 2 <= sessions <= FEW


async def every_outcome(made: World) -> dict[str, str]:
    """What a good request of each method comes to, all of them several times over each other."""
    room = asyncio.Semaphore(AT_ONCE)

    async def called(method: Method) -> tuple[str, str]:
        async with room:
            code = "ABORTED"
            # One that meets a clean-up of all runs on its way is asked to come again.
            while code.startswith("ABORTED"):
                code = await made.outcome(method, await made.good(method))
            return method.name, code

    # The clock is another test's to move.
    unary = [method for method in methods() if method.is_unary and method.service != "ClockService"]
    return dict(await asyncio.gather(*(called(method) for method in unary)))


async def test_runs_schedules_lists_and_archives_through_a_pooler(data_dir: Path, database_url: str) -> None:
    archives = data_dir / "archives"
    async with (
        pooler(data_dir, database_url, default_pool_size=str(FEW)) as through,
        live(database_url, pool_url=through.url, pool_connections=AT_ONCE, archive_folder=archives) as both,
        both.working(workflows=[sums], activities=[double]),
    ):
        client = both.client
        archives.mkdir()
        await client.schedules.create("often", sums, 3, cron="@every 1s", task_queue="default")
        handles = [await client.start_run(sums, 4, task_queue="default", search_attributes={"n": n}) for n in range(20)]
        assert [await handle.result() for handle in handles] == [12] * 20
        lists = [client.list_runs(filter=f"attribute.n >= {n}") for n in range(20)]
        counts = await asyncio.gather(*(_count(each) for each in lists))
        assert counts == list(range(20, 0, -1))

        async def fired() -> bool:
            return await _count(client.list_runs(phases=["completed"])) > 20

        await soon(fired)
        await client.schedules.delete("often")
        await client.update_namespace("main", archive_url=f"file://{archives}")
        later = datetime.now(UTC) + timedelta(hours=1)
        assert sum([count async for count in client.retention.archive(later)]) > 20
        assert Counter(path.is_file() for path in archives.rglob("*"))[True] > 20


async def _count(items: Any) -> int:
    return len([item async for item in items])


@pytest.mark.parametrize("settings", [{}, SWALLOWS], ids=["refuses settings", "swallows settings"])
async def test_a_pooler_in_the_direct_address_is_told(
    data_dir: Path, database_url: str, settings: dict[str, str]
) -> None:
    """The server stands by, and says what to set; so do the commands."""
    async with pooler(data_dir, database_url, **settings) as through:
        service = Service(rig_settings(through.url, **QUICK))
        await service.start()
        try:
            await soon(has_looked(service))
            assert await health(service.address) == NOT_SERVING
            code, reason, advice = await refused(service.address)
            assert (code, reason) == ("UNAVAILABLE", "SERVER_NOT_READY")
            assert advice == f"The server is not ready: {NOT_DIRECT}."
        finally:
            await service.stop()
        for command in ("migrate", "check"):
            exit_code, said = await outcome(command, DATABASE_URL=through.url)
            assert exit_code == 1
            assert NOT_DIRECT in said


async def test_sessions_that_are_shared_are_found_out(data_dir: Path, database_url: str) -> None:
    """Nothing is refused and nothing seems missing, but a transaction of somebody else takes the session away."""
    async with pooler(data_dir, database_url, SEEMING, **SWALLOWS) as through:
        with pytest.raises(Misaddressed, match="STEPWELL_POOL_URL"):
            await migrations.check(through.url)


async def test_a_session_that_is_kept_will_do(data_dir: Path, database_url: str) -> None:
    """In session mode a pooler is as good as none, if the session begins as it was asked to."""
    async with pooler(data_dir, database_url, SEEMING, pool_mode="session", **SWALLOWS) as through:
        assert (await migrations.check(through.url)).may_run


async def test_a_pool_of_another_database_is_told(database_url: str, empty_database_url: str) -> None:
    service = Service(rig_settings(database_url, pool_url=empty_database_url, **QUICK))
    await service.start()
    try:
        await soon(has_looked(service))
        assert (await refused(service.address))[2] == f"The server is not ready: {ANOTHER_DATABASE}."
    finally:
        await service.stop()


async def test_a_pool_that_cannot_be_used_is_told(data_dir: Path, database_url: str) -> None:
    """In statement mode a pooler takes no transactions. The log names the address that is wrong."""
    async with pooler(data_dir, database_url, pool_mode="statement") as through:
        service = Service(rig_settings(database_url, pool_url=through.url, **QUICK))
        with capture_logs() as logs:
            await service.start()
            try:
                await soon(has_looked(service))
                assert await health(service.address) == NOT_SERVING
            finally:
                await service.stop()
    assert any("by STEPWELL_POOL_URL: " in line.get("advice", "") for line in logs)
    async with pooler(data_dir / "again", database_url) as through:
        service = Service(rig_settings(database_url, pool_url=through.url, **QUICK))
        await service.start()
        try:
            await watched(service.address, SERVING)
        finally:
            await service.stop()
