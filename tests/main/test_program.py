"""The program as an operator meets it: what it refuses, what it says, how it ends, who leads while it is frozen."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from tests.loops.rig import rigged, until
from tests.main.program import outcome, program

from stepwell_server.engine.reported import NewTimer
from stepwell_server.model.events import EventType


async def test_serve_needs_a_database_url() -> None:
    code, said = await outcome("serve")
    assert code == 2
    assert "STEPWELL_DATABASE_URL is not set" in said
    assert "Traceback" not in said


async def test_a_wrong_setting_is_named() -> None:
    code, said = await outcome("serve", DATABASE_URL="mysql://x", PORT="70000")
    assert code == 2
    assert "database_url: " in said
    assert "port: " in said
    assert "Traceback" not in said


async def test_a_port_in_use_is_a_clear_error(database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = await outcome("serve", "--port", str(port), DATABASE_URL=database_url)
    assert code == 1
    assert f"127.0.0.1:{port} can't be bound" in said
    assert "Traceback" not in said


async def test_migrate_and_check(empty_database_url: str) -> None:
    url = empty_database_url
    code, said = await outcome("check", DATABASE_URL=url)
    assert code == 1
    assert "run `stepwell-server migrate`" in said
    both = await asyncio.gather(
        outcome("migrate", "--output", "json", DATABASE_URL=url),
        outcome("migrate", "--output", "json", DATABASE_URL=url),
    )
    told = [json.loads(next(line for line in said.splitlines() if '"from_version"' in line)) for _, said in both]
    assert [code for code, _ in both] == [0, 0]
    assert sorted(bool(each["applied"]) for each in told) == [False, True]
    code, said = await outcome("check", "-o", "json", DATABASE_URL=url)
    assert code == 0
    assert json.loads(said)["standing"] == "UP_TO_DATE"


async def test_a_database_that_is_not_there_is_one_sentence() -> None:
    code, said = await outcome("check", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert code == 1
    assert said.startswith("stepwell-server: the database can't be used: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(database_url: str, number: signal.Signals) -> None:
    async with program("serve", "--port", "0", DATABASE_URL=database_url) as server:
        await server.say("serving")
        await server.say("elected")
        server.send(number)
        await server.say("stopping")
        await server.say("resigned")
        await server.say("stopped")
        assert await server.end() == 0


async def test_the_test_clock_is_a_flag(database_url: str) -> None:
    async with program("serve", "--port", "0", "--test-clock", DATABASE_URL=database_url) as server:
        await server.say("serving")


@pytest.mark.long
async def test_dev_brings_its_own_postgres_and_shares_it_with_nobody(data_dir: Path) -> None:
    """What was recorded is there the next time."""
    folder = ("--data-dir", str(data_dir))
    async with program("dev", "--port", "0", *folder, LOG_FORMAT="json") as server:
        address = (await server.say("serving"))["address"]
        code, said = await outcome("dev", "--port", "0", *folder, LOG_FORMAT="json")
        assert code == 1
        assert f"is in use by process {server.process.pid}" in said
        server.send(signal.SIGTERM)
        await server.say("stopped")
        assert await server.end() == 0
        assert address in server.printed
        assert "grpcurl -plaintext" in server.printed
    async with program("dev", "--port", "0", *folder, LOG_FORMAT="json") as server:
        assert (await server.say("elected"))["epoch"] == 2
        server.send(signal.SIGTERM)
        await server.say("stopped")
        assert await server.end() == 0


DUTIES = {"timers", "deadlines", "expiry", "mail", "partitions", "pruner"}
FROZEN = [
    # The time stands only in the long one: any machine is slow at times.
    pytest.param({"LEADER_IDLE_SECONDS": "2", "LEADER_PROBE_SECONDS": "0.3"}, 60.0, id="quick"),
    pytest.param({}, 7.0, id="defaults", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("variables", "within"), FROZEN)
async def test_a_frozen_leader_is_replaced_and_thaws_harmless(
    database_url: str, variables: dict[str, str], within: float
) -> None:
    serve = {"DATABASE_URL": database_url, "LOG_LEVEL": "debug", **variables}
    async with rigged(database_url) as rig, AsyncExitStack() as programs:
        first = await programs.enter_async_context(program("serve", "--port", "0", **serve))
        begun = (await first.say("elected"))["epoch"]
        while not {line["loop"] for line in first.lines if line["event"] == "round"} >= DUTIES:
            await first.say("round")
        second = await programs.enter_async_context(program("serve", "--port", "0", **serve))
        await second.say("serving")
        first.send(signal.SIGSTOP)
        key = await rig.waiting_run(NewTimer(0.1))
        follows = (await second.say("elected", seconds=within))["epoch"]
        assert follows > begun

        async def fired() -> bool:
            return await rig.events(key, EventType.TIMER_FIRED) == 1

        await until(fired)
        thaw_time = datetime.now(UTC)
        first.send(signal.SIGCONT)
        await first.say("resigned")
        since = [line for line in first.lines if datetime.fromisoformat(line["timestamp"]) > thaw_time]
        assert [line["loop"] for line in since if line["event"] == "round" and line["loop"] in DUTIES] == []
        second.send(signal.SIGTERM)
        assert (await first.say("elected"))["epoch"] > follows
        assert await rig.events(key, EventType.TIMER_FIRED) == 1


async def test_the_leaders_backend_is_killed(database_url: str) -> None:
    """Whoever wins next, there is a new term and the duties go on."""
    async with program("serve", "--port", "0", DATABASE_URL=database_url, LOG_LEVEL="debug") as server:
        await server.say("elected", epoch=1)
        sql = await asyncpg.connect(database_url)
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND "
            "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await sql.close()
        await server.say("resigned", epoch=1)
        await server.say("elected", epoch=2)
        await server.say("round", loop="timers")
