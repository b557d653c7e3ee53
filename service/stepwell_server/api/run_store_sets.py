"""RunStore: what is about many driven runs: which are due, which can be claimed, which want a worker; and lists."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import run_store_pb2, types_pb2
from stepwell_server.api.fields import seconds
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.page import read_page
from stepwell_server.api.run_starts import definition_from_proto
from stepwell_server.api.run_values import run_to_proto, time_to_proto
from stepwell_server.api.runs_read import counted_runs
from stepwell_server.api.stores import StoreCalls, within
from stepwell_server.engine import run_tasks
from stepwell_server.engine.driven_runs import DueRun, HandOutRun
from stepwell_server.errors import InvalidField
from stepwell_server.model.runs import LISTED
from stepwell_server.store import driven, run_lists
from stepwell_server.store.run_lists import RunFilter

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_HAND_OUT_SECONDS = 30.0


class RunSets(StoreCalls):
    """The half of RunStore that is about many runs."""

    async def TakeDueRuns(
        self, request: run_store_pb2.TakeDueRunsRequest, context: Context
    ) -> run_store_pb2.TakeDueRunsResponse:
        space, now, limit = await self._space(request), self._now(request), self._limit(request.limit)
        hand_out = seconds(request, "hand_out_duration", at_least=0.001) or _HAND_OUT_SECONDS
        namespace_id = space.namespace_id or 0

        async def choose(tried: Collection[int], most: int) -> Sequence[int]:
            return await driven.due_runs(self._database, namespace_id, now, tried, most)

        taken = await self._take(DueRun, limit, choose, lambda key: HandOutRun(within(space, key), now, hand_out))
        due = sorted((answer for _, answer in taken), key=lambda run: run.due_time)
        return run_store_pb2.TakeDueRunsResponse(runs=[due_run_to_proto(run) for run in due])

    async def ListRunnableRuns(
        self, request: run_store_pb2.ListRunnableRunsRequest, context: Context
    ) -> run_store_pb2.ListRunnableRunsResponse:
        space, page = await self._space(request), read_page(request, int, self._fields.limits)
        task_queue = self._fields.text(request.task_queue, "task_queue")
        found = await driven.runnable_runs(
            self._database,
            space.namespace_id or 0,
            task_queue,
            self._now(request),
            page.after or 0,
            page.fetch,
            page.skip,
        )
        shown = found[: page.size]
        token = page.token(shown[-1].run_key) if len(found) > page.size else ""
        listed = [run_to_proto(run, space.namespace) for run in shown]
        return run_store_pb2.ListRunnableRunsResponse(runs=listed, next_page_token=token)

    async def ListDrivenRuns(
        self, request: run_store_pb2.ListDrivenRunsRequest, context: Context
    ) -> run_store_pb2.ListDrivenRunsResponse:
        names = self._fields.names(request.data_names, "data_names")
        order = read_order(request.order_by, LISTED)
        page = read_page(request, position_of(order, LISTED, int), self._fields.limits)
        space, phases = await self._space(request), self._fields.items(request.phases, "phases")
        wanted = RunFilter(
            namespace_id=space.namespace_id or 0,
            phases=tuple(self._fields.member(each, types_pb2.RunPhase, "phases", required=True) for each in phases),
            type=self._fields.text(request.type, "type"),
            task_queue=self._fields.text(request.task_queue, "task_queue"),
            driven=True,
            correlation_id=self._fields.text(request.correlation_id, "correlation_id"),
            definition=definition_from_proto(request, self._fields),
            where=read_filter(request.filter, LISTED, self._fields.limits),
        )
        found = await run_lists.page(self._database, wanted, order, page.after, page.fetch, page.skip)
        listed = await self._listed(found[: page.size], space.namespace, payloads=request.payloads, data_names=names)
        total, more = await counted_runs(self._database, wanted) if request.count_total else (0, False)
        has_more = len(found) > len(listed)
        return run_store_pb2.ListDrivenRunsResponse(
            runs=listed,
            next_page_token=page.token(run_lists.place_of(found[len(listed) - 1], order)) if has_more else "",
            total_size=total,
            more_than_total_size=more,
        )

    async def ListChildRuns(
        self, request: run_store_pb2.ListChildRunsRequest, context: Context
    ) -> run_store_pb2.ListChildRunsResponse:
        page, parent = read_page(request, tuple[int], self._fields.limits), await self._seek(request)
        names = self._fields.names(request.data_names, "data_names")
        if parent is None:
            return run_store_pb2.ListChildRunsResponse()
        # Whatever a driven run has for children is driven, too, and has an index.
        is_driven = True if parent.driven else None
        wanted = RunFilter(parent.namespace_id, parent_run_id=parent.run_id, driven=is_driven)
        found = await run_lists.page(self._database, wanted, (), page.after, page.fetch, 0)
        namespace = await self._namespaces.name_of(parent.namespace_id)
        listed = await self._listed(found[: page.size], namespace, payloads=request.payloads, data_names=names)
        token = page.token((found[len(listed) - 1].run_key,)) if len(found) > len(listed) else ""
        return run_store_pb2.ListChildRunsResponse(runs=listed, next_page_token=token)

    async def MarkRunDispatchable(
        self, request: run_store_pb2.MarkRunDispatchableRequest, context: Context
    ) -> run_store_pb2.MarkRunDispatchableResponse:
        command = run_tasks.MarkRunDispatchable(await self._refs.read(request))
        return run_store_pb2.MarkRunDispatchableResponse(changed=await self._do(bool, command, request))

    async def ClaimRunTask(
        self, request: run_store_pb2.ClaimRunTaskRequest, context: Context
    ) -> run_store_pb2.ClaimRunTaskResponse:
        task_queue = self._fields.name(request.task_queue, "task_queue")
        worker_id = self._fields.name(request.worker_id, "worker_id")
        space = await self._space(request)
        namespace_id = space.namespace_id or 0

        async def choose(tried: Collection[int], most: int) -> Sequence[int]:
            return await driven.ready_tasks(self._database, namespace_id, task_queue, tried, most)

        taken = await self._take(bool, 1, choose, lambda key: run_tasks.ClaimRunTask(within(space, key), worker_id))
        for key, _ in taken:
            return run_store_pb2.ClaimRunTaskResponse(claimed=True, run=await self._whole(within(space, key)))
        return run_store_pb2.ClaimRunTaskResponse(claimed=False)

    async def ReleaseRunTask(
        self, request: run_store_pb2.ReleaseRunTaskRequest, context: Context
    ) -> run_store_pb2.ReleaseRunTaskResponse:
        worker_id = self._fields.name(request.worker_id, "worker_id")
        command = run_tasks.ReleaseRunTask(await self._refs.read(request), worker_id)
        return run_store_pb2.ReleaseRunTaskResponse(released=await self._do(bool, command, request))

    async def RenewRunTask(
        self, request: run_store_pb2.RenewRunTaskRequest, context: Context
    ) -> run_store_pb2.RenewRunTaskResponse:
        worker_id = self._fields.name(request.worker_id, "worker_id")
        command = run_tasks.RenewRunTask(await self._refs.read(request), worker_id)
        return run_store_pb2.RenewRunTaskResponse(renewed=await self._do(bool, command, request))

    async def ReleaseStaleRunTasks(
        self, request: run_store_pb2.ReleaseStaleRunTasksRequest, context: Context
    ) -> run_store_pb2.ReleaseStaleRunTasksResponse:
        timeout = seconds(request, "timeout")
        if timeout is None:
            raise InvalidField(field="timeout", problem="is required: say how long a worker may have a task")
        space = await self._space(request)
        namespace_id, before = space.namespace_id or 0, self._now(request) - timedelta(seconds=timeout)

        async def choose(tried: Collection[int], most: int) -> Sequence[int]:
            return await driven.stale_tasks(self._database, namespace_id, before, tried, most)

        taken = await self._take(
            bool,
            self._fields.limits.set_runs,
            choose,
            lambda key: run_tasks.ReleaseStaleRunTask(within(space, key), before),
        )
        return run_store_pb2.ReleaseStaleRunTasksResponse(released_count=len(taken))


def due_run_to_proto(run: DueRun) -> run_store_pb2.TakeDueRunsResponse.DueRun:
    """Renders a run that is due."""
    return run_store_pb2.TakeDueRunsResponse.DueRun(
        run_id=str(run.run_id),
        workflow_id=run.workflow_id,
        type=run.type,
        task_queue=run.task_queue,
        step_name=run.step_name,
        topic=run.topic,
        due_time=time_to_proto(run.due_time),
        hand_out_expire_time=time_to_proto(run.expire_time),
    )
