"""The part of the double that clients call: runs, their records, signals and ends."""

from __future__ import annotations

import abc
import asyncio
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import grpc
from tests.sdk.fake_records import FIRST_END, FakeActivity, FakeRun, refusal

from stepwell._calls import ENDED
from stepwell._scopes import EMPTY_HASH, chained
from stepwell.v1 import runs_pb2, types_pb2, workers_pb2
from stepwell.v1.runs_pb2_grpc import RunServiceServicer
from stepwell.v1.types_pb2 import Failure, Payload
from stepwell.v1.workers_pb2 import ConnectResponse, StepRecord

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


# Servicers are abstract; what the double does not offer is answered UNIMPLEMENTED.
class FakeRuns(RunServiceServicer, abc.ABC):
    def __init__(self) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.activities: dict[str, FakeActivity] = {}
        self.ready: deque[FakeRun | FakeActivity] = deque()
        self.ends: list[runs_pb2.WatchRunsResponse.End] = []
        self.watch_events: set[asyncio.Event] = set()
        self.calls: dict[str, int] = defaultdict(int)
        self.fail_starts = 0
        self.fail_as = grpc.StatusCode.UNAVAILABLE
        self.watches = True
        self.is_deaf = False  # what is being watched ends without a word
        self._change = asyncio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns once it is so; the double says when something has changed."""
        async with asyncio.timeout(60):
            while not condition():
                await self._change.wait()

    def changed(self) -> None:
        """Lets those look again who wait until something is so."""
        self._change.set()
        self._change = asyncio.Event()

    def _enqueue(self, item: FakeRun | FakeActivity) -> None:
        self.ready.append(item)
        asyncio.get_running_loop().call_soon(self._dispatch)

    @abc.abstractmethod
    def _dispatch(self) -> None: ...

    # Calls

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
            await context.abort(self.fail_as, "the answer is lost")
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
        self.calls["WaitRun"] += 1
        await self.until(lambda: self._last(request.run_id).phase >= FIRST_END)
        return runs_pb2.WaitRunResponse(run=self._view(self._last(request.run_id)), ended=True)

    def _last(self, run_id: str) -> FakeRun:
        """The one that goes on with a run's work by now."""
        run = self.runs[run_id]
        return self._last(run.continued_run_id) if run.continued_run_id else run

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
        self.changed()
        news, position = self._ends_after(position, request.id_suffix), len(self.ends)
        yield runs_pb2.WatchRunsResponse(ends=news, cursor=str(position))
        while True:
            await event.wait()
            event.clear()
            if self.is_deaf:
                return
            news, position = self._ends_after(position, request.id_suffix), len(self.ends)
            yield runs_pb2.WatchRunsResponse(ends=news, cursor=str(position))

    def _ends_after(self, position: int, ending: str) -> list[runs_pb2.WatchRunsResponse.End]:
        return [end for end in self.ends[position:] if end.run_id.endswith(ending)]

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
        self.changed()
        if run.parent is not None and not run.continued_run_id:
            parent, record = run.parent
            self._close(parent, record, run.result, run.failure)
            self._advance(parent, [record])

    # Records

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
            self.changed()
