"""The runs in a worker's memory, and what passes between them and the stream."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from typing import TYPE_CHECKING, Any

from stepwell import reasons
from stepwell._ahead import go_ahead
from stepwell._main import main
from stepwell._runs import RunExecution
from stepwell.v1 import types_pb2, workers_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import ThreadPoolExecutor

    from stepwell._outbox import Outbox
    from stepwell.converter import DataConverter
    from stepwell.definitions import Definition
    from stepwell.v1.types_pb2 import Payload
    from stepwell.v1.workers_pb2 import Advance, Progress, Query, ReportResult, StepRecord, Task, TaskRef

log = logging.getLogger("stepwell.worker")


class Seat:
    """A run's place in the worker: it reports for the run, and hears the answers."""

    __slots__ = ("roster", "run")

    def __init__(self, roster: Runs, run: RunExecution) -> None:
        """Ties the run to the worker."""
        self.roster = roster
        self.run = run

    def report_answered(self, result: ReportResult) -> None:
        """Takes in what became of a Progress or a release."""
        run = self.run
        if run.is_dropped:
            return
        if result.status == workers_pb2.ReportResult.STATUS_REFUSED:
            self.roster.refused(run, result)
        elif run.is_ended:
            self.roster.forget(run)
        else:
            run.answered(list(result.ordinals), result.steps)

    def has_gone(self) -> bool:
        """Tells whether the run is somebody else's."""
        return self.run.is_dropped


class Runs:
    """All runs that this worker holds: those at work, and those that wait in its memory."""

    def __init__(
        self,
        definitions: dict[str, Definition],
        converter: DataConverter,
        outbox: Outbox,
        threads: ThreadPoolExecutor,
        read_steps: Callable[[TaskRef], Awaitable[list[StepRecord]]],
    ) -> None:
        """Begins with none."""
        self.loop = asyncio.get_running_loop()
        self.converter = converter
        self.seats: dict[str, Seat] = {}
        self._by_run: dict[str, RunExecution] = {}
        self._definitions = definitions
        self._outbox = outbox
        self._threads = threads
        self._read_steps = read_steps
        self._idle = asyncio.Event()
        self._idle.set()

    def assign(self, task: Task) -> None:
        """Takes a run, and runs its code from the top."""
        task_id = task.ref.task_id
        former = self.seats.get(task_id)
        if former is not None:
            if former.run.ref.token == task.ref.token:  # the same grant: it is at it
                self._outbox.acknowledge(former.run.ref)
                return
            self.forget(former.run)
        definition = self._definitions.get(task.type)
        if definition is None:
            self._give_back(task.ref, f"workflow {task.type} is not known here")
            return
        run = RunExecution(self, task, definition)
        self._outbox.acknowledge(run.ref)
        if task.updates:
            run.updates.offer(task.updates)
        self.seats[task_id] = Seat(self, run)
        self._by_run[task.run_id] = run
        self._idle.clear()
        run.start(main(run, functools.partial(self._read_steps, task.ref)))

    def advance(self, news: Advance) -> None:
        """Hands a run what has ended."""
        seat = self._seat(news.ref)
        if seat is not None:
            if news.cancel_requested:
                seat.run.cancellation.request(news.cancel_reason)
            if news.updates:
                seat.run.updates.offer(news.updates)
            seat.run.advance(news.steps)

    def ask(self, query: Query) -> None:
        """Hands a query to the run that it is about. One that is not held has nothing to say."""
        seat = self._seat(query.ref)
        if seat is not None:
            seat.run.queries.ask(query)

    def cancel(self, ref: TaskRef, reason: str) -> None:
        """Tells a run that it was asked to cancel."""
        seat = self._seat(ref)
        if seat is not None:
            seat.run.cancellation.request(reason)

    def revoke(self, ref: TaskRef) -> None:
        """Drops a run that is somebody else's now."""
        seat = self._seat(ref)
        if seat is not None:
            self.forget(seat.run)

    def _seat(self, ref: TaskRef) -> Seat | None:
        seat = self.seats.get(ref.task_id)
        return seat if seat is not None and seat.run.ref.token == ref.token else None

    def report(self, run: RunExecution, progress: Progress) -> None:
        """Sends a Progress."""
        seat = self.seats.get(run.ref.task_id)
        if seat is not None and seat.run is run:
            self._outbox.report(seat, run.ref, {"progress": progress})

    def answer(self, run: RunExecution, query: Query, outcome: dict[str, Any]) -> None:
        """Answers a query."""
        ref = run.ref
        self._outbox.answer_query(workers_pb2.QueryAnswer(correlation=query.correlation, ref=ref, **outcome))

    def release(self, run: RunExecution, reason: str) -> None:
        """Gives a run back to its queue."""
        ref = run.ref
        self.forget(run)
        self._give_back(ref, reason)

    def _give_back(self, ref: TaskRef, reason: str) -> None:
        self._outbox.report(_Release(), ref, {"release": workers_pb2.ReleaseTask(reason=reason)})

    def refused(self, run: RunExecution, result: ReportResult) -> None:
        """Fails the run if its Progress can never be recorded; else drops it."""
        error = reasons.from_status(result.error)
        if result.remedy == workers_pb2.ReportResult.REMEDY_FAIL:
            log.error("run %s fails, since its progress was refused: %s", run.task.run_id, error)
            run.is_ended = True
            run.drop()
            run.is_dropped = False
            failure = types_pb2.Failure(message=str(error), type=type(error).__name__, non_retryable=True)
            progress = workers_pb2.Progress(fail=workers_pb2.FailRun(failure=failure))
            if run.ahead_of is not None:
                progress.ahead_of.append(run.ahead_of)
            run.out.sent_progress = progress
            self.report(run, progress)
            return
        level = logging.ERROR if isinstance(error, reasons.StepOrderChanged) else logging.INFO
        log.log(level, "run %s is dropped: %s", run.task.run_id, error)
        self.forget(run)

    def forget(self, run: RunExecution) -> None:
        """Drops a run from memory."""
        if not run.is_dropped:
            run.drop()
        task_id = run.ref.task_id
        seat = self.seats.get(task_id)
        if seat is not None and seat.run is run:
            del self.seats[task_id]
            del self._by_run[run.task.run_id]
            run.part()
        if not self.seats:
            self._idle.set()

    # What this worker's own activities come to

    def completed(self, activity: Task, result: Payload) -> bool:
        """Lets a run go on with what its activity came to, if it waits for that alone. Tells whether it does."""
        run = self._by_run.get(activity.run_id)
        return run is not None and go_ahead(run, activity, result)

    def leave(self) -> None:
        """Gives each run back as soon as what its code is at has been recorded."""
        for seat in list(self.seats.values()):
            seat.run.leave()

    async def all_left(self) -> None:
        """Waits until no run is held."""
        await self._idle.wait()

    def release_all(self, reason: str) -> None:
        """Gives back what is still held, whatever its code is at."""
        for seat in list(self.seats.values()):
            self.release(seat.run, reason)

    async def in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - any function
        """Calls a plain function in a thread, with the caller's context variables."""
        context = contextvars.copy_context()
        return await self.loop.run_in_executor(self._threads, context.run, fn, *args)


class _Release:
    """Whoever gave a run back, of which nothing is left here, and who need not hear that it was taken."""

    def report_answered(self, result: ReportResult) -> None:
        """Has nothing left to do."""

    def has_gone(self) -> bool:
        """Tells that it is to be given back as long as the session holds it."""
        return False
