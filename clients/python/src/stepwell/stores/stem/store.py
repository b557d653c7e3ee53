"""stem's `PostgresWorkflowStore`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepwell._rpc import uuid7
from stepwell.stores._connection import Store, payload_of, span, stamp, value_of
from stepwell.stores.stem.records import (
    PHASES,
    RunState,
    WorkflowCancellationPolicy,
    WorkflowStatus,
    WorkflowStepEntry,
    WorkflowWatcher,
    WorkflowWatcherResolution,
    event_data,
    run_state,
    step_entry,
    watcher,
)
from stepwell.v1 import run_store_pb2 as runs
from stepwell.v1 import step_store_pb2 as steps
from stepwell.v1 import topic_store_pb2 as topics
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.step_store_pb2_grpc import StepStoreStub
from stepwell.v1.topic_store_pb2_grpc import TopicStoreStub
from stepwell.v1.types_pb2 import CancellationPolicy, Failure, RunPhase

if TYPE_CHECKING:
    import grpc.aio

Data = dict[str, Any]

_LEASE = dt.timedelta(seconds=30)


class PostgresWorkflowStore(Store):
    """Answers like `PostgresWorkflowStore`. `clock` tells the engine's time; by default the service's counts.

    Differs: a run that is not there is refused with `RunNotFound`, where stem changes nothing and says nothing. What
    has ended stays as it is, with `RunTerminal`, where stem overwrites it. A claim is fenced: this object keeps its
    token and sends it with every write, so that an engine whose lease went to another cannot write any more
    (`LeaseLost`).
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        namespace: str = "main",
        api_key: str | None = None,
        call_timeout: float = 60.0,
        clock: Callable[[], dt.datetime] | None = None,
    ) -> None:
        """Uses a channel."""
        super().__init__(channel, namespace=namespace, api_key=api_key, call_timeout=call_timeout)
        self._clock = clock
        self._tokens: dict[str, int] = {}
        self._runs, self._steps, self._topics = RunStoreStub(channel), StepStoreStub(channel), TopicStoreStub(channel)

    async def createRun(
        self,
        *,
        workflow: str,
        params: Data,
        runId: str | None = None,
        parentRunId: str | None = None,
        ttl: dt.timedelta | None = None,
        cancellationPolicy: WorkflowCancellationPolicy | None = None,
    ) -> str:
        """Creates a run, and gives its id. Raises `WorkflowIdInUse`, or `RunExists` if that one has ended.

        Differs: stem ignores `parentRunId` and `ttl`. Here the one must be a run, and the other gives a deadline.
        """
        policy = cancellationPolicy or WorkflowCancellationPolicy()
        request = runs.CreateRunRequest(
            namespace=self.namespace,
            workflow_id=(runId or "").strip() or uuid7(),
            type=workflow,
            input=payload_of(params),
            initial_phase=RunPhase.RUN_PHASE_RUNNING,
            parent_workflow_id=parentRunId or "",
            ttl=span(ttl),
            cancellation_policy=CancellationPolicy(
                maximum_run_duration=span(policy.maxRunDuration),
                maximum_suspend_duration=span(policy.maxSuspendDuration),
            ),
        )
        await self.call(self._runs.CreateRun, request)
        return request.workflow_id

    async def get(self, runId: str) -> RunState | None:
        """Reads a run, or `None`."""
        request = runs.ReadRunRequest(**self._run(runId))
        answer = await self.call(self._runs.ReadRun, request)
        return run_state(answer.run) if answer.found else None

    # --- who works on it ----------------------------------------------------------------------------------------------

    async def claimRun(self, runId: str, *, ownerId: str, leaseDuration: dt.timedelta = _LEASE) -> bool:
        """Claims a run that is running and that nobody holds."""
        request = runs.ClaimRunRequest(
            **self._run(runId), owner_id=ownerId, lease_duration=span(leaseDuration), now=self._now()
        )
        answer = await self.call(self._runs.ClaimRun, request)
        if answer.claimed:
            self._tokens[runId] = answer.token
        return answer.claimed

    async def renewRunLease(self, runId: str, *, ownerId: str, leaseDuration: dt.timedelta = _LEASE) -> bool:
        """Prolongs the lease of a run that was claimed with this object, also an expired one that nobody took."""
        request = runs.RenewRunLeaseRequest(
            **self._held(runId), owner_id=ownerId, lease_duration=span(leaseDuration), now=self._now()
        )
        return (await self.call(self._runs.RenewRunLease, request)).renewed

    async def releaseRun(self, runId: str, *, ownerId: str) -> None:
        """Gives a run back. That of another owner stays."""
        request = runs.ReleaseRunRequest(**self._held(runId), owner_id=ownerId)
        if (await self.call(self._runs.ReleaseRun, request)).released:
            self._tokens.pop(runId, None)

    # --- how far it has come ------------------------------------------------------------------------------------------

    async def markRunning(self, runId: str, *, stepName: str | None = None) -> None:
        """The run is at work, and waits for nothing; its suspension data stays."""
        request = runs.MarkRunRunningRequest(**self._held(runId), step_name=stepName or "")
        await self.call(self._runs.MarkRunRunning, request)

    async def markCompleted(self, runId: str, result: object) -> None:
        """Ends a run well."""
        request = runs.MarkRunCompletedRequest(**self._held(runId), result=payload_of(result))
        await self.call(self._runs.MarkRunCompleted, request)

    async def markFailed(self, runId: str, error: object, stack: str, *, terminal: bool = False) -> None:
        """Records a failure, and with `terminal` ends the run."""
        failure = Failure(message=str(error), stack_trace=stack)
        request = runs.MarkRunFailedRequest(**self._held(runId), failure=failure, terminal=terminal)
        await self.call(self._runs.MarkRunFailed, request)

    async def markResumed(self, runId: str, *, data: Data | None = None) -> None:
        """Lets a run go on, with data in place of that of its suspension."""
        request = runs.ResumeRunWithRequest(**self._held(runId))
        if data is not None:
            request.data.CopyFrom(payload_of(data))
        await self.call(self._runs.ResumeRunWith, request)

    async def cancel(self, runId: str, *, reason: str | None = None) -> None:
        """Cancels a run at once.

        Differs: one that has ended stays as it is.
        """
        request = runs.CancelDrivenRunRequest(**self._run(runId), reason=reason or "")
        await self.call(self._runs.CancelDrivenRun, request)

    async def rewindToStep(self, runId: str, stepName: str) -> None:
        """Takes a step and what followed it out of the record, and suspends the run.

        Differs: what followed is what was recorded later. stem's Postgres sorts by name, its documents by execution.
        """
        request = runs.RewindToStepRequest(**self._held(runId), step_name=stepName)
        await self.call(self._runs.RewindToStep, request)

    # --- what it waits for --------------------------------------------------------------------------------------------

    async def suspendUntil(self, runId: str, stepName: str, when: dt.datetime, *, data: Data | None = None) -> None:
        """Suspends a run until a time."""
        kept = {"resumeAt": when.isoformat(), **(data or {})}
        request = runs.SuspendRunRequest(
            **self._held(runId), step_name=stepName, wake_time=stamp(when), data=payload_of(kept)
        )
        await self.call(self._runs.SuspendRun, request)

    async def dueRuns(self, now: dt.datetime, *, limit: int = 256) -> list[str]:
        """The runs whose time has come, each for one caller. At most 256.

        Differs: one that is not resumed within 30 s is due again, so that none is lost with its poller.
        """
        request = runs.TakeDueRunsRequest(namespace=self.namespace, now=stamp(now), limit=limit)
        return [run.workflow_id for run in (await self.call(self._runs.TakeDueRuns, request)).runs]

    async def suspendOnTopic(
        self,
        runId: str,
        stepName: str,
        topic: str,
        *,
        deadline: dt.datetime | None = None,
        data: Data | None = None,
    ) -> None:
        """Suspends a run until an event of a topic, or its deadline.

        Differs: `resolveWatchers` finds it, too.
        """
        request = topics.SuspendOnTopicRequest(**self._held(runId), step_name=stepName, topic=topic)
        await self.call(self._topics.SuspendOnTopic, _wait(request, deadline, data))

    async def registerWatcher(
        self,
        runId: str,
        stepName: str,
        topic: str,
        *,
        deadline: dt.datetime | None = None,
        data: Data | None = None,
    ) -> None:
        """Suspends a run until an event of a topic, or its deadline."""
        request = topics.RegisterWatcherRequest(**self._held(runId), step_name=stepName, topic=topic)
        await self.call(self._topics.RegisterWatcher, _wait(request, deadline, data))

    async def resolveWatchers(self, topic: str, payload: Data, *, limit: int = 256) -> list[WorkflowWatcherResolution]:
        """Gives an event to the runs that wait on its topic, each woken by one event. At most 256."""
        request = topics.ResolveWatchersRequest(
            namespace=self.namespace, topic=topic, payload=payload_of(payload), limit=limit
        )
        answer = await self.call(self._topics.ResolveWatchers, request)
        return [
            WorkflowWatcherResolution(
                runId=woken.workflow_id,
                stepName=woken.step_name,
                topic=topic,
                resumeData=event_data(
                    value_of(woken.data) or {},
                    woken.step_name,
                    topic,
                    payload,
                    woken.resolve_time.ToDatetime(dt.UTC),
                ),
            )
            for woken in answer.resolutions
        ]

    async def listWatchers(self, topic: str, *, limit: int = 256) -> list[WorkflowWatcher]:
        """Who waits on a topic, the longest waiting first."""
        request = topics.ListWatchersRequest(namespace=self.namespace, topic=topic)
        found = await self.window(self._topics.ListWatchers, request, "watchers", limit=limit)
        return [watcher(each) for each in found]

    async def runsWaitingOn(self, topic: str, *, limit: int = 256) -> list[str]:
        """The runs that wait on a topic, the longest waiting first."""
        request = topics.ListRunsWaitingOnRequest(namespace=self.namespace, topic=topic)
        found = await self.window(self._topics.ListRunsWaitingOn, request, "runs", limit=limit)
        return [run.workflow_id for run in found]

    # --- its checkpoints ----------------------------------------------------------------------------------------------

    async def saveStep(self, runId: str, stepName: str, value: object) -> None:
        """Saves a checkpoint, in the place of an earlier one of that name."""
        request = steps.SaveStepRequest(**self._held(runId), step_name=stepName, value=payload_of(value))
        await self.call(self._steps.SaveStep, request)

    async def readStep(self, runId: str, stepName: str) -> Any:  # noqa: ANN401 - any JSON
        """Reads a checkpoint. `None` if there is none, or if it is null."""
        request = steps.ReadStepRequest(**self._run(runId), step_name=stepName)
        return value_of((await self.call(self._steps.ReadStep, request)).value)

    async def listSteps(self, runId: str) -> list[WorkflowStepEntry]:
        """The checkpoints in the order of execution.

        Differs: stem's Postgres sorts by name, its documents by execution.
        """
        request = steps.ListStepsRequest(**self._run(runId))
        found = await self.every(self._steps.ListSteps, request, "steps")
        return [step_entry(position, step) for position, step in enumerate(found)]

    # --- lists --------------------------------------------------------------------------------------------------------

    async def listRuns(
        self, *, workflow: str | None = None, status: WorkflowStatus | None = None, limit: int = 50, offset: int = 0
    ) -> list[RunState]:
        """Runs, the latest changed first."""
        request = runs.ListDrivenRunsRequest(
            namespace=self.namespace,
            type=workflow or "",
            phases=PHASES[status] if status is not None else (),
            order_by="update_time desc",
            payloads=True,
        )
        found = await self.window(self._runs.ListDrivenRuns, request, "runs", limit=limit, offset=offset)
        return [run_state(run) for run in found]

    async def listRunnableRuns(self, *, now: dt.datetime | None = None, limit: int = 50, offset: int = 0) -> list[str]:
        """The runs that a claim would get, oldest first.

        Differs: stem begins with the latest changed, so that an old run may wait for ever.
        """
        request = runs.ListRunnableRunsRequest(namespace=self.namespace, now=stamp(now) or self._now())
        found = await self.window(self._runs.ListRunnableRuns, request, "runs", limit=limit, offset=offset)
        return [run.workflow_id for run in found]

    async def close(self) -> None:
        """Closes the channel."""
        await self.close_channel()

    def _run(self, runId: str) -> Data:
        return {"namespace": self.namespace, "workflow_id": runId}

    def _held(self, runId: str) -> Data:
        return {**self._run(runId), "token": self._tokens.get(runId, 0)}

    def _now(self) -> Any:  # noqa: ANN401 - a time, or nothing
        return stamp(self._clock()) if self._clock is not None else None


def _wait(request: Any, deadline: dt.datetime | None, data: Data | None) -> Any:  # noqa: ANN401 - either wait
    """Adds until when a run waits, and what it keeps meanwhile, to the request."""
    until = {"deadline": deadline.isoformat(), "resumeAt": deadline.isoformat()} if deadline is not None else {}
    request.data.CopyFrom(payload_of({"topic": request.topic, **until, **(data or {})}))
    if deadline is not None:
        request.deadline.CopyFrom(stamp(deadline))
    return request
