"""What comes twice, late, out of date or not at all, of activities: assigns, words about older grants, reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from stepwell.conformance.account import GRACE_SECONDS
from stepwell.conformance.cases import case
from stepwell.conformance.link import Link
from stepwell.conformance.stage import Stage
from stepwell.policies import RetryPolicy
from stepwell.v1.workers_pb2 import ConnectRequest, ConnectResponse, Report, ReportResult, Task, TaskRef

_INVALID_ARGUMENT, _INTERNAL, _UNAVAILABLE = 3, 13, 14
NEVER = "complete.result: is not to the kit's taste"
# A varint and a text, under numbers that no message has.
REPEAT_SECONDS = 0.5
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
    # A worker that goes on would say what it came to by now, however late it began.
    await asyncio.sleep(GRACE_SECONDS + 4.0)
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
    refused = refuse_once(stage, not_now)
    job = await stage.job("effect", {"key": "not-now", "seconds": 0.1})
    stage.same("effect returns its key", "not-now", await stage.result(job))
    stage.same("effects", 1, len(stage.ledger("not-now")))
    stage.same("times that the report was sent", 2, len(stage.reports(refused[0].ref)))
    was_patient(stage, refused[0])


@case("activities", "refusals")
async def refused_for_ever(stage: Stage) -> None:
    """A report that can never be recorded is followed by a failure with what it was refused for, not to be retried."""
    refuse_once(stage, never)
    job = await stage.job("effect", {"key": "never", "seconds": 0.1})
    failure = await stage.failure(job, "FAILED")
    stage.same("what it failed with", NEVER, NEVER if NEVER in failure.message else failure.message)
    stage.same("effects", 1, len(stage.ledger("never")))


@case("activities", "refusals")
async def taken_back(stage: Stage) -> None:
    """A task that a refusal takes back is dropped, and begun when it is given out again."""
    refused = refuse_once(stage, taken)
    job = await stage.job("effect", {"key": "taken-back", "seconds": 0.1}, start_to_close=2.0)
    stage.same("effect returns its key", "taken-back", await stage.result(job))
    stage.same("times that the report was sent", 1, len(stage.reports(refused[0].ref)))
    stage.same("effects", 2, len(stage.ledger("taken-back")))


def refuse_once(
    stage: Stage, answer: Callable[[Report], ReportResult], is_meant: Callable[[Report], object] = bool
) -> list[Report]:
    """Keeps the first message with such a report from the service, and answers in its place. Fills what it returns."""
    refused: list[Report] = []

    def refuse(link: Link, message: ConnectRequest) -> bool:
        if refused or not any(is_meant(report) for report in message.reports):
            return True
        refused.extend(message.reports)
        answers = ConnectResponse(results=[answer(report) for report in message.reports])
        stage.tap.responded(link, answers)
        telling.append(asyncio.ensure_future(link.tell(answers)))
        return False

    telling: list[asyncio.Future[None]] = []
    stage.tap.on_request.append(refuse)
    return refused


def was_patient(stage: Stage, refused: Report) -> None:
    """A report that was refused for now came again, and not before it was asked for."""
    first, again = [*stage.times(refused.ref), 0.0, 0.0][:2]
    expected = f"the report again, {REPEAT_SECONDS} s after it was refused"
    # Clocks of other programs tick otherwise.
    stage.true(again - first > REPEAT_SECONDS * 0.9, expected, f"it after {again - first:.2f} s")


def not_now(report: Report) -> ReportResult:
    """The refusal of a report for want of a database, to be sent again soon."""
    result = _refusal(report, _UNAVAILABLE, "DATABASE_UNAVAILABLE", "the database is away", ReportResult.REMEDY_REPEAT)
    result.repeat_delay.FromMilliseconds(int(REPEAT_SECONDS * 1000))
    return result


def never(report: Report) -> ReportResult:
    """The refusal of a report that nobody can record."""
    return _refusal(report, _INVALID_ARGUMENT, "INVALID_FIELD", NEVER, ReportResult.REMEDY_FAIL)


def taken(report: Report) -> ReportResult:
    """The refusal of a report whose task is taken back."""
    return _refusal(report, _INTERNAL, "INTERNAL_ERROR", "the service is at fault", ReportResult.REMEDY_DROP)


def _refusal(
    report: Report, code: int, reason: str, message: str, remedy: ReportResult.Remedy.ValueType
) -> ReportResult:
    status = Status(code=code, message=message)
    status.details.add().Pack(ErrorInfo(reason=reason, domain="stepwell.dev"))
    return ReportResult(correlation=report.correlation, status=ReportResult.STATUS_REFUSED, error=status, remedy=remedy)


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
