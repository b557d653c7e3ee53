"""What comes twice, late, out of date or not at all, of activities: assigns, words about older grants, reports."""

from __future__ import annotations

import asyncio

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepwell.conformance.account import GRACE_SECONDS
from stepwell.conformance.cases import case
from stepwell.conformance.link import Link
from stepwell.conformance.stage import Stage
from stepwell.policies import RetryPolicy
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse, Report, ReportResult, Task, TaskRef

_UNAVAILABLE = 14
# A varint and a text, under numbers that no message has.
UNKNOWN = b"\xc0>\x07\xca>\x05hello"


@case("activities", "words")
async def duplicate_assign(stage: Stage) -> None:
    """An assign that comes twice is one grant: its work is done once, and reported once."""
    given: list[Task] = []

    def keep(_: Link, message: ConnectResponse) -> None:
        given.extend(message.assigns)

    stage.tap.on_response.append(keep)
    job = await stage.job("effect", {"key": "twice", "seconds": 0.7})
    await stage.until(lambda: given, "the activity is assigned")
    await stage.given(job)
    await stage.link.tell(ConnectResponse(assigns=given))
    stage.same("effect returns its key", "twice", await stage.result(job))
    await asyncio.sleep(1.0)
    stage.same("effects", 1, len(stage.ledger("twice")))
    stage.same("reports", 1, len(stage.reports(given[0].ref)))


@case("activities", "words")
async def stale_words(stage: Stage) -> None:
    """Words about an older grant of an activity, or about tasks that the worker does not have, change nothing."""
    job = await stage.job("hold", {"seconds": 1.5})
    ref = (await stage.given(job)).task.ref
    for older in (TaskRef(task_id=ref.task_id, token=ref.token - 1), TaskRef(task_id="no-such-task", token=1)):
        stale = ConnectResponse()
        stale.cancels.add(ref=older, reason="stale")
        stale.revokes.add(ref=older, reason="LEASE_LOST")
        stale.heartbeats.add(ref=older, cancel_requested=True, lost=True)
        stale.results.add(correlation=1 << 40, status=ReportResult.STATUS_ACCEPTED)
        stale.advances.add(ref=older, cancel_requested=True)
        stale.queries.add(ref=older, correlation=1 << 40, name="state")
        await stage.link.tell(stale)
    stage.same("hold returns", "held", await stage.result(job))
    stage.same("attempts", 1, await stage.attempts(job))


@case("activities", "fields")
async def revoked_activity(stage: Stage) -> None:
    """An activity whose attempt ran out of time is revoked: it is dropped, and nothing is reported of it."""
    once = RetryPolicy(maximum_attempts=1)
    job = await stage.job("hold", {"seconds": GRACE_SECONDS + 2.0}, start_to_close=0.5, retry=once)
    grant = await stage.given(job)
    await stage.failure(job, "FAILED")
    await stage.until(lambda: grant.ended is not None, "the worker is told so")
    await asyncio.sleep(GRACE_SECONDS + 1.5)
    stage.check()
    stage.same("reports", 0, len(stage.reports(grant.task.ref)))


@case("activities", "losses")
async def lost_report(stage: Stage) -> None:
    """A report that was lost with its stream is sent again, as it was, once the session is resumed."""
    lost: list[Report] = []

    def lose(link: Link, message: ConnectRequest) -> bool:
        if lost or not message.reports:
            return True
        lost.extend(message.reports)
        link.cut()
        return False

    stage.tap.on_request.append(lose)
    job = await stage.job("effect", {"key": "report-lost", "seconds": 0.1})
    stage.same("effect returns its key", "report-lost", await stage.result(job))
    stage.same("effects", 1, len(stage.ledger("report-lost")))
    stage.same("times that the report was sent", 2, len(stage.reports(lost[0].ref)))


@case("activities", "losses")
async def lost_answer(stage: Stage) -> None:
    """A report whose answer was lost is sent again after the resume, found a duplicate, and done with."""
    former = stage.link
    answered: list[ReportResult] = []

    def lose(link: Link, message: ConnectResponse) -> bool:
        if answered or not message.results:
            return True
        answered.extend(message.results)
        link.cut()
        return False

    stage.tap.on_response.append(lose)
    job = await stage.job("effect", {"key": "answer-lost", "seconds": 0.1})
    stage.same("effect returns its key", "answer-lost", await stage.result(job))
    link = await stage.next_link(former)

    def repeated() -> object:
        found = [result for response in link.responses for result in response.results]
        return next((each for each in found if each.correlation == answered[0].correlation), None)

    result = await stage.until(repeated, "the report is sent again, and answered")
    stage.same("its answer", ReportResult.STATUS_DUPLICATE, getattr(result, "status", None))
    stage.same("effects", 1, len(stage.ledger("answer-lost")))


@case("activities", "refusals")
async def refused_for_now(stage: Stage) -> None:
    """A report that is refused for want of a database is sent again after the delay that is asked for."""
    refused: list[Report] = []

    def refuse(link: Link, message: ConnectRequest) -> bool:
        if refused or not message.reports:
            return True
        refused.extend(message.reports)
        answer = ConnectResponse(results=[not_now(report) for report in message.reports])
        stage.tap.responded(link, answer)
        telling.append(asyncio.ensure_future(link.tell(answer)))
        return False

    telling: list[asyncio.Future[None]] = []
    stage.tap.on_request.append(refuse)
    job = await stage.job("effect", {"key": "not-now", "seconds": 0.1})
    stage.same("effect returns its key", "not-now", await stage.result(job))
    stage.same("effects", 1, len(stage.ledger("not-now")))


def not_now(report: Report) -> ReportResult:
    """The refusal of a report for want of a database, to be sent again soon."""
    status = Status(code=_UNAVAILABLE, message="the database is away")
    details = (
        ErrorInfo(reason="DATABASE_UNAVAILABLE", domain="stepwell.dev"),
        RetryInfo(retry_delay=Duration(nanos=200_000_000)),
    )
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return ReportResult(correlation=report.correlation, status=ReportResult.STATUS_REFUSED, error=status)


@case("activities", "stream")
async def unknown_fields(stage: Stage) -> None:
    """Fields that the worker does not know, also within tasks, and empty messages are passed over."""

    def add(_: Link, message: ConnectResponse) -> None:
        for task in message.assigns:
            task.MergeFromString(UNKNOWN)

    stage.tap.unknown = UNKNOWN
    stage.tap.on_response.append(add)
    await stage.link.tell(ConnectResponse())
    job = await stage.job("echo", "as ever")
    stage.same("echo returns its input", "as ever", await stage.result(job))


@case("activities", "stream")
async def few_items(stage: Stage) -> None:
    """No field of a message holds more items than the welcome allows."""

    def allow_few(_: Link, message: ConnectResponse) -> None:
        if message.HasField("welcome"):
            message.welcome.max_items = 2

    former = stage.link
    stage.tap.on_response.append(allow_few)
    stage.tap.refuses = True
    former.cut()
    # So that they are assigned together.
    jobs = [await stage.job("hold", {"seconds": 0.3}) for _ in range(20)]
    stage.tap.refuses = False
    link = await stage.next_link(former)
    for job in jobs:
        stage.same("hold returns", "held", await stage.result(job))
    stage.tap.calm()
    link.cut()
    await stage.next_link(link)
