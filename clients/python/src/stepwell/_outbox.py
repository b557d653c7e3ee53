"""What a worker has to say on its stream: gathered here, taken by the stream's one writer in bundles."""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.rpc import error_details_pb2, status_pb2

from stepwell.v1.types_pb2 import Failure
from stepwell.v1.workers_pb2 import ConnectRequest, QueryAnswer, Report, ReportResult, TaskHeartbeat

if TYPE_CHECKING:
    from stepwell.v1.types_pb2 import Payload
    from stepwell.v1.workers_pb2 import TaskRef

T = TypeVar("T")

MAX_BYTES = 1_000_000
# The service ends a stream over a larger message, which would be sent again on each that follows.
_MOST_BYTES = 4 * 1024 * 1024 - 64 * 1024
# The most that a payload may have where nobody has set another limit.
_MOST_DETAILS = 2 * 1024 * 1024
_INVALID_ARGUMENT = 3
_NANOS = 1_000_000_000
log = logging.getLogger("stepwell.worker")
# A quick task reports within so many turns of the loop, and needs no acknowledgement of its own.
_TURNS = 4


class Reporter(Protocol):
    """Whoever reports, and hears the answer."""

    def report_answered(self, result: ReportResult) -> None:
        """Takes in what became of the report: it was recorded, or is not to be sent again."""
        ...

    def has_gone(self) -> bool:
        """Tells whether the task is somebody else's by now, so that nothing is to be said of it."""
        ...


class Outbox:
    """Acknowledgements, reports and heartbeats that are not sent yet, and reports that are not answered yet.

    A report stays until its answer comes: after a reconnect that resumes the session it is sent again. So it is after a
    while if that is the service's answer.
    """

    def __init__(self) -> None:
        """Begins empty."""
        self.ping = self.pong = 0
        self.drain = False
        self.max_items = 256
        self._acks: dict[str, TaskRef] = {}
        self._reports: collections.deque[Report] = collections.deque()
        self._heartbeats: dict[str, TaskHeartbeat] = {}
        self._answers: collections.deque[QueryAnswer] = collections.deque()
        self._unanswered: dict[int, tuple[Report, Reporter]] = {}
        self._refused: set[int] = set()  # of those, what is to be sent again
        self._correlation = 0
        self._is_expecting = False
        self._filled = asyncio.Event()
        self._answered = asyncio.Event()

    def acknowledge(self, ref: TaskRef) -> None:
        """Says that a task has come, unless something else is said of it first. Goes out after `wake`."""
        self._acks[ref.task_id] = ref

    def report(self, reporter: Reporter, ref: TaskRef, outcome: dict[str, Any]) -> None:
        """Sends a report; `reporter` hears the answer. One that no message may hold is refused as the service would."""
        self._correlation += 1
        report = Report(correlation=self._correlation, ref=ref, **outcome)
        size = report.ByteSize()
        if size > _MOST_BYTES:
            asyncio.get_running_loop().call_soon(reporter.report_answered, _too_large(report, size))
            return
        self._unanswered[self._correlation] = (report, reporter)
        self._reports.append(report)
        self._acks.pop(ref.task_id, None)
        self._is_expecting = False
        self._filled.set()

    def expect(self) -> None:
        """Lets the writer wait some turns for another report: it will come, and may as well go out with the last."""
        self._is_expecting = True

    def heartbeat(self, ref: TaskRef, details: Payload | None, traceparent: str) -> None:
        """Sends a sign of life of an activity; only the last of one activity goes into a bundle."""
        if details is not None and details.ByteSize() > _MOST_DETAILS:
            log.warning(
                "heartbeat details of %s bytes are left out: they may have %s", details.ByteSize(), _MOST_DETAILS
            )
            details = None
        self._heartbeats[ref.task_id] = TaskHeartbeat(ref=ref, details=details, traceparent=traceparent)
        self._filled.set()

    def answer_query(self, answer: QueryAnswer) -> None:
        """Sends the answer to a query. One that is lost with its stream is asked for again."""
        if answer.ByteSize() > _MOST_BYTES:
            failure = Failure(type="InvalidArgument", message=_too_many(answer.ByteSize()))
            answer = QueryAnswer(correlation=answer.correlation, ref=answer.ref, failure=failure)
        self._answers.append(answer)
        self._filled.set()

    def wake(self) -> None:
        """Lets the writer look: tasks have come, or a ping, a pong or a drain was set."""
        self._filled.set()

    def answer(self, result: ReportResult) -> None:
        """Hands an answer to whoever reported, unless that is that the same be sent again."""
        if result.remedy == ReportResult.REMEDY_REPEAT and result.correlation in self._unanswered:
            delay = result.repeat_delay.ToNanoseconds() / _NANOS
            log.info("a report is repeated in %.2f s, since it was refused: %s", delay, result.error.message)
            self._refused.add(result.correlation)
            asyncio.get_running_loop().call_later(delay, self._repeat, result.correlation)
            return
        found = self._unanswered.pop(result.correlation, None)
        if found is not None:
            found[1].report_answered(result)
        if not self._unanswered:
            self._answered.set()

    def _repeat(self, correlation: int) -> None:
        """Sends a report again, unless a new stream has done so meanwhile."""
        if correlation not in self._refused:
            return
        self._refused.discard(correlation)
        report, reporter = self._unanswered[correlation]
        if reporter.has_gone():
            del self._unanswered[correlation]
            if not self._unanswered:
                self._answered.set()
            return
        self._reports.append(report)
        self._filled.set()

    async def all_answered(self) -> None:
        """Waits until no report is without an answer."""
        while self._unanswered:
            self._answered.clear()
            await self._answered.wait()

    def resume(self) -> None:
        """Queues all unanswered reports again, in their order: a new stream carries the same session."""
        self._reports = collections.deque(report for report, _ in self._unanswered.values())
        self._refused.clear()
        self._acks.clear()
        self._answers.clear()
        self.ping = self.pong = 0
        self._filled.set()

    def clear(self) -> None:
        """Forgets everything: the session is over, and nobody would take the reports."""
        self._reports.clear()
        self._acks.clear()
        self._heartbeats.clear()
        self._answers.clear()
        self._unanswered.clear()
        self._refused.clear()
        self._answered.set()

    def reported_tasks(self) -> set[str]:
        """Gives the ids of the tasks of unanswered reports."""
        return {report.ref.task_id for report, _ in self._unanswered.values()}

    async def filled(self) -> None:
        """Waits until there is something to send."""
        await self._filled.wait()
        for _ in range(_TURNS):
            is_filled = self._reports or self._answers or self._heartbeats or self.ping or self.pong or self.drain
            if is_filled and not self._is_expecting:
                return
            await asyncio.sleep(0)
        self._is_expecting = False

    def take(self) -> ConnectRequest:
        """Takes the next bundle. Heartbeats go first, so that none is later than its task's end."""
        left = self.max_items
        heartbeats: list[TaskHeartbeat] = []
        size = 0
        while self._heartbeats and left and size <= MAX_BYTES:
            heartbeats += _take(self._heartbeats, 1)
            size += heartbeats[-1].ByteSize()
            left -= 1
        reports: list[Report] = []
        queue = self._reports
        while queue and left:
            size += queue[0].ByteSize()
            if (reports or heartbeats) and size > MAX_BYTES:
                break
            reports.append(queue.popleft())
            left -= 1
        acks = _take(self._acks, left)
        message = ConnectRequest(
            reports=reports, heartbeats=heartbeats, acks=acks, ping=self.ping, pong=self.pong, drain=self.drain
        )
        answered = 0
        while self._answers and answered < self.max_items:
            size += self._answers[0].ByteSize()
            if (reports or heartbeats or answered) and size > MAX_BYTES:
                break
            message.answers.append(self._answers.popleft())
            answered += 1
        self.ping = self.pong = 0
        self.drain = False
        if not (queue or self._heartbeats or self._acks or self._answers):
            self._filled.clear()
        return message


def _too_many(size: int) -> str:
    return f"It has {size} bytes, and may have {_MOST_BYTES}: let it name what is large instead of holding it."


def _too_large(report: Report, size: int) -> ReportResult:
    result = ReportResult(
        correlation=report.correlation, status=ReportResult.STATUS_REFUSED, remedy=ReportResult.REMEDY_FAIL
    )
    result.error.CopyFrom(status_pb2.Status(code=_INVALID_ARGUMENT, message=_too_many(size)))
    result.error.details.add().Pack(error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="stepwell.dev"))
    return result


def _take(items: dict[str, T], count: int) -> list[T]:
    if len(items) <= count:
        taken = list(items.values())
        items.clear()
        return taken
    keys = list(items)[:count]
    return [items.pop(key) for key in keys]
