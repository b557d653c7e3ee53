"""A worker without a stream: it asks for tasks when it wants some. For cron jobs, functions, proxies that can't stream.

    async with await client.open_session("nightly", activity_types=["render"]) as session:
        for task in await session.claim(max_tasks=10, wait=30):
            await session.complete(task, render(session.input_of(task)))

Tasks are the protocol's messages. A `Worker` is what serves runs and activities day and night: it is pushed its tasks,
and brings workflow code to where it stood. Here a run's task is advanced by reports as docs/protocol.md describes them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from stepwell import reasons
from stepwell._failures import failure_of
from stepwell.policies import Seconds, duration
from stepwell.v1 import workers_pb2 as messages
from stepwell.v1.workers_pb2_grpc import WorkerServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc.aio

    from stepwell._rpc import Caller
    from stepwell.converter import DataConverter

Kind = Literal["run", "activity"]

# Seconds. A claim waits in portions, each well within what one attempt of a call may take.
_PORTION, _ANSWER = 10.0, 10.0


class Session:
    """A worker's session. It ends with `close`, or `ttl` seconds after its last sign of life, with all it holds."""

    def __init__(
        self, channel: grpc.aio.Channel, caller: Caller, namespace: str, converter: DataConverter, hello: messages.Hello
    ) -> None:
        """Use `Client.open_session`."""
        self._stub = WorkerServiceStub(channel)
        self._caller = caller
        self._namespace = namespace
        self._converter = converter
        self._hello = hello
        self.session_id = ""
        self.ttl = 0.0

    async def open(self) -> Self:
        """Opens it: called by `Client.open_session`."""
        welcome = (
            await self._caller.call(self._stub.OpenSession, messages.OpenSessionRequest(hello=self._hello))
        ).welcome
        self.session_id = welcome.session_id
        self.ttl = welcome.session_ttl.ToTimedelta().total_seconds()
        return self

    async def close(self) -> bool:
        """Ends the session at once: what it holds goes back, no attempt is spent. False if it was over."""
        request = messages.CloseSessionRequest(namespace=self._namespace, session_id=self.session_id)
        return (await self._caller.call(self._stub.CloseSession, request)).closed

    async def __aenter__(self) -> Self:
        """Gives the session."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        await self.close()

    async def claim(
        self, kind: Kind | None = None, *, task_queue: str = "", max_tasks: int = 1, wait: Seconds = 0
    ) -> list[messages.Task]:
        """Takes at most `max_tasks` (1 to 256) that wait, of one queue; waits up to `wait` seconds for the first.

        By default of either kind, and of the session's queues in their order. Never repeated by itself: after an error
        that is no refusal, tasks may be the session's that nobody knows of; `close` gives them back.
        Raises `SessionNotFound`, `InvalidField`.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + (wait.total_seconds() if isinstance(wait, dt.timedelta) else wait)
        while True:
            portion = min(self.ttl / 3, _PORTION, max(end - clock(), 0.0))
            request = messages.ClaimTasksRequest(
                namespace=self._namespace,
                session_id=self.session_id,
                kind=messages.TaskKind.Value(f"TASK_KIND_{kind.upper()}") if kind else messages.TASK_KIND_UNSPECIFIED,
                task_queue=task_queue,
                max_tasks=max_tasks,
                wait=duration(portion),
            )
            answer = await self._caller.once(self._stub.ClaimTasks, request, portion + _ANSWER)
            if answer.tasks or clock() >= end:
                return list(answer.tasks)

    async def steps_of(self, task: messages.Task) -> AsyncGenerator[messages.StepRecord, None]:
        """Reads all recorded steps of a run's task by ordinal, also what it could not carry. Raises `LeaseLost`."""
        request = messages.ListTaskStepsRequest(namespace=self._namespace, ref=task.ref)
        steps, more = task.steps, task.more_steps
        while True:
            for step in steps:
                request.after_ordinal = step.ordinal
                yield step
            if not more:
                return
            page = await self._caller.call(self._stub.ListTaskSteps, request)
            steps, more = page.steps, page.more_steps

    def input_of(self, task: messages.Task, as_type: object = None) -> Any:  # noqa: ANN401 - the type says
        """What a task was given, as `as_type` if told. Raises `ConversionError`."""
        return self._converter.from_payload(task.input, as_type)

    def details_of(self, task: messages.Task, as_type: object = None) -> Any:  # noqa: ANN401
        """What an activity's attempt before told by its last heartbeat; None if nothing. Raises `ConversionError`."""
        return self._converter.from_payload(task.heartbeat_details, as_type)

    async def complete(self, task: messages.Task, result: object = None) -> None:
        """Reports that an activity is done. Raises `LeaseLost` if it is the session's no more, `SessionNotFound`."""
        outcome = messages.CompleteActivity(result=self._converter.to_payload(result))
        await self._report(messages.Report(ref=task.ref, complete=outcome))

    async def fail(self, task: messages.Task, error: BaseException) -> None:
        """Reports that an activity's attempt failed: the service decides whether to try again. Raises as `complete`."""
        outcome = messages.FailActivity(failure=failure_of(error, self._converter))
        await self._report(messages.Report(ref=task.ref, fail=outcome))

    async def cancelled(self, task: messages.Task, details: object = None) -> None:
        """Reports that an activity stopped, because it was asked to. Raises as `complete`."""
        outcome = messages.CancelledActivity(details=self._converter.to_payload(details))
        await self._report(messages.Report(ref=task.ref, cancelled=outcome))

    async def release(self, task: messages.Task, reason: str = "") -> None:
        """Gives a task back undone, of an activity or a run; no attempt is spent. Raises as `complete`."""
        await self._report(messages.Report(ref=task.ref, release=messages.ReleaseTask(reason=reason)))

    async def _report(self, report: messages.Report) -> None:
        result = (await self.report([report]))[0]
        if result.HasField("error"):
            raise reasons.from_status(result.error)

    async def report(self, reports: Iterable[messages.Report]) -> list[messages.ReportResult]:
        """Sends 1 to 256 reports, also of runs, and gives the answer of each in their order. Raises `SessionNotFound`.

        A refused one raises nothing: `status` and `error` of its answer tell. It does not extend the session.
        """
        request = messages.ReportTasksRequest(namespace=self._namespace, session_id=self.session_id, reports=reports)
        return list((await self._caller.call(self._stub.ReportTasks, request)).results)

    async def heartbeat(
        self, tasks: Sequence[messages.Task] = (), details: object = None
    ) -> list[messages.TaskHeartbeatResult]:
        """Extends the session, and notes a sign of life of each of these activities, with `details` if given.

        Their answers, in their order, tell which should stop (`cancel_requested`), and which are the session's no more
        (`lost`). To be called at least every third of `ttl` while anything is held. Raises `SessionNotFound`.
        """
        payload = None if details is None else self._converter.to_payload(details)
        request = messages.HeartbeatTasksRequest(
            namespace=self._namespace,
            session_id=self.session_id,
            heartbeats=[messages.TaskHeartbeat(ref=task.ref, details=payload) for task in tasks],
        )
        return list((await self._caller.call(self._stub.HeartbeatTasks, request)).results)
