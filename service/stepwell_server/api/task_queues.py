"""TaskQueueService: what waits in task queues, who could take it, and what is set for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import task_queues_pb2, task_queues_pb2_grpc, workers_pb2
from stepwell_server.api.fields import Fields
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import duration_to_proto
from stepwell_server.api.queue_settings import changes_of, settings_to_proto
from stepwell_server.api.requests import asked_of
from stepwell_server.model.queue_settings import QueueSettings
from stepwell_server.model.tasks import WORKERS_KINDS, TaskKind
from stepwell_server.model.workers import Crew, able
from stepwell_server.store import queue_settings, task_queues, worker_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.dispatcher import Dispatcher
    from stepwell_server.dispatch.sessions import Room
    from stepwell_server.model.workers import Hello
    from stepwell_server.settings import Settings
    from stepwell_server.store.crews import Crews
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces
    from stepwell_server.store.task_queues import Backlog

    Context = grpc.aio.ServicerContext[Any, Any]


class TaskQueues(task_queues_pb2_grpc.TaskQueueServiceServicer):
    """See the module."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        namespaces: Namespaces,
        crews: Crews,
        dispatcher: Dispatcher,
        clock: Clock,
        settings: Settings,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._namespaces = namespaces
        self._crews = crews
        self._dispatcher = dispatcher
        self._clock = clock
        self._changed = changed
        self._fields = Fields(settings.limits)

    async def ListTaskQueues(
        self, request: task_queues_pb2.ListTaskQueuesRequest, context: Context
    ) -> task_queues_pb2.ListTaskQueuesResponse:
        namespace = self._fields.namespace(request.namespace)
        namespace_id = await self._namespaces.id_of(namespace)
        page = read_page(request, str, self._fields.limits)
        crew = await self._crews.of(namespace_id)
        others = await worker_store.count_by_queue(self._database, namespace_id)
        manned = {*crew.task_queues, *others}
        names = await task_queues.page(self._database, namespace_id, page.after or "", manned, page.fetch)
        shown = names[: page.size]
        waiting = await task_queues.backlogs(self._database, namespace_id, shown)
        running = await task_queues.running_activities(self._database, namespace_id, crew.workers, shown)
        response = task_queues_pb2.ListTaskQueuesResponse(
            next_page_token=page.token(shown[-1]) if len(names) > page.size else ""
        )
        for name in shown:
            here = [each for each in waiting if each.task_queue == name]
            queue = queue_to_proto(namespace, name, here, crew, running.get(name, 0), self._clock.now())
            queue.worker_count += others.get(name, 0)
            response.task_queues.append(queue)
        return response

    async def GetTaskQueue(
        self, request: task_queues_pb2.GetTaskQueueRequest, context: Context
    ) -> task_queues_pb2.GetTaskQueueResponse:
        namespace = self._fields.namespace(request.namespace)
        name = self._fields.name(request.task_queue, "task_queue")
        namespace_id = await self._namespaces.id_of(namespace)
        crew = await self._crews.of(namespace_id)
        found = await task_queues.backlogs(self._database, namespace_id, [name])
        running = await task_queues.running_activities(self._database, namespace_id, crew.workers, [name])
        waiting, now = found[: task_queues.MOST_SORTS], self._clock.now()
        others = (await worker_store.count_by_queue(self._database, namespace_id)).get(name, 0)
        rooms = self._dispatcher.rooms(namespace_id, name)
        settings = await queue_settings.read(self._database, namespace_id, [name])
        queue = queue_to_proto(namespace, name, waiting, crew, running.get(name, 0), now)
        queue.worker_count += others
        return task_queues_pb2.GetTaskQueueResponse(
            task_queue=queue,
            lines=lines_to_proto(waiting, crew.of(name), others, now),
            has_more_lines=len(found) > len(waiting),
            capacities=[capacity_to_proto(kind, rooms[kind]) for kind in WORKERS_KINDS],
            settings=settings_to_proto(settings.get(name), now),
        )

    async def UpdateTaskQueue(
        self, request: task_queues_pb2.UpdateTaskQueueRequest, context: Context
    ) -> task_queues_pb2.UpdateTaskQueueResponse:
        namespace = self._fields.namespace(request.namespace)
        name, changes = self._fields.name(request.task_queue, "task_queue"), changes_of(request, self._fields)
        namespace_id = await self._namespaces.id_of(namespace)
        asked = asked_of(request, namespace_id, QueueSettings, self._fields)
        now = self._clock.now()
        row = await queue_settings.update(self._database, namespace_id, namespace, name, changes, now, asked)
        await self._changed()
        if row.fairness_weights is not None:
            await queue_settings.mark_without_key(self._database, namespace_id, name)
        return task_queues_pb2.UpdateTaskQueueResponse(settings=settings_to_proto(row))


def queue_to_proto(  # noqa: PLR0917 - rendered in one place
    namespace: str, name: str, waiting: Sequence[Backlog], crew: Crew, running: int, now: datetime
) -> task_queues_pb2.TaskQueue:
    """Renders a queue in short."""
    workers = crew.of(name)
    return task_queues_pb2.TaskQueue(
        namespace=namespace,
        task_queue=name,
        waiting_runs=backlog_to_proto([each for each in waiting if each.kind == TaskKind.RUN], now),
        waiting_activities=backlog_to_proto([each for each in waiting if each.kind != TaskKind.RUN], now),
        running_activity_count=running,
        worker_count=len(workers),
        is_stranded=any(_is_stranded(each, workers) for each in waiting),
    )


def backlog_to_proto(waiting: Iterable[Backlog], now: datetime, *, more: bool = False) -> task_queues_pb2.TaskBacklog:
    """Renders what waits, of several sorts together. `more` if others were not looked at."""
    sorts = list(waiting)
    oldest = min((each.oldest for each in sorts), default=None)
    return task_queues_pb2.TaskBacklog(
        count=sum(min(each.count, task_queues.MOST_COUNTED) for each in sorts),
        has_more=more or any(each.count > task_queues.MOST_COUNTED for each in sorts),
        oldest_wait_duration=None if oldest is None else duration_to_proto(max(0.0, (now - oldest).total_seconds())),
    )


def lines_to_proto(
    waiting: Sequence[Backlog], workers: list[Hello], others: int, now: datetime
) -> list[task_queues_pb2.TaskQueueLine]:
    """Renders what waits sort by sort, and then the types of which nothing waits that workers take."""
    sorts = {(each.kind, each.type, each.build_id): [each] for each in waiting}
    served = sorted({(kind, name) for kind in WORKERS_KINDS for hello in workers for name in hello.types(kind)})
    told = {sort[:2] for sort in sorts}
    idle: dict[tuple[int, str, str], list[Backlog]] = {(*each, ""): [] for each in served if each not in told}
    return [_line(*sort, backlog, workers, others, now) for sort, backlog in (sorts | idle).items()]


def _line(  # noqa: PLR0917 - rendered in one place
    kind: int,
    type_name: str,
    build_id: str,
    waiting: list[Backlog],
    workers: list[Hello],
    others: int,
    now: datetime,
) -> task_queues_pb2.TaskQueueLine:
    is_driven = kind == TaskKind.DRIVEN_ACTIVITY
    return task_queues_pb2.TaskQueueLine(
        kind=workers_pb2.TaskKind.ValueType(TaskKind.ACTIVITY if is_driven else kind),
        type=type_name,
        build_id=build_id,
        backlog=backlog_to_proto(waiting, now),
        worker_count=others if is_driven else able(workers, kind, type_name, build_id),
        is_stranded=any(_is_stranded(each, workers) for each in waiting),
        driven=is_driven,
    )


def _is_stranded(waiting: Backlog, workers: list[Hello]) -> bool:
    """Whether no live worker could take what waits. Who takes activities of driven runs need not be known to us."""
    is_ours = waiting.kind in WORKERS_KINDS
    return is_ours and not able(workers, waiting.kind, waiting.type, waiting.build_id)


def capacity_to_proto(kind: TaskKind, rooms: Sequence[Room]) -> task_queues_pb2.TaskQueueCapacity:
    """Renders what workers stated, summed up."""
    return task_queues_pb2.TaskQueueCapacity(
        kind=workers_pb2.TaskKind.ValueType(kind),
        worker_count=len(rooms),
        max_outstanding=sum(room.most for room in rooms),
        outstanding=sum(room.taken for room in rooms),
        max_resident=sum(room.most_resident for room in rooms),
        resident=sum(room.resident for room in rooms),
    )
