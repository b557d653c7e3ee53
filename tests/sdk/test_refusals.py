"""What a worker does about refusals: as it is told, and about nothing that is not its own any more."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from google.rpc import error_details_pb2
from tests.sdk.fake_records import refusal
from tests.sdk.fake_service import FakeService, refuse

from stepwell import Client, Worker, activity
from stepwell._outbox import Outbox
from stepwell.v1.workers_pb2 import CompleteActivity, ReportResult, TaskRef

AWAY = refusal(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away")


class Reporter:
    def __init__(self) -> None:
        self.answers: list[ReportResult] = []
        self.is_gone = False

    def report_answered(self, result: ReportResult) -> None:
        self.answers.append(result)

    def has_gone(self) -> bool:
        return self.is_gone


def reported(outbox: Outbox, reporter: Reporter) -> None:
    outbox.report(reporter, TaskRef(task_id="1.1", token=1), {"complete": CompleteActivity()})


def not_now(correlation: int = 1) -> ReportResult:
    result = ReportResult(correlation=correlation)
    refuse(result, AWAY)
    return result


async def sent(outbox: Outbox) -> list[int]:
    """The reports of the next message."""
    await outbox.filled()
    return [report.correlation for report in outbox.take().reports]


async def test_what_is_refused_for_now_is_sent_again_as_it_was() -> None:
    outbox, reporter = Outbox(), Reporter()
    reported(outbox, reporter)
    assert await sent(outbox) == [1]
    outbox.answer(not_now())
    assert await sent(outbox) == [1]
    outbox.answer(ReportResult(correlation=1, status=ReportResult.STATUS_ACCEPTED))
    assert [each.status for each in reporter.answers] == [ReportResult.STATUS_ACCEPTED]
    await outbox.all_answered()


async def test_a_resume_in_between_sends_it_once() -> None:
    outbox, reporter = Outbox(), Reporter()
    reported(outbox, reporter)
    assert await sent(outbox) == [1]
    outbox.answer(not_now())
    outbox.resume()
    assert await sent(outbox) == [1]
    other = Reporter()
    await asyncio.sleep(0.1)  # beyond the delay that was told
    reported(outbox, other)
    assert await sent(outbox) == [2]


async def test_nothing_is_repeated_of_a_task_that_is_gone() -> None:
    outbox, reporter = Outbox(), Reporter()
    reported(outbox, reporter)
    assert await sent(outbox) == [1]
    outbox.answer(not_now())
    reporter.is_gone = True
    async with asyncio.timeout(10):
        await outbox.all_answered()
    reported(outbox, Reporter())
    assert await sent(outbox) == [2]
    assert reporter.answers == []


async def test_a_refused_stream_is_tried_no_sooner_than_advised(
    service: FakeService, client: Client, working: Any
) -> None:
    advised = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", "too many")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(700)
    advised.details.add().Pack(retry)

    @activity
    async def idle() -> None:
        return None

    async with working(activities=[idle]) as worker:
        assert isinstance(worker, Worker)
        service.refuse_streams = [advised]
        begun, before = time.monotonic(), service.opened
        for session in service.sessions.values():
            session.out.put_nowait(None)
        await service.until(lambda: service.opened >= before + 2)
        assert time.monotonic() - begun >= 0.7
