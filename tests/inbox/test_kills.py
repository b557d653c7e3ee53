"""Programs killed between any two statements of their transactions, and the service killed amid the inbox."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from tests.chaos.kit import connect, free_port, stage, until
from tests.engine.replica import look, ref
from tests.inbox import customer
from tests.inbox.kit import Seen, consumer, program, signal, start

from stepwell_server.engine.driven_steps import BeginStep
from stepwell_server.model.payloads import NULL

COMMIT = customer.STATEMENTS.index("COMMIT")
MINE = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'customer'"


@pytest.mark.parametrize("done", range(len(customer.STATEMENTS)))
@pytest.mark.parametrize("waits", [True, False], ids=["between", "within"])
async def test_a_program_killed_around_a_statement_asked_for_all_or_nothing(
    database_url: str, done: int, waits: bool
) -> None:
    """Once so many are done, or while the next is on its way: what it asked for is there with its own rows, or not."""
    async with (
        consumer(database_url) as mine,
        program(database_url) as sql,
        look(database_url) as database,
    ):
        engine = await mine.server.start(driven=True)
        await mine.server.do(BeginStep(ref(engine), "charge", NULL, "", 0))
        run_id = uuid4()
        at = "&" if "?" in database_url else "?"
        command = (Path(customer.__file__), f"{database_url}{at}application_name=customer", run_id, engine.run_id)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *map(str, command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for statement in customer.STATEMENTS[:done]:
                process.stdin.write(b"\n")
                assert (await process.stdout.readline()).decode().strip() == statement
                assert await mine.drain() == (3 if statement == "COMMIT" else 0)
            if not waits:
                process.stdin.write(b"\n")
                await process.stdin.drain()
        finally:
            process.kill()
            await process.wait()
        await until(lambda: _gone(database.raw))
        await mine.drain()
        orders = sorted(row[0] for row in await sql.fetch("SELECT name FROM orders"))
        happened = bool(orders)
        assert orders == (["pepper", "tea"] if happened else [])
        if waits or done != COMMIT:
            assert happened is (done > COMMIT)
        assert (run_id in await Seen(sql).runs()) is happened
        assert await Seen(sql).signals() == ({run_id: ["go"]} if happened else {})
        ended = "SELECT count(*) FROM closed_steps WHERE run_key = $1"
        assert await database.value(ended, engine.run_key) == happened
        assert (await Seen(sql).waiting(), await Seen(sql).dead()) == (0, [])


async def _gone(raw: asyncpg.Connection) -> bool:
    return not await raw.fetchval(MINE)


async def test_a_service_killed_again_and_again_does_each_once(tmp_path: Path, database_url: str) -> None:
    """Each time in the middle of what programs go on asking for, of two replicas the one that leads or the other."""
    ports = [free_port(), free_port()]
    terms = {"INBOX_POLL_SECONDS": "0.02", "LEADER_PROBE_SECONDS": "0.2", "LEADER_IDLE_SECONDS": "1"}
    async with stage(tmp_path, database_url) as scene, program(database_url) as sql, asyncio.timeout(100):
        servers = [await scene.server(port, **terms) for port in ports]
        for port in ports:
            await (await connect(f"127.0.0.1:{port}")).close()
        run_ids = [uuid4() for _ in range(10)]
        async with sql.transaction():
            for run_id in run_ids:
                await start(sql, run_id=run_id)
        asked = 0
        for turn in range(4):
            async with sql.transaction():
                for _ in range(600):
                    await signal(sql, run_ids[asked % 10], f"s{asked}")
                    asked += 1
            left = await Seen(sql).waiting()
            await until(partial(_less, sql, left - 50))
            await servers[turn % 2].kill()
            servers[turn % 2] = await scene.server(ports[turn % 2], **terms)
        await until(lambda: _less(sql, 1), 60)
        found = await Seen(sql).signals()
        assert [found[run_id] for run_id in run_ids] == [
            [f"s{number}" for number in range(asked) if number % 10 == place] for place in range(10)
        ]
        assert await Seen(sql).dead() == []


async def _less(sql: asyncpg.Connection, most: int) -> bool:
    return await Seen(sql).waiting() < most
