"""A worker that says more than is answered is read no faster than that; others are served meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.hostile.answers import alarming
from tests.stream.kit import ACTIVITY, capacity, hello, replica, until
from tests.stream.wire import Wire, wire

from stepwell.v1.workers_pb2 import (
    Capacity,
    CapacityUpdate,
    ConnectRequest,
    Progress,
    ReleaseTask,
    Report,
    ScopeState,
    TaskHeartbeat,
    TaskRef,
)
from stepwell_server.api.intake import Intake
from stepwell_server.dispatch.messages import ReportAnswer
from stepwell_server.dispatch.outbox import Outbox
from stepwell_server.settings import Limits

MESSAGES, ITEMS = 20, 256
STALE = TaskRef(task_id="1.1", token=1)


class Session:
    """What of a session the intake looks at."""

    def __init__(self, most: int) -> None:
        self.outbox = Outbox(most)
        self.times_heard = 0

    def heard(self) -> bool:
        self.times_heard += 1
        return False


async def test_there_is_room_until_so_many_are_under_way() -> None:
    """Those that came in and are not answered, and answers that were not read, together."""
    session: Any = Session(100)
    intake = Intake(session, Limits(message_items=10, stream_items=50), 60)
    intake.begin(40)
    await intake.room()
    intake.begin(1)
    waiting = asyncio.ensure_future(intake.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    session.outbox.answer(ReportAnswer(1))
    intake.end(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    await session.outbox.take()
    async with asyncio.timeout(60):
        await waiting
    intake.begin(100)
    waiting = asyncio.ensure_future(intake.room())
    session.outbox.close()
    async with asyncio.timeout(60):
        await waiting


async def test_who_waits_for_the_service_is_not_silent_but_who_does_not_read_is() -> None:
    session: Any = Session(100)
    intake = Intake(session, Limits(message_items=10, stream_items=20), 0.001)
    intake.begin(20)
    waiting = asyncio.ensure_future(intake.room())
    await until(lambda: session.times_heard > 1, seconds=20)
    for _ in range(20):
        session.outbox.answer(ReportAnswer(1))
    intake.end(20)
    heard = session.times_heard
    await asyncio.sleep(0.02)
    assert session.times_heard == heard
    assert not waiting.done()
    waiting.cancel()


async def test_a_flood_of_reports_is_read_as_it_is_answered(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is answered no more is taken in than may be under way, and the worker keeps its session."""
    short = Limits(stream_items=300)
    async with replica(database_url, limits=short, ping_seconds=0.4, session_seconds=60.0) as one, wire(one) as stream:
        asked: list[asyncio.Future[object]] = []

        def submit(*_: object) -> asyncio.Future[object]:
            asked.append(asyncio.get_running_loop().create_future())
            return asked[-1]

        monkeypatch.setattr(one.service.dispatcher.committers, "submit", submit)
        release = Report(ref=STALE, release=ReleaseTask())
        for _ in range(MESSAGES):
            await stream.say(reports=[release] * 20)
        await until(lambda: len(asked) > 44)
        (session,) = one.service.dispatcher.sessions.values()
        # Longer than a silent worker would be kept.
        await asyncio.sleep(1.0)
        assert len(asked) == 60
        assert session.attached

        def all_answered() -> bool:
            for future in asked:
                if not future.done():
                    future.set_result(False)
            return len(asked) == MESSAGES * 20

        await until(all_answered)
        monkeypatch.undo()
        await stream.settled()
        assert len(stream.got["results"]) == MESSAGES * 20
        assert stream.ended is None


async def test_many_heartbeats_at_once_cut_off_nobody(database_url: str) -> None:
    """They are written together, and their answers are more than an outbox takes at once."""
    async with replica(database_url) as one, wire(one) as stream:
        for message in range(MESSAGES):
            refs = [TaskRef(task_id=f"{message * ITEMS + item + 1}.1", token=1) for item in range(ITEMS)]
            await stream.say(heartbeats=[TaskHeartbeat(ref=ref) for ref in refs])
        await stream.settled()
        await until(lambda: len(stream.got.get("heartbeats", ())) == MESSAGES * ITEMS)
        assert stream.ended is None
        assert all(beat.lost for beat in stream.got["heartbeats"])


async def test_a_flood_of_empty_messages_stops_nobody_else_s_work(database_url: str) -> None:
    """Another worker's activities are done while the flood lasts; and the flood is read to its end."""
    with capture_logs() as logs:
        async with replica(database_url) as one, wire(one, capacity=capacity(activities=10)) as quiet:
            loud = Wire(one, hello("loud", task_queues=["loud"]))
            await loud.open(is_lively=False)

            async def flood() -> None:
                for _ in range(6_000):
                    await loud.call.write(ConnectRequest())
                await loud.settled()

            flooding = asyncio.ensure_future(flood())
            for _ in range(10):
                job_id = await one.start_job()
                await quiet.complete(await quiet.task(ACTIVITY))
                assert (await one.job_end(job_id)).job_id == job_id
            await flooding
            await loud.cut()
    assert alarming(logs) == []


@pytest.mark.parametrize(
    ("progress", "field"),
    [
        (Progress(scopes=[ScopeState(hash=b"12345678")] * 21), "scopes"),
        (Progress(cancel_ordinals=[1] * 21), "cancel_ordinals"),
        (Progress(stop_ordinals=[1] * 21), "stop_ordinals"),
    ],
)
async def test_a_report_names_no_more_than_a_run_may_have(database_url: str, progress: Progress, field: str) -> None:
    async with replica(database_url, limits=Limits(open_steps=20)) as one, wire(one) as stream:
        result = await stream.report(TaskRef(task_id="1.0", token=1), progress=progress)
        assert f"progress.{field} holds 21 items: give it at most 20" in result.error.message


async def test_a_capacity_has_a_bound(database_url: str) -> None:
    async with replica(database_url) as one, wire(one) as stream:
        many = [Capacity(kind=ACTIVITY, task_queue=f"q{number}", max_outstanding=1) for number in range(257)]
        await stream.say(capacity=CapacityUpdate(capacities=many))
        assert await stream.end() == "INVALID_ARGUMENT"
        assert await stream.reason() == "INVALID_FIELD"
