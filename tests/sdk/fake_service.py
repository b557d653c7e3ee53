"""A double of the service for the protocol's edge: no database, one process, and faults on demand.

It keeps to the protocol's promises (tokens, order check, duplicates, resume), and is no model of anything else.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections import defaultdict, deque
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from stepwell._calls import ENDED
from stepwell._scopes import EMPTY_HASH, chained, key_of
from stepwell.v1 import runs_pb2, types_pb2, workers_pb2
from stepwell.v1.runs_pb2_grpc import RunServiceServicer, add_RunServiceServicer_to_server
from stepwell.v1.types_pb2 import Failure, Payload
from stepwell.v1.workers_pb2 import ConnectResponse, ReportResult, StepRecord, Task, TaskRef
from stepwell.v1.workers_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server

KINDS = {
    "local": types_pb2.STEP_KIND_LOCAL,
    "activity": types_pb2.STEP_KIND_ACTIVITY,
    "timer": types_pb2.STEP_KIND_TIMER,
    "wait": types_pb2.STEP_KIND_WAIT,
    "child": types_pb2.STEP_KIND_CHILD,
    "marker": types_pb2.STEP_KIND_MARKER,
}
DONE = types_pb2.STEP_STATE_COMPLETED
FAILED = types_pb2.STEP_STATE_FAILED
FIRST_END = types_pb2.RUN_PHASE_COMPLETED


def refusal(code: grpc.StatusCode, reason: str, message: str) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="stepwell.dev"))
    return status


@dataclasses.dataclass
class FakeRun:
    request: runs_pb2.StartRunRequest
    run_id: str
    token: int = 0
    holder: Session | None = None
    phase: types_pb2.RunPhase.ValueType = types_pb2.RUN_PHASE_PENDING
    steps: list[StepRecord] = dataclasses.field(default_factory=list)
    result: Payload = dataclasses.field(default_factory=Payload)
    failure: Failure | None = None
    continued_run_id: str = ""
    signals: dict[str, deque[Payload]] = dataclasses.field(default_factory=lambda: defaultdict(deque))
    cancel_reason: str | None = None
    parent: tuple[FakeRun, StepRecord] | None = None
    completions: int = 0
    progresses: list[workers_pb2.Progress] = dataclasses.field(default_factory=list)

    @property
    def ref(self) -> TaskRef:
        return TaskRef(task_id=f"run:{self.run_id}", token=self.token)


@dataclasses.dataclass
class FakeActivity:
    run: FakeRun
    record: StepRecord
    step: workers_pb2.ActivityStep
    token: int = 0
    details: Payload | None = None
    holder: Session | None = None

    @property
    def ref(self) -> TaskRef:
        return TaskRef(task_id=f"act:{self.run.run_id}:{self.record.ordinal}", token=self.token)


class Session:
    def __init__(self, hello: workers_pb2.Hello) -> None:
        self.session_id = str(uuid.uuid4())
        self.hello = hello
        self.out: asyncio.Queue[ConnectResponse | None] = asyncio.Queue()
        self.is_draining = False


# Servicers are abstract; what the double does not offer is answered UNIMPLEMENTED.
class FakeService(WorkerServiceServicer, RunServiceServicer):
    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.activities: dict[str, FakeActivity] = {}
        self.sessions: dict[str, Session] = {}
        self.ready: deque[FakeRun | FakeActivity] = deque()
        self.ends: list[runs_pb2.WatchRunsResponse.End] = []
        self.watch_events: set[asyncio.Event] = set()
        self.server = grpc.aio.server()
        self.port = 0
        self.address = ""
        self.calls: dict[str, int] = defaultdict(int)
        self.received: list[workers_pb2.ConnectRequest] = []
        self.results: list[ReportResult] = []
        self.beats: list[workers_pb2.TaskHeartbeat] = []
        self.swallow_results = 0  # answers to lose, with the stream
        self.refuse_next: list[status_pb2.Status] = []
        self.fail_starts = 0
        self.watches = True
        self.is_deaf = False  # what is being watched ends without a word
        self.expire_sessions = False
        self.opened = self.closed = 0  # streams
        self.resume_gate: asyncio.Event | None = None  # what a hello that resumes waits for
        self.refuse_resumes = 0
        self.inline_steps = 1_000  # of a task; the others are read by pages of as many
        self.page_gate: asyncio.Event | None = None  # what a page that was read waits for

    async def start(self) -> str:
        add_WorkerServiceServicer_to_server(self, self.server)
        add_RunServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{self.port}"

    # Runs

    def _start(self, request: runs_pb2.StartRunRequest, parent: Any = None) -> runs_pb2.StartRunResponse:
        run_id = request.run_id or str(uuid.uuid4())
        if run_id in self.runs:
            return runs_pb2.StartRunResponse(run_id=run_id, started=False)
        run = FakeRun(request=request, run_id=run_id, parent=parent)
        self.runs[run_id] = run
        self._enqueue(run)
        return runs_pb2.StartRunResponse(run_id=run_id, started=True)

    async def BatchStartRuns(self, request: Any, context: Any) -> runs_pb2.BatchStartRunsResponse:
        self.calls["BatchStartRuns"] += 1
        results = []
        for item in request.requests:
            used = [r for r in self.runs.values() if item.workflow_id and r.request.workflow_id == item.workflow_id]
            if any(r.phase < FIRST_END and r.run_id != item.run_id for r in used):
                error = refusal(grpc.StatusCode.ALREADY_EXISTS, "WORKFLOW_ID_IN_USE", "in use")
                results.append(runs_pb2.BatchStartRunsResponse.Result(error=error))
            else:
                results.append(runs_pb2.BatchStartRunsResponse.Result(started=self._start(item)))
        if self.fail_starts:
            self.fail_starts -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return runs_pb2.BatchStartRunsResponse(results=results)

    async def BatchSignalRuns(self, request: Any, context: Any) -> runs_pb2.BatchSignalRunsResponse:
        self.calls["BatchSignalRuns"] += 1
        results = []
        for item in request.requests:
            run = self.runs[item.run_id]
            run.signals[item.signal_name].append(item.payload)
            ended = self._match_signals(run)
            if ended:
                self._advance(run, ended)
            results.append(
                runs_pb2.BatchSignalRunsResponse.Result(signalled=runs_pb2.SignalRunResponse(run_id=run.run_id))
            )
        return runs_pb2.BatchSignalRunsResponse(results=results)

    async def GetRun(self, request: Any, context: Any) -> runs_pb2.GetRunResponse:
        self.calls["GetRun"] += 1
        run = self.runs.get(request.run_id)
        if run is None:
            status = refusal(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", "no such run")
            metadata = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such run", metadata)
            raise AssertionError
        return runs_pb2.GetRunResponse(run=self._view(run))

    def _view(self, run: FakeRun) -> runs_pb2.Run:
        return runs_pb2.Run(
            run_id=run.run_id,
            workflow_id=run.request.workflow_id,
            phase=run.phase,
            result=run.result,
            failure=run.failure,
            continued_run_id=run.continued_run_id,
        )

    async def WaitRun(self, request: Any, context: Any) -> runs_pb2.WaitRunResponse:
        run = self.runs[request.run_id]
        while run.phase < FIRST_END:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return runs_pb2.WaitRunResponse(run=self._view(run), ended=True)

    async def CancelRun(self, request: Any, context: Any) -> runs_pb2.CancelRunResponse:
        run = self.runs[request.run_id]
        run.cancel_reason = request.reason
        if run.holder is not None:
            advance = workers_pb2.Advance(ref=run.ref, cancel_requested=True, cancel_reason=request.reason)
            run.holder.out.put_nowait(ConnectResponse(advances=[advance]))
        return runs_pb2.CancelRunResponse(accepted=True, run_id=run.run_id)

    async def WatchRuns(self, request: Any, context: Any) -> Any:
        self.calls["WatchRuns"] += 1
        if not self.watches:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no watch")
        position = int(request.cursor) if request.cursor else len(self.ends)
        event = asyncio.Event()
        self.watch_events.add(event)
        news, position = self.ends[position:], len(self.ends)
        yield runs_pb2.WatchRunsResponse(ends=news, cursor=str(position))
        while True:
            await event.wait()
            event.clear()
            if self.is_deaf:
                return
            news, position = self.ends[position:], len(self.ends)
            yield runs_pb2.WatchRunsResponse(ends=news, cursor=str(position))

    def _end(self, run: FakeRun, phase: types_pb2.RunPhase.ValueType) -> None:
        run.phase = phase
        run.holder = None
        end = runs_pb2.WatchRunsResponse.End(
            run_id=run.run_id, phase=phase, result=run.result, continued_run_id=run.continued_run_id
        )
        if run.failure is not None:
            end.failure.CopyFrom(run.failure)
        self.ends.append(end)
        for event in self.watch_events:
            event.set()
        if run.parent is not None and not run.continued_run_id:
            parent, record = run.parent
            self._close(parent, record, run.result, run.failure)
            self._advance(parent, [record])

    # The stream

    async def Connect(self, request_iterator: Any, context: Any) -> Any:
        first = await anext(request_iterator)
        hello = first.hello
        self.opened += 1
        if hello.session_id and self.resume_gate is not None:
            await self.resume_gate.wait()
        if hello.session_id and self.refuse_resumes:
            self.refuse_resumes -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        session = self.sessions.get(hello.session_id) if hello.session_id else None
        if hello.session_id and (session is None or self.expire_sessions):
            self.expire_sessions = False
            status = refusal(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", "expired")
            if session is not None:
                session.is_draining = True
                for held in self._held(session):
                    self._give_back(held)
            metadata = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "expired", metadata)
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
            reader.cancel()

    def _held(self, session: Session | None) -> list[FakeRun | FakeActivity]:
        tasks: list[FakeRun | FakeActivity] = [*self.runs.values(), *self.activities.values()]
        return [held for held in tasks if held.holder is session]

    def _give_back(self, held: FakeRun | FakeActivity) -> None:
        held.holder = None
        self._enqueue(held)

    async def _read(self, requests: Any, session: Session, out: asyncio.Queue[ConnectResponse | None]) -> None:
        async for message in requests:
            self.received.append(message)
            session.is_draining |= message.drain
            response = ConnectResponse(pong=message.ping)
            for beat in message.heartbeats:
                self.beats.append(beat)
                self.activities[beat.ref.task_id].details = beat.details
                response.heartbeats.add(ref=beat.ref)
            for report in message.reports:
                result = self._report(session, report)
                self.results.append(result)
                response.results.append(result)
            if response.results and self.swallow_results:
                self.swallow_results -= 1
                out.put_nowait(None)
                return
            out.put_nowait(response)
            self._dispatch()
        out.put_nowait(None)

    def cut(self) -> None:
        """Ends every stream."""
        for session in self.sessions.values():
            session.out.put_nowait(None)

    def rotate(self) -> None:
        """Asks every worker to connect anew, now."""
        for session in self.sessions.values():
            session.out.put_nowait(ConnectResponse(rotate=workers_pb2.Rotate()))

    def evict(self, run_id: str) -> None:
        """Takes a run from its worker, and queues it for any."""
        run = self.runs[run_id]
        assert run.holder is not None
        revoke = workers_pb2.RevokeTask(ref=run.ref, reason="EVICTED")
        run.holder.out.put_nowait(ConnectResponse(revokes=[revoke]))
        self._give_back(run)

    def _enqueue(self, item: FakeRun | FakeActivity) -> None:
        self.ready.append(item)
        asyncio.get_running_loop().call_soon(self._dispatch)

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
                run_id=item.run.run_id,
                type=item.step.type,
                input=item.step.input,
                attempt=item.token,
                step_name=item.record.name,
                step_ordinal=item.record.ordinal,
                heartbeat_details=item.details,
            )
        session.out.put_nowait(ConnectResponse(assigns=[task]))

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
            result.status = ReportResult.STATUS_REFUSED
            result.error.CopyFrom(self.refuse_next.pop(0))
            return result
        item = self.runs.get(report.ref.task_id[4:]) or self.activities.get(report.ref.task_id)
        assert item is not None
        if item.token != report.ref.token:
            result.status = ReportResult.STATUS_REFUSED
            result.error.CopyFrom(refusal(grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST", "lost"))
        elif report.HasField("release"):
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

    def _close(self, run: FakeRun, record: StepRecord, result: Payload | None, failure: Failure | None) -> None:
        run.completions += 1
        record.completion = run.completions
        record.state = DONE if failure is None else FAILED
        if result is not None:
            record.result.CopyFrom(result)
        if failure is not None:
            record.failure.CopyFrom(failure)

    def _advance(self, run: FakeRun, records: list[StepRecord]) -> None:
        if run.holder is not None and run.phase < FIRST_END:
            advance = workers_pb2.Advance(ref=run.ref, steps=records)
            run.holder.out.put_nowait(ConnectResponse(advances=[advance]))

    def _match_signals(self, run: FakeRun) -> list[StepRecord]:
        ended = []
        for record in run.steps:
            is_waiting = record.kind == types_pb2.STEP_KIND_WAIT and record.state not in ENDED
            if is_waiting and run.signals[record.name]:
                self._close(run, record, run.signals[record.name].popleft(), None)
                ended.append(record)
        return ended

    def order_error(self, run: FakeRun, progress: workers_pb2.Progress) -> str:
        """Compares as the service does: each branch's calls so far must be a beginning of its record."""
        new = {step.scope for step in progress.steps}
        for state in progress.scopes:
            recorded = [record for record in run.steps if record.scope == state.scope]
            order = EMPTY_HASH
            for record in recorded[: state.count]:
                order = chained(order, record.kind, record.name)
            if state.count > len(recorded) or order != state.hash:
                return f"scope {state.scope!r} at {state.count} differs"
            if (state.scope in new or state.closed) and state.count != len(recorded):
                return f"scope {state.scope!r} has {len(recorded)} steps, the code {state.count}"
        is_whole = progress.HasField("complete") or progress.HasField("continue_as_new")
        if is_whole and progress.calls != len(run.steps) + len(progress.steps):
            return f"{len(run.steps)} steps are recorded, {len(progress.steps)} are new, the code made {progress.calls}"
        return ""

    def _progress(self, run: FakeRun, progress: workers_pb2.Progress, result: ReportResult) -> None:
        run.progresses.append(progress)
        known = {key_of(record): record for record in run.steps}
        keys = [(step.scope, step.name, step.key or step.occurrence) for step in progress.steps]
        if run.phase >= FIRST_END or (keys and all(key in known for key in keys)):
            result.status = ReportResult.STATUS_DUPLICATE
            result.ordinals.extend(known[key].ordinal for key in keys)
            result.steps.extend(known[key] for key in keys if known[key].state in ENDED)
            return
        wrong = self.order_error(run, progress)
        if wrong:
            result.status = ReportResult.STATUS_REFUSED
            result.error.CopyFrom(refusal(grpc.StatusCode.FAILED_PRECONDITION, "STEP_ORDER_CHANGED", wrong))
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

    def _maybe_end(self, run: FakeRun, progress: workers_pb2.Progress) -> None:
        end = progress.WhichOneof("end")
        if end == "complete":
            run.result = progress.complete.result
            self._end(run, types_pb2.RUN_PHASE_COMPLETED)
        elif end == "fail":
            run.failure = progress.fail.failure
            self._end(run, types_pb2.RUN_PHASE_FAILED)
        elif end == "cancelled":
            self._end(run, types_pb2.RUN_PHASE_CANCELLED)
        elif end == "continue_as_new":
            request = runs_pb2.StartRunRequest(type=run.request.type, input=progress.continue_as_new.input)
            run.continued_run_id = self._start(request, run.parent).run_id
            self._end(run, types_pb2.RUN_PHASE_COMPLETED)

    def _record(self, run: FakeRun, step: workers_pb2.NewStep) -> StepRecord:
        kind = step.WhichOneof("kind")
        assert kind is not None
        record = StepRecord(
            ordinal=len(run.steps) + 1,
            scope=step.scope,
            name=step.name,
            occurrence=step.occurrence,
            key=step.key,
            kind=KINDS[kind],
            state=types_pb2.STEP_STATE_WAITING,
        )
        run.steps.append(record)
        loop = asyncio.get_running_loop()
        if kind == "local":
            failure = step.local.failure if step.local.HasField("failure") else None
            self._close(run, record, step.local.result, failure)
        elif kind == "marker":
            self._close(run, record, step.marker.value, None)
        elif kind == "activity":
            activity = FakeActivity(run, record, step.activity)
            self.activities[activity.ref.task_id] = activity
            self._enqueue(activity)
        elif kind == "child":
            request = runs_pb2.StartRunRequest(type=step.child.type, input=step.child.input)
            record.child_run_id = self._start(request, (run, record)).run_id
        elif kind == "timer" or step.wait.HasField("timeout"):
            length = step.timer.duration if kind == "timer" else step.wait.timeout
            loop.call_later(length.seconds + length.nanos / 1e9, self._fire, run, record)
        return record

    def _fire(self, run: FakeRun, record: StepRecord) -> None:
        if record.state not in ENDED:
            record.timed_out = record.kind == types_pb2.STEP_KIND_WAIT
            self._close(run, record, None, None)
            self._advance(run, [record])
