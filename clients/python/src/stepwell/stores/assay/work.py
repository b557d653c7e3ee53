"""assay's methods on timers, signals, workers, queues, and who schedules."""

from __future__ import annotations

import json

from stepwell._rpc import uuid7
from stepwell.stores._connection import Store, span, stamp
from stepwell.stores.assay.records import (
    QueueStats,
    WorkflowSignal,
    WorkflowTimer,
    WorkflowWorker,
    payload_of,
    text_of,
    workflow_timer,
    workflow_worker,
)
from stepwell.v1 import leader_store_pb2 as leaders
from stepwell.v1 import signal_store_pb2 as signals
from stepwell.v1 import task_queues_pb2 as queues
from stepwell.v1 import timer_store_pb2 as timers
from stepwell.v1 import worker_store_pb2 as workers
from stepwell.v1.leader_store_pb2_grpc import LeaderStoreStub
from stepwell.v1.signal_store_pb2_grpc import SignalStoreStub
from stepwell.v1.task_queues_pb2_grpc import TaskQueueServiceStub
from stepwell.v1.timer_store_pb2_grpc import TimerStoreStub
from stepwell.v1.worker_store_pb2_grpc import WorkerStoreStub

ANY = "-"
_MOST = 256
_LEADERSHIP_SECONDS = 60.0
_PROCESS = uuid7()


class Work(Store):
    """Timers, signals, workers, queues, and who schedules."""

    async def create_timer(self, timer: WorkflowTimer) -> int:
        """Creates a timer, and gives its id. If there is one of that `seq`, it stays, and its id is given."""
        request = timers.CreateTimerRequest(
            namespace=ANY, workflow_id=timer.workflow_id, seq=timer.seq, fire_time=stamp(timer.fire_at)
        )
        return (await self.call(TimerStoreStub(self.channel).CreateTimer, request)).timer.timer_number

    async def get_timer_by_workflow_seq(self, workflow_id: str, seq: int) -> WorkflowTimer | None:
        """Reads a timer, or `None`."""
        request = timers.GetTimerRequest(namespace=ANY, workflow_id=workflow_id, seq=seq)
        answer = await self.call(TimerStoreStub(self.channel).GetTimer, request)
        return workflow_timer(answer.timer) if answer.found else None

    async def fire_due_timers(self, now: float) -> list[WorkflowTimer]:
        """Fires the timers that are due, each once over all callers, the earliest first.

        Differs: the event is appended in the same transaction, so that none is lost with its caller.
        """
        request = timers.FireDueTimersRequest(namespace=self.namespace, now=stamp(now))
        found: list[WorkflowTimer] = []
        while len(fired := (await self.call(TimerStoreStub(self.channel).FireDueTimers, request)).timers) == _MOST:
            found += map(workflow_timer, fired)
        return [*found, *map(workflow_timer, fired)]

    async def cancel_pending_timers(self, workflow_id: str) -> int:
        """Cancels the timers of a workflow that have not fired, and counts them."""
        request = timers.CancelPendingTimersRequest(namespace=ANY, workflow_id=workflow_id)
        return (await self.call(TimerStoreStub(self.channel).CancelPendingTimers, request)).cancelled_count

    async def send_signal(self, signal: WorkflowSignal) -> int:
        """Sends a signal, and gives its id. Raises `SignalRefused` if the workflow has ended."""
        request = signals.SendSignalRequest(
            namespace=ANY,
            workflow_id=signal.workflow_id,
            signal_name=signal.name,
            payload=payload_of(signal.payload),
        )
        return (await self.call(SignalStoreStub(self.channel).SendSignal, request)).signal_number

    async def consume_signals(self, workflow_id: str, name: str) -> list[WorkflowSignal]:
        """Takes the signals of a name that nobody has taken, in the order of their arrival."""
        found: list[WorkflowSignal] = []
        has_more = True
        while has_more:
            request = signals.ConsumeSignalsRequest(namespace=ANY, workflow_id=workflow_id, signal_name=name)
            answer = await self.call(SignalStoreStub(self.channel).ConsumeSignals, request)
            has_more = answer.has_more
            found += (
                WorkflowSignal(
                    workflow_id=workflow_id,
                    name=signal.signal_name,
                    payload=text_of(signal.payload),
                    consumed=True,
                    received_at=signal.receive_time.ToMicroseconds() / 1e6,
                    id=signal.signal_number,
                )
                for signal in answer.signals
            )
        return found

    # --- workers and queues -------------------------------------------------------------------------------------------

    async def register_worker(self, worker: WorkflowWorker) -> None:
        """Registers a worker, or registers it anew.

        Differs: all that it says of itself replaces what was; assay keeps its old queue and types.
        """
        request = workers.RegisterWorkerRequest(
            namespace=worker.namespace,
            worker_id=worker.id,
            identity=worker.identity,
            task_queue=worker.task_queue,
            workflow_types=json.loads(worker.workflows or "[]"),
            activity_types=json.loads(worker.activities or "[]"),
            max_concurrent_workflows=worker.max_concurrent_workflows,
            max_concurrent_activities=worker.max_concurrent_activities,
            active_tasks=worker.active_tasks,
            now=stamp(worker.last_heartbeat or None),
        )
        await self.call(WorkerStoreStub(self.channel).RegisterWorker, request)

    async def heartbeat_worker(self, id: str, now: float) -> None:
        """Notes a sign of life of a worker. One that is not known stays so."""
        request = workers.HeartbeatWorkerRequest(namespace=ANY, worker_id=id, now=stamp(now))
        await self.call(WorkerStoreStub(self.channel).HeartbeatWorker, request)

    async def list_workers(self, namespace: str) -> list[WorkflowWorker]:
        """The workers of a namespace, the longest registered first."""
        request = workers.ListRegisteredWorkersRequest(namespace=namespace)
        found = await self.every(WorkerStoreStub(self.channel).ListRegisteredWorkers, request, "workers")
        return [workflow_worker(namespace, worker) for worker in found]

    async def remove_dead_workers(self, cutoff: float) -> list[str]:
        """Removes the workers that were last heard of before a time.

        Differs: what they had goes back to their queues first, and each is removed for one caller.
        """
        request = workers.RemoveDeadWorkersRequest(namespace=self.namespace, cutoff=stamp(cutoff))
        found: list[str] = []
        while len(dead := (await self.call(WorkerStoreStub(self.channel).RemoveDeadWorkers, request)).worker_ids):
            found += dead
        return found

    async def get_queue_stats(self, namespace: str) -> list[QueueStats]:
        """What is in the queues of a namespace, by name.

        Differs: a queue from which somebody takes is there without an activity, too. An ended activity keeps none.
        """
        request = queues.ListTaskQueuesRequest(namespace=namespace)
        found = await self.every(TaskQueueServiceStub(self.channel).ListTaskQueues, request, "task_queues")
        return [
            QueueStats(
                queue=queue.task_queue,
                pending_activities=queue.waiting_activities.count,
                running_activities=queue.running_activity_count,
                workers=queue.worker_count,
            )
            for queue in found
        ]

    async def try_acquire_scheduler_lock(self) -> bool:
        """Whether this process schedules, for a minute from now on. It takes the lock again at will.

        Differs: assay's is lost and found with the connections of its pool.
        """
        request = leaders.AcquireLeadershipRequest(
            namespace=self.namespace, leadership="scheduler", holder_id=_PROCESS, ttl=span(_LEADERSHIP_SECONDS)
        )
        return (await self.call(LeaderStoreStub(self.channel).AcquireLeadership, request)).acquired
