"""A double of the service for the protocol's edge: no database, one process, and faults on demand.

It keeps to the protocol's promises (tokens, order check, duplicates, resume), and is no model of anything else. Here is
the worker's stream.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.rpc import status_pb2
from tests.sdk.fake_records import FIRST_END, FakeActivity, FakeRun, Session, refusal
from tests.sdk.fake_runs import FakeRuns

from stepwell._calls import ENDED
from stepwell._scopes import key_of
from stepwell.v1 import types_pb2, workers_pb2
from stepwell.v1.runs_pb2_grpc import add_RunServiceServicer_to_server
from stepwell.v1.types_pb2 import Failure
from stepwell.v1.workers_pb2 import ConnectResponse, ReportResult, Task
from stepwell.v1.workers_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server


class FakeService(FakeRuns, WorkerServiceServicer):
    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, Session] = {}
        self.server = grpc.aio.server()
        self.port = 0
        self.address = ""
        self.received: list[workers_pb2.ConnectRequest] = []
        self.results: list[ReportResult] = []
        self.beats: list[workers_pb2.TaskHeartbeat] = []
        self.swallow_results = 0  # answers to lose, with the stream
        self.refuse_next: list[status_pb2.Status] = []
        self.answers_backwards = False  # those to the reports of one message
        self.assigned: list[tuple[Session, Task]] = []
        self.loses_who_beats = False
        self.released = 0  # tasks that were given back
        self.expire_sessions = False
        self.opened = self.closed = 0  # streams
        self.resume_gate: asyncio.Event | None = None  # what a hello that resumes waits for
        self.refuse_resumes = 0
        self.refuse_streams: list[status_pb2.Status] = []
        self.traceparent = ""  # of all tasks
        self.inline_steps = 1_000  # of a task; the others are read by pages of as many
        self.page_gate: asyncio.Event | None = None  # what a page that was read waits for

    async def start(self) -> str:
        add_WorkerServiceServicer_to_server(self, self.server)
        add_RunServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{self.port}"

    async def Connect(self, request_iterator: Any, context: Any) -> Any:
        first = await anext(request_iterator)
        hello = first.hello
        self.opened += 1
        self.changed()
        if hello.session_id and self.resume_gate is not None:
            await self.resume_gate.wait()
        if hello.session_id and self.refuse_resumes:
            self.refuse_resumes -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if self.refuse_streams:
            await _end(context, self.refuse_streams.pop(0))
        session = self.sessions.get(hello.session_id) if hello.session_id else None
        if hello.session_id and (session is None or self.expire_sessions):
            self.expire_sessions = False
            status = refusal(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", "expired")
            if session is not None:
                session.is_draining = True
                for held in self._held(session):
                    self._give_back(held)
            await _end(context, status)
        resumed = session is not None
        if session is None:
            session = Session(hello)
            self.sessions[session.session_id] = session
        session.out = asyncio.Queue()
        welcome = workers_pb2.Welcome(session_id=session.session_id, resumed=resumed, max_items=256)
        welcome.heartbeat_interval.seconds = 10
        if resumed:
            welcome.held.extend(held.ref for held in self._held(session))
        yield ConnectResponse(welcome=welcome)
        self._dispatch()
        reader = asyncio.create_task(self._read(request_iterator, session, session.out))
        try:
            while (message := await session.out.get()) is not None:
                while not session.out.empty():
                    further = session.out.get_nowait()
                    if further is None:
                        return
                    message.MergeFrom(further)
                yield message
        finally:
            self.closed += 1
            self.changed()
            reader.cancel()

    def _held(self, session: Session | None) -> list[FakeRun | FakeActivity]:
        tasks: list[FakeRun | FakeActivity] = [*self.runs.values(), *self.activities.values()]
        return [held for held in tasks if held.holder is session]

    def _give_back(self, held: FakeRun | FakeActivity) -> None:
        held.holder = None
        self._enqueue(held)
        self.changed()

    async def _read(self, requests: Any, session: Session, out: asyncio.Queue[ConnectResponse | None]) -> None:
        async for message in requests:
            self.received.append(message)
            session.is_draining |= message.drain
            response = ConnectResponse(pong=message.ping)
            for beat in message.heartbeats:
                self.beats.append(beat)
                self.activities[beat.ref.task_id].details = beat.details
                response.heartbeats.add(ref=beat.ref, lost=self.loses_who_beats)
            results = [self._report(session, report) for report in message.reports]
            self.results += results
            response.results.extend(reversed(results) if self.answers_backwards else results)
            if response.results and self.swallow_results:
                self.swallow_results -= 1
                out.put_nowait(None)
                return
            out.put_nowait(response)
            self._dispatch()
            self.changed()
        out.put_nowait(None)

    def cut(self) -> None:
        """Ends every stream."""
        for session in self.sessions.values():
            session.out.put_nowait(None)

    def rotate(self) -> None:
        """Asks every worker to connect anew, now."""
        for session in self.sessions.values():
            session.out.put_nowait(ConnectResponse(rotate=workers_pb2.Rotate()))

    def assign_again(self) -> None:
        """Gives all grants once more, as they were."""
        for session, task in self.assigned:
            session.out.put_nowait(ConnectResponse(assigns=[task]))

    def lose(self, *tasks: FakeRun | FakeActivity) -> None:
        """Takes tasks from their workers, which are told so, and queues them for any."""
        for task in tasks:
            assert task.holder is not None
            revoke = workers_pb2.RevokeTask(ref=task.ref, reason="TIMED_OUT")
            task.holder.out.put_nowait(ConnectResponse(revokes=[revoke]))
            self._give_back(task)

    def evict(self, run_id: str) -> None:
        """Takes a run from its worker, and queues it for any."""
        run = self.runs[run_id]
        assert run.holder is not None
        revoke = workers_pb2.RevokeTask(ref=run.ref, reason="EVICTED")
        run.holder.out.put_nowait(ConnectResponse(revokes=[revoke]))
        self._give_back(run)

    def _dispatch(self) -> None:
        for _ in range(len(self.ready)):
            item = self.ready.popleft()
            kind = item.request.type if isinstance(item, FakeRun) else item.step.type
            for session in self.sessions.values():
                known = session.hello.workflow_types if isinstance(item, FakeRun) else session.hello.activity_types
                if kind in known and not session.is_draining:
                    self._assign(session, item)
                    break
            else:
                self.ready.append(item)

    def _assign(self, session: Session, item: FakeRun | FakeActivity) -> None:
        item.token += 1
        item.holder = session
        if isinstance(item, FakeRun):
            task = Task(
                ref=item.ref,
                kind=workers_pb2.TASK_KIND_RUN,
                namespace="main",
                traceparent=self.traceparent,
                run_id=item.run_id,
                workflow_id=item.request.workflow_id,
                type=item.request.type,
                input=item.request.input,
                attempt=item.token,
                steps=item.steps[: self.inline_steps],
                more_steps=len(item.steps) > self.inline_steps,
                cancel_requested=item.cancel_reason is not None,
                cancel_reason=item.cancel_reason or "",
            )
        else:
            task = Task(
                ref=item.ref,
                kind=workers_pb2.TASK_KIND_ACTIVITY,
                namespace="main",
                traceparent=self.traceparent,
                run_id=item.run.run_id,
                type=item.step.type,
                input=item.step.input,
                attempt=item.token,
                step_name=item.record.name,
                step_ordinal=item.record.ordinal,
                heartbeat_details=item.details,
            )
        self.assigned.append((session, task))
        session.out.put_nowait(ConnectResponse(assigns=[task]))
        self.changed()

    async def ListTaskSteps(self, request: Any, context: Any) -> workers_pb2.ListTaskStepsResponse:
        self.calls["ListTaskSteps"] += 1
        left = self.runs[request.ref.task_id[4:]].steps[request.after_ordinal :]
        page = workers_pb2.ListTaskStepsResponse(
            steps=left[: self.inline_steps], more_steps=len(left) > self.inline_steps
        )
        if self.page_gate is not None:
            await self.page_gate.wait()
        return page

    def _report(self, session: Session, report: workers_pb2.Report) -> ReportResult:
        result = ReportResult(correlation=report.correlation, status=ReportResult.STATUS_ACCEPTED)
        if self.refuse_next:
            refuse(result, self.refuse_next.pop(0))
            return result
        item = self.runs.get(report.ref.task_id[4:]) or self.activities.get(report.ref.task_id)
        assert item is not None
        if item.token != report.ref.token:
            refuse(result, refusal(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST", "lost"))
        elif report.HasField("release"):
            self.released += 1
            self._give_back(item)
        elif isinstance(item, FakeRun):
            self._progress(item, report.progress, result)
        elif item.record.state in ENDED:
            result.status = ReportResult.STATUS_DUPLICATE
        else:
            self._activity_ended(item, report)
        return result

    def _activity_ended(self, item: FakeActivity, report: workers_pb2.Report) -> None:
        if report.HasField("fail"):
            most = item.step.retry.maximum_attempts
            if not report.fail.failure.non_retryable and (not most or item.token < most):
                self._give_back(item)
                return
            self._close(item.run, item.record, None, report.fail.failure)
        elif report.HasField("cancelled"):
            self._close(item.run, item.record, None, Failure(message="cancelled", type="Cancelled"))
        else:
            self._close(item.run, item.record, report.complete.result, None)
        item.holder = None
        self._advance(item.run, [item.record])

    def _is_recorded(self, ref: workers_pb2.TaskRef) -> bool:
        item = self.activities[ref.task_id]
        return item.record.state == types_pb2.STEP_STATE_COMPLETED and item.token == ref.token

    def _progress(self, run: FakeRun, progress: workers_pb2.Progress, result: ReportResult) -> None:
        run.progresses.append(progress)
        known = {key_of(record): record for record in run.steps}
        keys = [(step.scope, step.name, step.key or step.occurrence) for step in progress.steps]
        if run.phase >= FIRST_END or (keys and all(key in known for key in keys)):
            result.status = ReportResult.STATUS_DUPLICATE
            result.ordinals.extend(known[key].ordinal for key in keys)
            result.steps.extend(known[key] for key in keys if known[key].state in ENDED)
            return
        if not all(self._is_recorded(ref) for ref in progress.ahead_of):
            refuse(result, refusal(grpc.StatusCode.FAILED_PRECONDITION, "RESULT_NOT_RECORDED", "not recorded"))
            self.released += 1
            self._give_back(run)
            return
        wrong = self.order_error(run, progress)
        if wrong:
            refuse(result, refusal(grpc.StatusCode.FAILED_PRECONDITION, "STEP_ORDER_CHANGED", wrong))
            run.holder = None
            return
        for step in progress.steps:
            record = self._record(run, step)
            result.ordinals.append(record.ordinal)
        for ordinal in progress.cancel_ordinals:
            record = run.steps[ordinal - 1]
            if record.state not in ENDED:
                record.state = types_pb2.STEP_STATE_CANCELLED
        result.steps.extend(self._match_signals(run))
        self._maybe_end(run, progress)


async def _end(context: Any, status: status_pb2.Status) -> None:
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))


def refuse(result: ReportResult, status: status_pb2.Status) -> None:
    """Refuses a report, with what is to be done about it as the service would say."""
    result.status = ReportResult.STATUS_REFUSED
    result.error.CopyFrom(status)
    if status.code in {grpc.StatusCode.ABORTED.value[0], grpc.StatusCode.UNAVAILABLE.value[0]}:
        result.remedy = ReportResult.REMEDY_REPEAT
        result.repeat_delay.FromMilliseconds(50)
    elif status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]:
        result.remedy = ReportResult.REMEDY_FAIL
    else:
        result.remedy = ReportResult.REMEDY_DROP
