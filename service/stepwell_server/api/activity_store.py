"""ActivityStore: activities of driven runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import activity_store_pb2, activity_store_pb2_grpc, types_pb2
from stepwell_server.api.activity_options import retry_from_proto
from stepwell_server.api.fields import integer, seconds, time
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import (
    duration_to_proto,
    failure_from_proto,
    failure_to_proto,
    payload_from_proto,
    payload_to_proto,
)
from stepwell_server.api.run_starts import DEFAULT_QUEUE, size_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.dispatch.beat_traces import hear_driven
from stepwell_server.engine import driven_activities
from stepwell_server.engine.activities import NewActivity, passed_timeout
from stepwell_server.engine.activity_claims import ClaimedActivity
from stepwell_server.engine.committer.protocols import ActivityClaim
from stepwell_server.engine.driven_activities import ActivityAnswer, activity_identity
from stepwell_server.errors import InvalidField
from stepwell_server.ids import pack
from stepwell_server.model.steps import NO_TIMEOUTS, StepState, Timeouts, unpack_step_details
from stepwell_server.store import activity_store, runs, step_store
from stepwell_server.store.activity_store import Overdue, Place

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.model.steps import ClosedStep, RetryPolicy, Step
    from stepwell_server.store.steps import WholeStep

    Context = grpc.aio.ServicerContext[Any, Any]

_LARGEST_SEQ = 2**63 - 1
_MOST_ATTEMPTS = 1_000_000
_SHORTEST_TIMEOUT = 0.001
_LOOKED_AT, _ROUNDS = 256, 16


class ActivityStoreCalls(StoreCalls, activity_store_pb2_grpc.ActivityStoreServicer):
    """Creates, claims, retries, ends and reads activities."""

    async def CreateActivity(
        self, request: activity_store_pb2.CreateActivityRequest, context: Context
    ) -> activity_store_pb2.CreateActivityResponse:
        seq = integer(request.seq, "seq", at_most=_LARGEST_SEQ)
        attempt = integer(request.attempt or 1, "attempt", at_least=1, at_most=_MOST_ATTEMPTS)
        state = request.initial_state or StepState.PENDING
        if state not in (StepState.PENDING, StepState.RUNNING):
            raise InvalidField(field="initial_state", problem="must be PENDING or RUNNING")
        command = driven_activities.CreateActivity(
            await self._refs.read(request),
            seq,
            self._new(request),
            attempt,
            time(request, "schedule_time"),
            running=state == StepState.RUNNING,
            token=request.token,
        )
        answer = await self._do(ActivityAnswer, command, request)
        return activity_store_pb2.CreateActivityResponse(created=answer.done, activity=await self._answered(answer))

    async def GetActivity(
        self, request: activity_store_pb2.GetActivityRequest, context: Context
    ) -> activity_store_pb2.GetActivityResponse:
        run, found = await self._find(request)
        if run is None or found is None:
            return activity_store_pb2.GetActivityResponse(found=False)
        activity = activity_to_proto(found, run.run_id, run.workflow_id)
        return activity_store_pb2.GetActivityResponse(found=True, activity=activity)

    async def ClaimActivity(
        self, request: activity_store_pb2.ClaimActivityRequest, context: Context
    ) -> activity_store_pb2.ClaimActivityResponse:
        task_queue = self._fields.name(request.task_queue, "task_queue")
        worker_id = self._fields.name(request.worker_id, "worker_id")
        space = await self._space(request)
        claim = ActivityClaim(space.namespace_id or 0, space.namespace, task_queue, worker_id, time(request, "now"))
        claimed = await self._committers.submit(claim, size_of(request), remaining())
        if not isinstance(claimed, ClaimedActivity):
            return activity_store_pb2.ClaimActivityResponse(claimed=False)
        activity = await self._shown(claimed.step, claimed.run_id, claimed.workflow_id)
        return activity_store_pb2.ClaimActivityResponse(claimed=True, activity=activity, token=claimed.step.grants)

    async def RequeueActivityForRetry(
        self, request: activity_store_pb2.RequeueActivityForRetryRequest, context: Context
    ) -> activity_store_pb2.RequeueActivityForRetryResponse:
        ref, ordinal = await self._numbered(request, request.activity_number, "activity_number")
        attempt = integer(request.attempt, "attempt", at_least=1, at_most=_MOST_ATTEMPTS)
        schedule_time = time(request, "schedule_time")
        command = driven_activities.RequeueActivity(ref, ordinal, attempt, schedule_time, request.token)
        answer = await self._do(ActivityAnswer, command, request)
        return activity_store_pb2.RequeueActivityForRetryResponse(activity=await self._answered(answer))

    async def CompleteActivity(
        self, request: activity_store_pb2.CompleteActivityRequest, context: Context
    ) -> activity_store_pb2.CompleteActivityResponse:
        ref, ordinal = await self._numbered(request, request.activity_number, "activity_number")
        if request.HasField("result") and request.HasField("failure"):
            raise InvalidField(field="failure", problem="stands beside a result: give one of them")
        result = payload_from_proto(request.result, self._fields, "result")
        failed = request.HasField("failure")
        failure = failure_from_proto(request.failure, self._fields, "failure") if failed else None
        command = driven_activities.EndActivity(ref, ordinal, result, failure, request.token)
        answer = await self._do(ActivityAnswer, command, request)
        return activity_store_pb2.CompleteActivityResponse(recorded=answer.done, activity=await self._answered(answer))

    async def HeartbeatActivity(
        self, request: activity_store_pb2.HeartbeatActivityRequest, context: Context
    ) -> activity_store_pb2.HeartbeatActivityResponse:
        ref, ordinal = await self._numbered(request, request.activity_number, "activity_number")
        details = None
        if request.HasField("details"):
            details = payload_from_proto(request.details, self._fields, "details")
        beat = await activity_store.beat(
            self._database, ref.namespace_id, ref.run_key or 0, ordinal, request.token, self._now(request), details
        )
        await hear_driven(
            self._database, ref.namespace_id, ref.run_key or 0, ordinal, request.token, recorded=beat.recorded
        )
        return activity_store_pb2.HeartbeatActivityResponse(
            recorded=beat.recorded, cancel_requested=beat.cancel_requested
        )

    async def ListTimedOutActivities(
        self, request: activity_store_pb2.ListTimedOutActivitiesRequest, context: Context
    ) -> activity_store_pb2.ListTimedOutActivitiesResponse:
        space, now = await self._space(request), self._now(request)
        page = read_page(request, Place, self._fields.limits)
        found, place = await self._timed_out(space.namespace_id or 0, now, page.after, page.size)
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN
        shown = await activity_store.payloads(self._database, list(found), most_bytes)
        if len(shown) < len(found):
            place = shown[-1][0].place
        entry = activity_store_pb2.ListTimedOutActivitiesResponse.TimedOutActivity
        entries = [
            entry(
                activity=activity_to_proto(step, each.run_id, each.workflow_id),
                timeout_kind=types_pb2.TimeoutKind.ValueType(found[each]),
                token=each.token,
            )
            for each, step in shown
        ]
        token = page.token(place) if place is not None else ""
        return activity_store_pb2.ListTimedOutActivitiesResponse(activities=entries, next_page_token=token)

    async def CancelPendingActivities(
        self, request: activity_store_pb2.CancelPendingActivitiesRequest, context: Context
    ) -> activity_store_pb2.CancelPendingActivitiesResponse:
        command = driven_activities.CancelActivities(await self._refs.read(request), request.token)
        count = await self._do(int, command, request)
        return activity_store_pb2.CancelPendingActivitiesResponse(cancelled_count=count)

    def _new(self, request: activity_store_pb2.CreateActivityRequest) -> NewActivity:
        fields = self._fields
        limits = Timeouts(
            start_to_close=seconds(request, "start_to_close_timeout", at_least=_SHORTEST_TIMEOUT),
            heartbeat=seconds(request, "heartbeat_timeout", at_least=_SHORTEST_TIMEOUT),
        )
        return NewActivity(
            type=fields.name(request.type, "type"),
            task_queue=fields.text(request.task_queue, "task_queue") or DEFAULT_QUEUE,
            input=payload_from_proto(request.input, fields, "input"),
            retry=retry_from_proto(request.retry, fields, "retry.") if request.HasField("retry") else None,
            timeouts=limits if limits != NO_TIMEOUTS else None,
        )

    async def _find(
        self, request: activity_store_pb2.GetActivityRequest
    ) -> tuple[runs.SeenRun | None, WholeStep | None]:
        if not request.activity_number:
            seq = integer(request.seq, "seq", at_most=_LARGEST_SEQ)
            run = await self._seek(request)
            found = await step_store.read(self._database, run.run_key, activity_identity(seq)) if run else None
            return run, found
        if request.run_id or request.workflow_id:
            raise InvalidField(
                field="run_id", problem="stands beside activity_number: name the activity by one of them"
            )
        ref, ordinal = await self._numbered(request, request.activity_number, "activity_number")
        run = await runs.seek(self._database, ref)
        found = await activity_store.read(self._database, run.run_key, ordinal) if run and run.driven else None
        return run, found

    async def _timed_out(
        self, namespace_id: int, now: datetime, after: Place | None, most: int
    ) -> tuple[dict[Overdue, int], Place | None]:
        """Activities with what has timed out, at most so many, and where to go on, unless nothing is left."""
        found: dict[Overdue, int] = {}
        for _ in range(_ROUNDS):
            looked_at = await activity_store.overdue(self._database, namespace_id, now, after, _LOOKED_AT)
            for each in looked_at:
                after = each.place
                limits = unpack_step_details(each.step.details).timeouts or NO_TIMEOUTS
                kind = passed_timeout(each.step, limits, now, each.step.beat_time)
                if kind is not None:
                    found[each] = kind
                if len(found) == most:
                    return found, after
            if len(looked_at) < _LOOKED_AT:
                return found, None
        return found, after

    async def _answered(self, answer: ActivityAnswer) -> activity_store_pb2.Activity:
        return await self._shown(answer.step, answer.run_id, answer.workflow_id)

    async def _shown(self, step: Step | ClosedStep, run_id: UUID, workflow_id: str) -> activity_store_pb2.Activity:
        return activity_to_proto(await step_store.read_payloads(self._database, step), run_id, workflow_id)


def activity_to_proto(whole: WholeStep, run_id: UUID, workflow_id: str) -> activity_store_pb2.Activity:
    """Renders an activity with its payloads. One that waits shows the attempt that it waits for."""
    step, details = whole.step, unpack_step_details(whole.step.details)
    limits = details.timeouts or NO_TIMEOUTS
    begun = step.start_time or step.create_time
    is_beat = step.state == StepState.RUNNING and step.beat_time is not None and step.beat_time >= begun
    return activity_store_pb2.Activity(
        activity_number=pack(step.run_key, step.ordinal),
        run_id=str(run_id),
        workflow_id=workflow_id,
        seq=step.seq,
        type=step.type,
        task_queue=step.task_queue,
        input=payload_to_proto(whole.input),
        state=types_pb2.StepState.ValueType(step.state),
        result=payload_to_proto(whole.result),
        failure=failure_to_proto(whole.failure or (None if step.end_event else details.last_failure)),
        attempt=step.attempt + 1 if step.state == StepState.PENDING else max(step.attempt, 1),
        retry=retry_to_proto(details.retry),
        start_to_close_timeout=duration_to_proto(limits.start_to_close),
        heartbeat_timeout=duration_to_proto(limits.heartbeat),
        owner_id=step.owner_id,
        create_time=time_to_proto(step.create_time),
        schedule_time=time_to_proto(details.ready_time),
        start_time=time_to_proto(step.start_time),
        end_time=time_to_proto(step.end_time),
        heartbeat_time=time_to_proto(step.beat_time) if is_beat else None,
        heartbeat_details=payload_to_proto(whole.heartbeat),
    )


def retry_to_proto(policy: RetryPolicy | None) -> types_pb2.RetryPolicy | None:
    """Renders a retry policy."""
    if policy is None:
        return None
    return types_pb2.RetryPolicy(
        initial_interval=duration_to_proto(policy.initial_seconds),
        backoff_coefficient=policy.coefficient,
        maximum_interval=duration_to_proto(policy.maximum_seconds),
        maximum_attempts=policy.maximum_attempts,
        non_retryable_types=policy.non_retryable_types,
    )
