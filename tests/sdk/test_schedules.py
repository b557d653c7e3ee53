"""Schedules by the client and by the command, on a server whose clock is moved."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests import warm

from stepwell import Context, sync, workflow
from stepwell.reasons import InvalidField, ScheduleExists, ScheduleNotFound
from stepwell.testing import TestServer


@workflow
async def report(ctx: Context, day: str) -> str:
    """Returns at once."""
    return day


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[TestServer]:
    async with TestServer() as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
async def test_a_nightly_report(server: TestServer) -> None:
    """Made, fired by the clock, worked on, changed, paused, triggered and deleted."""
    schedules = server.client.schedules
    made = await schedules.create("nightly", report, "day", cron="0 3 * * *", time_zone="Europe/Berlin", task_queue="q")
    assert made.run.type == "report"
    with pytest.raises(ScheduleExists):
        await schedules.create("nightly", report, cron="@daily")
    async with server.worker("q", workflows=[report]):
        await server.advance(made.next_time.ToDatetime(dt.UTC) - await server.now() + dt.timedelta(seconds=1))
        async with asyncio.timeout(60):
            while not (fired := await schedules.get("nightly")).last_run_id:  # noqa: ASYNC110 - the service is remote
                await asyncio.sleep(0.02)
        assert await server.client.run(fired.last_run_id, as_type=str).result() == "day"
    changed = await schedules.update("nightly", cron="@hourly", overlap="allow_all")
    assert (changed.spec.cron, changed.spec.time_zone, changed.run.type) == ("@hourly", "Europe/Berlin", "report")
    assert await schedules.pause("nightly", "holidays")
    assert (await schedules.trigger("nightly")).started
    assert await schedules.resume("nightly")
    now = await server.now()
    assert await schedules.backfill("nightly", now - dt.timedelta(hours=2), now) == 2
    times = await schedules.next_times("nightly", 2)
    assert times[1] - times[0] == dt.timedelta(hours=1)
    assert [each.name async for each in schedules.list()] == ["nightly"]
    assert await schedules.delete("nightly")
    with pytest.raises(ScheduleNotFound):
        await schedules.get("nightly")
    with pytest.raises(InvalidField):
        await schedules.create("bad", report, cron="never")


@pytest.mark.asyncio(loop_scope="module")
async def test_without_asyncio(server: TestServer) -> None:
    """The sync client has the same."""

    def work() -> list[str]:
        with sync.Client.connect(server.address) as client:
            client.schedules.create("plain", "report", cron="@daily")
            client.schedules.update("plain", cron="@hourly")
            assert client.schedules.pause("plain")
            assert client.schedules.resume("plain")
            assert client.schedules.trigger("plain", skip_if_open=True).started
            found = [each.spec.cron for each in client.schedules.list()]
            assert client.schedules.delete("plain")
            return found

    assert await asyncio.to_thread(work) == ["@hourly"]


async def command(server: TestServer, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        warm.command(), "--address", server.address, "schedule", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.asyncio(loop_scope="module")
async def test_by_the_command(server: TestServer) -> None:
    """As a person would."""
    code, out, err = await command(server, "create", "c", "report", "--cron", "0 9 * * MON", "--input", '"x"')
    assert (code, err) == (0, "")
    assert "0 9 * * MON" in out
    code, out, _ = await command(server, "list", "-o", "json")
    assert [each["name"] for each in json.loads(out)] == ["c"]
    for arguments, text in (
        (("update", "c", "--cron", "@daily", "--overlap", "buffer_one"), "buffer_one"),
        (("pause", "c", "--reason", "why"), "is paused"),
        (("show", "c"), "why"),
        (("resume", "c"), "fires again"),
        (("next", "c", "--count", "1"), "T00:00:00"),
        (("trigger", "c"), "was started"),
        (("trigger", "c", "--skip-if-open"), "is still open"),
        (("backfill", "c", "--start", "2020-01-01T00:00:00Z", "--end", "2020-01-03T00:00:00Z"), "2 times"),
        (("delete", "c"), "was deleted"),
    ):
        code, out, err = await command(server, *arguments)
        assert (code, err) == (0, ""), arguments
        assert text in out
    code, _, err = await command(server, "show", "c")
    assert code == 1
    assert "stepwell schedule list" in err
    code, _, err = await command(server, "create", "d", "report", "--cron", "@daily", "--overlap", "none")
    assert code == 1
    assert "buffer_one" in err
