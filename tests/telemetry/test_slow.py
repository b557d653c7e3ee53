"""Slow operations have a line in the log, which says where the time went, and tells no secret; few lines for many."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from structlog.testing import capture_logs
from tests.chaos.kit import free_port
from tests.loops.rig import rigged
from tests.stream.kit import BLOCKED, SECONDS, until
from tests.telemetry.seen import CALLER
from tests.telemetry.test_counting import served
from tests.telemetry.test_logs import HIDDEN, KEYS, lived, start

from stepwell.v1 import runs_pb2
from stepwell_server.settings import Settings
from stepwell_server.store.database import Database
from stepwell_server.store.statements import Statement
from stepwell_server.telemetry import slow, slow_log
from stepwell_server.telemetry.slow_log import Slow

PARTS = {"queue_seconds", "load_seconds", "decide_seconds", "write_seconds", "commit_seconds"}


def told_in(log: Path) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "slow"]


async def test_each_kind_is_told_with_its_parts_and_without_contents(tmp_path: Path, database_url: str) -> None:
    """Here everything is slow. A call that was asked to wait is not, however long it waits."""
    async with served(tmp_path, database_url, free_port(), {}, SLOW_SECONDS="0.0000001") as (_, replica):
        run_id = await lived(replica)
        waiting = runs_pb2.WaitRunRequest(run_id=run_id)
        await replica.runs.WaitRun(waiting, timeout=SECONDS)
    lines = told_in(tmp_path / "server.log")
    assert {line["kind"] for line in lines} == {"call", "batch", "statement", "round"}
    assert HIDDEN not in json.dumps(lines)
    first = next(line for line in lines if line["kind"] == "call" and line["name"] == "RunService/StartRun")
    assert first["trace_id"] == CALLER[3:35]
    assert first["code"] == "OK"
    assert first.keys() >= PARTS
    assert sum(first[part] for part in PARTS) <= first["seconds"] + 0.01
    batch = next(line for line in lines if line["kind"] == "batch")
    assert batch.keys() >= PARTS | {"commands", "runs"}
    assert not [line for line in lines if line["name"] == "RunService/WaitRun"]


async def test_what_holds_a_batch_up_is_told(database_url: str) -> None:
    """Somebody has locked a table: writing takes the time, and loading none."""
    async with rigged(database_url, lock_seconds=30.0) as rig:
        await rig.start()
        blocker = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        with capture_logs() as lines:
            slow.set_seconds(0.2)
            try:
                starting = asyncio.create_task(rig.start())
                await until(lambda: blocker.fetchval(BLOCKED))
                await asyncio.sleep(0.3)
                await transaction.rollback()
                await starting
            finally:
                slow.set_seconds(0)
                await blocker.close()
    (batch,) = [line for line in lines if line.get("kind") == "batch"]
    assert batch["write_seconds"] >= 0.2
    assert batch["write_seconds"] > batch["load_seconds"] + batch["decide_seconds"] + batch["commit_seconds"]
    (statement,) = [line for line in lines if line.get("kind") == "statement"]
    assert "insert_events" in statement["name"]


async def test_cold_statements_are_told_by_their_text_without_values(database_url: str) -> None:
    """And one that is cancelled for taking too long, above all."""
    database = Database(Settings(database_url=database_url, statement_seconds=0.5, slow_seconds=0.1))
    slow.set_seconds(0.1)
    try:
        with capture_logs() as lines:
            async with database.pool.begin() as connection:
                await connection.exec_driver_sql("SELECT pg_sleep($1), $2::text", (0.2, HIDDEN))
            with pytest.raises(Exception, match=r".*"):
                async with database.pool.begin() as connection:
                    await connection.exec_driver_sql("SELECT pg_sleep($1)", (5.0,))
            dedicated = await database.connect()
            with pytest.raises(Exception, match=r".*"):
                await dedicated.fetch(Statement("words", "sleep", "SELECT pg_sleep($1)", "", is_read=True), 5.0)
            await dedicated.close()
    finally:
        slow.set_seconds(0)
        await database.close()
    named = [line["name"] for line in lines if line.get("kind") == "statement"]
    assert named == ["SELECT pg_sleep($1), $2::text", "SELECT pg_sleep($1)", "sleep"]
    assert HIDDEN not in str(lines)


def test_many_slow_ones_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind so many in a while; the next line says how many were not told."""
    now = 100.0
    monkeypatch.setattr("stepwell_server.telemetry.slow_log.time.monotonic", lambda: now)
    told = Slow()
    with capture_logs() as lines:
        for number in range(3 * slow_log.MOST):
            told.tell("call", str(number), 2.0)
        told.tell("batch", "commit", 2.0)
        now += slow_log.WHILE_SECONDS
        told.tell("call", "later", 2.0)
        told.tell("call", "last", 2.0)
    calls = [line for line in lines if line["kind"] == "call"]
    assert len(calls) == slow_log.MOST + 2
    assert [line.get("left_out") for line in calls[-2:]] == [2 * slow_log.MOST, None]
    assert len(lines) == len(calls) + 1


def test_none_is_slow_where_it_is_off() -> None:
    told = Slow()
    told.set_seconds(0.5)
    assert told.seconds == 0.5
    told.set_seconds(0)
    assert told.seconds == math.inf


async def test_a_call_that_fails_is_told_with_its_status(tmp_path: Path, database_url: str) -> None:
    async with served(tmp_path, database_url, free_port(), {}, SLOW_SECONDS="0.0000001") as (_, replica):
        request = start()
        request.type = ""
        with pytest.raises(grpc.aio.AioRpcError):
            await replica.runs.StartRun(request, timeout=SECONDS, metadata=KEYS)
    (line,) = [line for line in told_in(tmp_path / "server.log") if line["name"] == "RunService/StartRun"]
    assert (line["code"], line["trace_id"]) == ("INVALID_ARGUMENT", CALLER[3:35])
    assert line.keys().isdisjoint(PARTS)
