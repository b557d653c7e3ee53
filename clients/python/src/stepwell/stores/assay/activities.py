"""assay's methods on activities."""

from __future__ import annotations

from stepwell.stores._connection import Store, span, stamp
from stepwell.stores.assay.records import WorkflowActivity, payload_of, workflow_activity
from stepwell.v1 import activity_store_pb2 as activities
from stepwell.v1.activity_store_pb2_grpc import ActivityStoreStub
from stepwell.v1.types_pb2 import Failure, RetryPolicy, StepState

ANY = "-"


class Activities(Store):
    """Activities. An id names one in every namespace.

    Differs: assay's methods name no claim, so only an activity's state is looked at: one that is not RUNNING is not
    ended (`StepStateConflict`). `ActivityStore`'s RPCs take the claim's token besides, and tell a late worker from the
    present one.
    """

    async def create_activity(self, activity: WorkflowActivity) -> int:
        """Creates an activity, and gives its id.

        Differs: if there is one of that `seq`, it stays, and its id is given. assay answers a database error.
        """
        request = activities.CreateActivityRequest(
            namespace=ANY,
            workflow_id=activity.workflow_id,
            seq=activity.seq,
            type=activity.name,
            task_queue=activity.task_queue,
            input=payload_of(activity.input),
            retry=RetryPolicy(
                maximum_attempts=activity.max_attempts,
                initial_interval=span(activity.initial_interval_secs),
                backoff_coefficient=activity.backoff_coefficient,
            ),
            start_to_close_timeout=span(activity.start_to_close_secs),
            heartbeat_timeout=span(activity.heartbeat_timeout_secs),
            schedule_time=stamp(activity.scheduled_at),
            attempt=activity.attempt,
            initial_state=StepState.Value(f"STEP_STATE_{activity.status}"),
        )
        return (await self.call(ActivityStoreStub(self.channel).CreateActivity, request)).activity.activity_number

    async def get_activity(self, id: int) -> WorkflowActivity | None:
        """Reads an activity by its id, or `None`."""
        request = activities.GetActivityRequest(namespace=ANY, activity_number=id)
        answer = await self.call(ActivityStoreStub(self.channel).GetActivity, request)
        return workflow_activity(answer.activity) if answer.found else None

    async def get_activity_by_workflow_seq(self, workflow_id: str, seq: int) -> WorkflowActivity | None:
        """Reads an activity by its workflow and sequence number, or `None`."""
        request = activities.GetActivityRequest(namespace=ANY, workflow_id=workflow_id, seq=seq)
        answer = await self.call(ActivityStoreStub(self.channel).GetActivity, request)
        return workflow_activity(answer.activity) if answer.found else None

    async def claim_activity(self, task_queue: str, worker_id: str) -> WorkflowActivity | None:
        """Gives a worker the activity of a queue that has waited longest, or `None`.

        Differs: not one whose `scheduled_at` is to come. assay's documents say so, its code does not.
        """
        request = activities.ClaimActivityRequest(namespace=self.namespace, task_queue=task_queue, worker_id=worker_id)
        answer = await self.call(ActivityStoreStub(self.channel).ClaimActivity, request)
        return workflow_activity(answer.activity) if answer.claimed else None

    async def requeue_activity_for_retry(self, id: int, next_attempt: int, next_scheduled_at: float) -> None:
        """Puts an activity into its queue for another attempt, from that time on.

        Differs: not one that has COMPLETED or was CANCELLED (`StepStateConflict`).
        """
        request = activities.RequeueActivityForRetryRequest(
            namespace=ANY, activity_number=id, attempt=next_attempt, schedule_time=stamp(next_scheduled_at)
        )
        await self.call(ActivityStoreStub(self.channel).RequeueActivityForRetry, request)

    async def complete_activity(
        self, id: int, result: str | None = None, error: str | None = None, failed: bool = False
    ) -> None:
        """Ends an activity that is RUNNING."""
        request = activities.CompleteActivityRequest(
            namespace=ANY,
            activity_number=id,
            result=None if failed else payload_of(result),
            failure=Failure(message=error or "") if failed else None,
        )
        await self.call(ActivityStoreStub(self.channel).CompleteActivity, request)

    async def heartbeat_activity(self, id: int, details: str | None = None) -> None:
        """Notes a sign of life of an activity, and keeps the details.

        Differs: assay drops the details. Whether to stop is in the answer of the RPC.
        """
        request = activities.HeartbeatActivityRequest(namespace=ANY, activity_number=id, details=payload_of(details))
        await self.call(ActivityStoreStub(self.channel).HeartbeatActivity, request)

    async def get_timed_out_activities(self, now: float) -> list[WorkflowActivity]:
        """Activities whose heartbeat, or attempt, takes too long at that time.

        Differs: one that never sent a heartbeat counts from its start, and `start_to_close_secs` holds.
        """
        request = activities.ListTimedOutActivitiesRequest(namespace=self.namespace, now=stamp(now))
        found = await self.every(ActivityStoreStub(self.channel).ListTimedOutActivities, request, "activities")
        return [workflow_activity(each.activity) for each in found]

    async def cancel_pending_activities(self, workflow_id: str) -> int:
        """Cancels the PENDING activities of a workflow, and counts them."""
        request = activities.CancelPendingActivitiesRequest(namespace=ANY, workflow_id=workflow_id)
        return (await self.call(ActivityStoreStub(self.channel).CancelPendingActivities, request)).cancelled_count
