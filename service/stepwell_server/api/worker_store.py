"""WorkerStore: workers of outside engines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import worker_store_pb2, worker_store_pb2_grpc
from stepwell_server.api.fields import integer, time
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.page import read_page
from stepwell_server.api.run_starts import DEFAULT_QUEUE
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.stores import StoreCalls, within
from stepwell_server.dispatch.beat_traces import hear_worker
from stepwell_server.engine.activity_claims import InterruptActivity
from stepwell_server.engine.run_tasks import TakeBackRunTask
from stepwell_server.errors import InvalidField
from stepwell_server.ids import unpack
from stepwell_server.model.workers import LISTED_REGISTERED, RegisteredWorker
from stepwell_server.store import worker_store, workers
from stepwell_server.store.worker_store import Held

if TYPE_CHECKING:
    from stepwell_server.model.runs import RunRef

    Context = grpc.aio.ServicerContext[Any, Any]

_MOST_CONCURRENT = 1_000_000
_REMOVED = "worker removed"


class WorkerStoreCalls(StoreCalls, worker_store_pb2_grpc.WorkerStoreServicer):
    """Registers, hears, lists and removes workers."""

    async def RegisterWorker(
        self, request: worker_store_pb2.RegisterWorkerRequest, context: Context
    ) -> worker_store_pb2.RegisterWorkerResponse:
        fields, now, space = self._fields, self._now(request), await self._space(request)
        worker = RegisteredWorker(
            worker_id=fields.name(request.worker_id, "worker_id"),
            namespace_id=space.namespace_id or 0,
            identity=fields.text(request.identity, "identity"),
            task_queue=fields.text(request.task_queue, "task_queue") or DEFAULT_QUEUE,
            workflow_types=fields.names(request.workflow_types, "workflow_types"),
            activity_types=fields.names(request.activity_types, "activity_types"),
            max_concurrent_workflows=_count(request.max_concurrent_workflows, "max_concurrent_workflows"),
            max_concurrent_activities=_count(request.max_concurrent_activities, "max_concurrent_activities"),
            active_tasks=_count(request.active_tasks, "active_tasks"),
            register_time=now,
            heartbeat_time=now,
        )
        written, created = await worker_store.register(self._database, worker, space.namespace)
        return worker_store_pb2.RegisterWorkerResponse(created=created, worker=registered_to_proto(written))

    async def HeartbeatWorker(
        self, request: worker_store_pb2.HeartbeatWorkerRequest, context: Context
    ) -> worker_store_pb2.HeartbeatWorkerResponse:
        worker_id = self._fields.name(request.worker_id, "worker_id")
        namespace = self._fields.any_namespace(request.namespace)
        namespace_id = None if namespace is None else await self._namespaces.id_of(namespace)
        known = await worker_store.beat(self._database, namespace_id, worker_id, self._now(request))
        hear_worker(namespace or "-", worker_id, known=known)
        return worker_store_pb2.HeartbeatWorkerResponse(known=known)

    async def ListRegisteredWorkers(
        self, request: worker_store_pb2.ListRegisteredWorkersRequest, context: Context
    ) -> worker_store_pb2.ListRegisteredWorkersResponse:
        limits = self._fields.limits
        wanted = read_filter(request.filter, LISTED_REGISTERED, limits)
        order = read_order(request.order_by, LISTED_REGISTERED) or workers.BY_REGISTRATION
        page = read_page(request, position_of(order, LISTED_REGISTERED, str), limits)
        space = await self._space(request)
        found = await worker_store.page(self._database, space.namespace_id or 0, wanted, order, page.after, page.fetch)
        shown = found[: page.size]
        return worker_store_pb2.ListRegisteredWorkersResponse(
            workers=[registered_to_proto(worker) for worker in shown],
            next_page_token=page.token(worker_store.place_of(shown[-1], order)) if len(found) > page.size else "",
        )

    async def RemoveDeadWorkers(
        self, request: worker_store_pb2.RemoveDeadWorkersRequest, context: Context
    ) -> worker_store_pb2.RemoveDeadWorkersResponse:
        cutoff = time(request, "cutoff")
        if cutoff is None:
            raise InvalidField(field="cutoff", problem="is required: say since when a worker must have been heard of")
        space = await self._space(request)
        namespace_id = space.namespace_id or 0
        dead = await worker_store.condemn(self._database, namespace_id, cutoff, self._fields.limits.set_runs)
        if not dead:
            return worker_store_pb2.RemoveDeadWorkersResponse()
        # What they have goes back first: one that was forgotten before could not be asked for again.
        runs, activities = await self._release_runs(space, dead), await self._release_activities(space, dead)
        removed = await worker_store.remove(self._database, namespace_id, dead)
        return worker_store_pb2.RemoveDeadWorkersResponse(
            worker_ids=removed, released_runs=runs, released_activities=activities
        )

    async def _release_runs(self, space: RunRef, dead: Sequence[str]) -> int:
        async def choose(tried: Collection[Held], most: int) -> Sequence[Held]:
            return await worker_store.run_tasks_of(self._database, space.namespace_id or 0, dead, tried, most)

        def order(held: Held) -> TakeBackRunTask:
            return TakeBackRunTask(within(space, held.key), held.owner_id)

        return await self._take_all(choose, order)

    async def _release_activities(self, space: RunRef, dead: Sequence[str]) -> int:
        async def choose(tried: Collection[Held], most: int) -> Sequence[Held]:
            return await worker_store.activities_of(self._database, space.namespace_id or 0, dead, tried, most)

        def order(held: Held) -> InterruptActivity:
            run_key, ordinal = unpack(held.key)
            return InterruptActivity(within(space, run_key), ordinal, held.owner_id, _REMOVED)

        return await self._take_all(choose, order)


def _count(value: int, field: str) -> int:
    return integer(value, field, at_most=_MOST_CONCURRENT)


def registered_to_proto(worker: RegisteredWorker) -> worker_store_pb2.RegisteredWorker:
    """Renders a worker of an outside engine."""
    return worker_store_pb2.RegisteredWorker(
        worker_id=worker.worker_id,
        identity=worker.identity,
        task_queue=worker.task_queue,
        workflow_types=worker.workflow_types,
        activity_types=worker.activity_types,
        max_concurrent_workflows=worker.max_concurrent_workflows,
        max_concurrent_activities=worker.max_concurrent_activities,
        active_tasks=worker.active_tasks,
        register_time=time_to_proto(worker.register_time),
        heartbeat_time=time_to_proto(worker.heartbeat_time),
    )
