"""TopicStore: driven runs that wait on topics."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import topic_store_pb2, topic_store_pb2_grpc
from stepwell_server.api.fields import time
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import payload_from_proto, payload_to_proto
from stepwell_server.api.run_starts import size_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.api.stores import StoreCalls, within
from stepwell_server.engine.driven import Moved
from stepwell_server.engine.topics import Resolution, ResolveWatcher, WaitOnTopic
from stepwell_server.model.payloads import unpack_payload
from stepwell_server.store import topic_store
from stepwell_server.store.topic_store import Place, SeenWatcher

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_ROUND_BYTES = 8 * 1024 * 1024
_WATCHER_BYTES = 1_536


class TopicStoreCalls(StoreCalls, topic_store_pb2_grpc.TopicStoreServicer):
    """Suspends runs on topics, wakes them, and lists them."""

    async def RegisterWatcher(
        self, request: topic_store_pb2.RegisterWatcherRequest, context: Context
    ) -> topic_store_pb2.RegisterWatcherResponse:
        return topic_store_pb2.RegisterWatcherResponse(run_id=await self._wait(request))

    async def SuspendOnTopic(
        self, request: topic_store_pb2.SuspendOnTopicRequest, context: Context
    ) -> topic_store_pb2.SuspendOnTopicResponse:
        return topic_store_pb2.SuspendOnTopicResponse(run_id=await self._wait(request))

    async def ResolveWatchers(
        self, request: topic_store_pb2.ResolveWatchersRequest, context: Context
    ) -> topic_store_pb2.ResolveWatchersResponse:
        topic = self._fields.name(request.topic, "topic")
        payload = payload_from_proto(request.payload, self._fields, "payload")
        space, limit, size = await self._space(request), self._limit(request.limit), size_of(request)
        namespace_id, left = space.namespace_id or 0, self._fields.limits.message_bytes - MESSAGE_MARGIN

        async def choose(tried: Collection[int], most: int) -> Sequence[int]:
            nonlocal left
            # Each run's history gets the event, so that a large one goes to few at a time.
            most = min(most, max(1, _ROUND_BYTES // size))
            chosen: list[int] = []
            for run_key, data_bytes in await topic_store.waiting(self._database, namespace_id, topic, tried, most):
                left -= data_bytes + _WATCHER_BYTES
                if left < 0 and (tried or chosen):
                    break
                chosen.append(run_key)
            return chosen

        taken = await self._take(
            Resolution, limit, choose, lambda key: ResolveWatcher(within(space, key), topic, payload), size
        )
        resolutions = sorted((answer for _, answer in taken), key=lambda found: found.watcher.create_time)
        return topic_store_pb2.ResolveWatchersResponse(resolutions=[resolution_to_proto(each) for each in resolutions])

    async def ListWatchers(
        self, request: topic_store_pb2.ListWatchersRequest, context: Context
    ) -> topic_store_pb2.ListWatchersResponse:
        found, token = await self._page(request)
        watchers = [watcher_to_proto(seen) for seen in found]
        return topic_store_pb2.ListWatchersResponse(watchers=watchers, next_page_token=token)

    async def ListRunsWaitingOn(
        self, request: topic_store_pb2.ListRunsWaitingOnRequest, context: Context
    ) -> topic_store_pb2.ListRunsWaitingOnResponse:
        found, token = await self._page(request)
        waiting = topic_store_pb2.ListRunsWaitingOnResponse.WaitingRun
        runs = [waiting(run_id=str(seen.run_id), workflow_id=seen.workflow_id) for seen in found]
        return topic_store_pb2.ListRunsWaitingOnResponse(runs=runs, next_page_token=token)

    async def _wait(self, request: Any) -> str:  # noqa: ANN401 - either of two requests that say the same
        step_name = self._fields.name(request.step_name, "step_name")
        topic = self._fields.name(request.topic, "topic")
        deadline, data = time(request, "deadline"), payload_from_proto(request.data, self._fields, "data")
        command = WaitOnTopic(await self._refs.read(request), step_name, topic, deadline, data, request.token)
        return str((await self._do(Moved, command, request)).run_id)

    async def _page(self, request: Any) -> tuple[list[SeenWatcher], str]:  # noqa: ANN401 - either list's request
        topic = self._fields.name(request.topic, "topic")
        space, page = await self._space(request), read_page(request, Place, self._fields.limits)
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN - page.size * _WATCHER_BYTES
        found, has_more = await topic_store.page(
            self._database, space.namespace_id or 0, topic, page.after, page.size, most_bytes
        )
        return found, page.token(found[-1].place) if has_more and found else ""


def resolution_to_proto(resolution: Resolution) -> topic_store_pb2.ResolveWatchersResponse.Resolution:
    """Renders a run that an event woke."""
    watcher = resolution.watcher
    return topic_store_pb2.ResolveWatchersResponse.Resolution(
        run_id=str(resolution.run_id),
        workflow_id=resolution.workflow_id,
        type=resolution.type,
        task_queue=resolution.task_queue,
        step_name=watcher.step_name,
        data=payload_to_proto(unpack_payload(watcher.data)) if watcher.data is not None else None,
        resolve_time=time_to_proto(resolution.resolve_time),
    )


def watcher_to_proto(seen: SeenWatcher) -> topic_store_pb2.Watcher:
    """Renders a watcher."""
    watcher = seen.watcher
    return topic_store_pb2.Watcher(
        run_id=str(seen.run_id),
        workflow_id=seen.workflow_id,
        step_name=watcher.step_name,
        topic=watcher.topic,
        create_time=time_to_proto(watcher.create_time),
        deadline=time_to_proto(watcher.deadline),
        data=payload_to_proto(unpack_payload(watcher.data)) if watcher.data is not None else None,
    )
