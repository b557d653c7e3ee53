"""Activities in a worker: each attempt is one asyncio task, from its assignment to its report."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from stepwell import _tracing, errors, reasons
from stepwell._failures import failure_of
from stepwell._processes import Processes
from stepwell.activities import ActivityCancelled, ActivityInfo, current
from stepwell.v1 import types_pb2, workers_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stepwell._outbox import Outbox
    from stepwell.converter import DataConverter
    from stepwell.definitions import Definition
    from stepwell.v1.types_pb2 import Payload
    from stepwell.v1.workers_pb2 import ReportResult, Task, TaskRef

log = logging.getLogger("stepwell.worker")

# Between two heartbeats of one activity, in seconds; what is told meanwhile is merged.
BEAT_INTERVAL = 1.0
_BEATS_PER_TIMEOUT = 3
_MOST_WORDS = 1_000


class Running:
    """One attempt under way, also as its function sees it. Its `heartbeat` may be called from any thread.

    Most functions ask for none of what may be known of their attempt: it is read when they do.
    """

    __slots__ = (
        "_details",
        "_info",
        "_is_beat_due",
        "_next_beat",
        "given",
        "has_begun",
        "is_cancelled",
        "is_gone",
        "outcome",
        "owner",
        "ref",
        "task",
        "traceparent",
    )

    def __init__(self, owner: Activities, given: Task) -> None:
        """Prepares the attempt that was given out."""
        self.owner = owner
        self.given = given
        self.ref = given.ref
        self.task: asyncio.Task[None] | None = None
        self.has_begun = self.is_cancelled = self.is_gone = False
        self.traceparent = ""
        self.outcome: dict[str, Any] = {}
        self._info: ActivityInfo | None = None
        self._details: types_pb2.Payload | None = None
        self._is_beat_due = False
        self._next_beat = 0.0

    @property
    def info(self) -> ActivityInfo:
        """What the function may know of the attempt."""
        if self._info is None:
            given = self.given
            self._info = ActivityInfo(
                namespace=given.namespace,
                run_id=given.run_id,
                workflow_id=given.workflow_id,
                job_id=given.job_id,
                type=given.type,
                task_queue=given.task_queue,
                step_name=given.step_name,
                step_ordinal=given.step_ordinal,
                attempt=given.attempt,
                heartbeat_details=self.owner.details_of(given),
                heartbeat_timeout=self._heartbeat_timeout,
                deadline=given.attempt_deadline.ToDatetime(dt.UTC) if given.HasField("attempt_deadline") else None,
                schedule_time=given.schedule_time.ToDatetime(dt.UTC) if given.HasField("schedule_time") else None,
                traceparent=given.traceparent,
            )
        return self._info

    @property
    def _heartbeat_timeout(self) -> float | None:
        given = self.given
        return given.heartbeat_timeout.ToTimedelta().total_seconds() if given.HasField("heartbeat_timeout") else None

    def cancelled(self) -> bool:
        """Tells whether it was asked to stop."""
        return self.is_cancelled

    def heartbeat(self, details: object) -> None:
        """Notes a sign of life. Details are converted here, since their owner may change them afterwards."""
        if details is not None:
            self._details = self.owner.converter.to_payload(details)
        if not self._is_beat_due and not self.is_gone:
            self._is_beat_due = True
            self.owner.loop.call_soon_threadsafe(self._schedule_beat)

    def _schedule_beat(self) -> None:
        loop = self.owner.loop
        if loop.time() >= self._next_beat:
            self.send_beat()
        else:
            loop.call_at(self._next_beat, self.send_beat)

    def send_beat(self) -> None:
        """Sends what was noted, if that is still of interest."""
        if self._is_beat_due and not self.is_gone:
            self._is_beat_due = False
            details, self._details = self._details, None
            timeout = self._heartbeat_timeout
            interval = min(BEAT_INTERVAL, timeout / _BEATS_PER_TIMEOUT) if timeout else BEAT_INTERVAL
            self._next_beat = self.owner.loop.time() + interval
            self.owner.outbox.heartbeat(self.ref, details, self.traceparent)

    def part(self) -> None:
        """Once its code has ended: that knows of it, and would keep it until a garbage collection."""
        if self.task is not None and self.task.done():
            self.task = None

    def report_answered(self, result: ReportResult) -> None:
        """Takes in what became of the report."""
        self.owner.ended(self, result)

    def has_gone(self) -> bool:
        """Tells whether the task is somebody else's."""
        return self.is_gone


class Runs(Protocol):
    """The runs of the same worker, whose activities these may be."""

    def completed(self, activity: Task, result: Payload) -> bool:
        """Takes in what an activity came to, which is reported. Tells whether more will be reported at once."""
        ...


class Activities:
    """All attempts under way in a worker."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        definitions: dict[str, Definition],
        converter: DataConverter,
        outbox: Outbox,
        runs: Runs,
        threads: ThreadPoolExecutor,
        processes: Processes | None,
    ) -> None:
        """Begins with none."""
        self.loop = asyncio.get_running_loop()
        self.converter = converter
        self.outbox = outbox
        self._runs = runs
        self.running: dict[str, Running] = {}
        self._definitions = definitions
        self._threads = threads
        self._processes = processes
        self._idle = asyncio.Event()
        self._idle.set()

    def details_of(self, task: Task) -> Any:  # noqa: ANN401 - whatever the attempt before told
        """Reads what the attempt before told last."""
        if not task.HasField("heartbeat_details"):
            return None
        try:
            return self.converter.from_payload(task.heartbeat_details)
        except Exception:
            log.exception("the heartbeat details of %s cannot be read", task.type)
            return None

    def assign(self, task: Task) -> None:
        """Begins an attempt."""
        running = Running(self, task)
        task_id = running.ref.task_id
        former = self.running.get(task_id)
        if former is not None:
            if former.ref.token == task.ref.token:  # the same grant: it is at it
                self.outbox.acknowledge(former.ref)
                return
            self.revoke(former.ref)
        definition = self._definitions.get(task.type)
        self.running[task_id] = running
        self._idle.clear()
        if definition is None:
            release = workers_pb2.ReleaseTask(reason=f"activity {task.type} is not known here")
            self._report(running, {"release": release})
            return
        self.outbox.acknowledge(running.ref)
        running.task = self.loop.create_task(self._follow(running, definition))

    async def _follow(self, running: Running, definition: Definition) -> None:
        running.has_begun = True
        try:
            if running.is_cancelled:
                raise asyncio.CancelledError
            if _tracing.records_spans():
                with _tracing.activity_span(running.given) as running.traceparent:
                    value = await self._begin(running, definition)
            else:
                value = await self._begin(running, definition)
            outcome: dict[str, Any] = {
                "complete": workers_pb2.CompleteActivity(result=self.converter.to_payload(value))
            }
        except (asyncio.CancelledError, ActivityCancelled) as error:
            if running.is_gone:
                return
            if not running.is_cancelled:
                failure = failure_of(error, self.converter)
                outcome = {"fail": workers_pb2.FailActivity(failure=failure)}
            else:
                outcome = {"cancelled": workers_pb2.CancelledActivity()}
        except Exception as error:  # noqa: BLE001 - whatever it raises is the attempt's failure
            outcome = {"fail": workers_pb2.FailActivity(failure=failure_of(error, self.converter))}
        if not running.is_gone:
            if "complete" not in outcome:
                running.send_beat()
            self._report(running, outcome)
            if "complete" in outcome and self._runs.completed(running.given, outcome["complete"].result):
                self.outbox.expect()

    def _begin(self, running: Running, definition: Definition) -> Awaitable[object]:
        arguments: tuple[object, ...] = ()
        if definition.takes_input:
            arguments = (self.converter.from_payload(running.given.input, definition.input_hint),)
        if self._processes is not None and not definition.is_async:
            return self._processes.call(definition.fn, arguments, running)
        current.set(running)
        if definition.is_async:
            called: Awaitable[object] = definition.fn(*arguments)
            return called
        context = contextvars.copy_context()
        return self.loop.run_in_executor(self._threads, context.run, definition.fn, *arguments)

    def cancel(self, ref: TaskRef) -> None:
        """Asks an attempt to stop: async functions get `CancelledError`, plain ones a flag."""
        running = self.running.get(ref.task_id)
        if running is None or running.ref.token != ref.token or running.is_cancelled:
            return
        running.is_cancelled = True
        self._interrupt(running)

    def revoke(self, ref: TaskRef) -> None:
        """Stops an attempt that is somebody else's now; nothing is reported."""
        running = self.running.get(ref.task_id)
        if running is not None and running.ref.token == ref.token:
            running.is_gone = running.is_cancelled = True
            self._interrupt(running)
            self._remove(running)

    def _interrupt(self, running: Running) -> None:
        # Cancelled before its first turn, a task would never get to its report.
        if running.task is None or not running.has_begun:
            return
        definition = self._definitions[running.given.type]
        if definition.is_async:
            running.task.cancel()
        elif self._processes is not None:
            self._processes.cancel(running)

    def beat_answered(self, result: workers_pb2.TaskHeartbeatResult) -> None:
        """Takes in the answer to a heartbeat. One that is lost is reported all the same: its place is given back."""
        if result.lost or result.cancel_requested:
            self.cancel(result.ref)

    def ended(self, running: Running, result: ReportResult) -> None:
        """Forgets an attempt whose report was answered. If that can never be recorded, the attempt fails with that."""
        if result.status == workers_pb2.ReportResult.STATUS_REFUSED:
            error = reasons.from_status(result.error)
            log.info("the report of %s was refused: %s", running.given.type, error)
            if result.remedy == workers_pb2.ReportResult.REMEDY_FAIL:
                self._report(running, {"fail": workers_pb2.FailActivity(failure=_recordable(running.outcome, error))})
                return
        self._remove(running)

    def _report(self, running: Running, outcome: dict[str, Any]) -> None:
        """Reports what came of an attempt, unless it is somebody else's meanwhile."""
        if not running.is_gone:
            running.outcome = outcome
            self.outbox.report(running, running.ref, outcome)

    def _remove(self, running: Running) -> None:
        running.is_gone = True
        if self.running.get(running.ref.task_id) is running:
            del self.running[running.ref.task_id]
        running.part()
        if not self.running:
            self._idle.set()

    async def all_ended(self) -> None:
        """Waits until no attempt is under way."""
        await self._idle.wait()

    def release_all(self, reason: str) -> None:
        """Gives back what is still under way: its attempt is not counted, and its functions are told to stop."""
        for running in list(self.running.values()):
            if not running.is_gone and (running.task is None or not running.task.done()):
                running.send_beat()
                running.is_gone = running.is_cancelled = True
                self._interrupt(running)
                self.outbox.report(running, running.ref, {"release": workers_pb2.ReleaseTask(reason=reason)})


def _recordable(outcome: dict[str, Any], error: errors.ServiceError) -> types_pb2.Failure:
    """What can be recorded of an outcome that was refused: of a failure, its kind and the beginning of its words."""
    if "fail" not in outcome:
        return types_pb2.Failure(message=str(error), type=type(error).__name__, non_retryable=True)
    told: types_pb2.Failure = outcome["fail"].failure
    return types_pb2.Failure(
        message=told.message[:_MOST_WORDS], type=told.type[:_MOST_WORDS], non_retryable=told.non_retryable
    )
