"""RunService: reading runs, listing them, waiting for them to end."""

from __future__ import annotations

import functools
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import runs_pb2, types_pb2
from stepwell_server.api.fields import id_ending, optional_uuid, seconds
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.interceptors.deadlines import wait_seconds
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import failure_to_proto, payload_to_proto
from stepwell_server.api.run_starts import definition_from_proto
from stepwell_server.api.run_values import (
    MESSAGE_MARGIN,
    run_to_proto,
    step_to_proto,
    time_to_proto,
    whole_run_to_proto,
)
from stepwell_server.dispatch.watch_streams import ONLY_ENDS
from stepwell_server.model.notices import RunNews
from stepwell_server.model.runs import LISTED as LISTED_RUNS
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.steps import LISTED as LISTED_STEPS
from stepwell_server.store import run_lists, runs, search_attributes, steps
from stepwell_server.store.notices import Notice
from stepwell_server.store.run_lists import RunFilter
from stepwell_server.store.watches import End

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell_server.api.fields import Fields
    from stepwell_server.api.run_values import RunRefs
    from stepwell_server.dispatch.watches import News, Watches
    from stepwell_server.store.crews import Crews
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_WAIT = 20.0
MOST_COUNTED = 10_000
"""So far `total_size` counts."""


class RunReads:
    """The reading half of RunService."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        namespaces: Namespaces,
        crews: Crews,
        watches: Watches,
        fields: Fields,
        refs: RunRefs,
    ) -> None:
        self._database = database
        self._namespaces = namespaces
        self._crews = crews
        self._watches = watches
        self._fields = fields
        self._refs = refs

    async def GetRun(self, request: runs_pb2.GetRunRequest, context: Context) -> runs_pb2.GetRunResponse:
        return runs_pb2.GetRunResponse(run=await self._whole(await self._refs.read(request)))

    async def ListRuns(self, request: runs_pb2.ListRunsRequest, context: Context) -> runs_pb2.ListRunsResponse:
        namespace = self._fields.namespace(request.namespace)
        order = read_order(request.order_by, LISTED_RUNS)
        page = read_page(request, position_of(order, LISTED_RUNS, int), self._fields.limits)
        wanted = filter_from_proto(request, await self._namespaces.id_of(namespace), self._fields)
        found = await run_lists.page(self._database, wanted, order, page.after, page.fetch, page.skip)
        shown = found[: page.size]
        token = page.token(run_lists.place_of(shown[-1], order)) if len(found) > page.size else ""
        total, more = await counted_runs(self._database, wanted) if request.count_total else (0, False)
        attributes = await search_attributes.of_runs(self._database, shown)
        return runs_pb2.ListRunsResponse(
            runs=[run_to_proto(run, namespace, attributes.get(run.run_key)) for run in shown],
            next_page_token=token,
            total_size=total,
            more_than_total_size=more,
        )

    async def WaitRun(self, request: runs_pb2.WaitRunRequest, context: Context) -> runs_pb2.WaitRunResponse:
        ref = await self._refs.read(request)
        wait = wait_seconds(seconds(request, "wait"), default=_DEFAULT_WAIT)
        run = await self._watches.wait(ref, wait, follow=not request.only_this_run)
        ref = RunRef(run.namespace_id, ref.namespace, run_key=run.run_key)
        whole = await self._watches.look(functools.partial(self._whole, ref))
        return runs_pb2.WaitRunResponse(run=whole, ended=whole.phase >= Phase.COMPLETED)

    async def WatchRuns(
        self, request: runs_pb2.WatchRunsRequest, context: Context
    ) -> AsyncIterator[runs_pb2.WatchRunsResponse]:
        namespace = await self._namespaces.get(self._fields.namespace(request.namespace))
        asked = self._fields.items(request.news, "news")
        wanted = {RunNews(self._fields.member(each, runs_pb2.RunNews, "news", required=True)) for each in asked}
        ending = id_ending(request.id_suffix, "id_suffix")
        watch = self._watches.watch(namespace, request.cursor, End, frozenset(wanted) or ONLY_ENDS, ending)
        async with aclosing(watch) as watched:
            async for news in watched:
                yield news_to_proto(news)

    async def ListRunSteps(
        self, request: runs_pb2.ListRunStepsRequest, context: Context
    ) -> runs_pb2.ListRunStepsResponse:
        asked = self._fields.items(request.states, "states")
        states = tuple(self._fields.member(state, types_pb2.StepState, "states", required=True) for state in asked)
        where, order = (
            read_filter(request.filter, LISTED_STEPS, self._fields.limits),
            read_order(request.order_by, LISTED_STEPS),
        )
        page = read_page(request, position_of(order, LISTED_STEPS, int), self._fields.limits)
        run = await runs.find(self._database, await self._refs.read(request))
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN
        wanted = steps.StepFilter(states, where, order)
        listed = await steps.page(self._database, run.run_key, wanted, page.after, page.size, most_bytes)
        token = page.token(steps.place_of(listed.steps[-1].step, order)) if listed.has_more else ""
        return runs_pb2.ListRunStepsResponse(
            steps=[step_to_proto(step) for step in listed.steps], next_page_token=token
        )

    async def _whole(self, ref: RunRef) -> runs_pb2.Run:
        whole = await runs.read(self._database, ref)
        crew = await self._crews.of(whole.run.namespace_id) if whole.ready_time is not None else None
        return whole_run_to_proto(whole, await self._namespaces.name_of(whole.run.namespace_id), crew)


async def counted_runs(database: Database, wanted: RunFilter) -> tuple[int, bool]:
    """How many runs fit, and whether there are more than are counted."""
    found = await run_lists.count(database, wanted, MOST_COUNTED)
    return min(found, MOST_COUNTED), found > MOST_COUNTED


def filter_from_proto(request: runs_pb2.ListRunsRequest, namespace_id: int, fields: Fields) -> RunFilter:
    """Reads which runs to list."""
    phases = fields.items(request.phases, "phases")
    return RunFilter(
        namespace_id=namespace_id,
        phases=tuple(fields.member(phase, types_pb2.RunPhase, "phases", required=True) for phase in phases),
        type=fields.text(request.type, "type"),
        workflow_id=fields.text(request.workflow_id, "workflow_id"),
        parent_run_id=optional_uuid(request.parent_run_id, "parent_run_id"),
        task_queue=fields.text(request.task_queue, "task_queue"),
        correlation_id=fields.text(request.correlation_id, "correlation_id"),
        where=read_filter(request.filter, LISTED_RUNS, fields.limits),
        definition=definition_from_proto(request, fields),
    )


def news_to_proto(news: News) -> runs_pb2.WatchRunsResponse:
    """Renders what happened, or a sign of life."""
    return runs_pb2.WatchRunsResponse(
        ends=[end_to_proto(each) for each in news.told if isinstance(each, End)],
        notices=[notice_to_proto(each) for each in news.told if isinstance(each, Notice)],
        cursor=news.cursor,
    )


def notice_to_proto(notice: Notice) -> runs_pb2.WatchRunsResponse.Notice:
    """Renders something else that happened to a run."""
    return runs_pb2.WatchRunsResponse.Notice(
        news=runs_pb2.RunNews.ValueType(notice.news),
        run_id=str(notice.run_id),
        workflow_id=notice.workflow_id,
        type=notice.type,
        task_queue=notice.task_queue,
        time=time_to_proto(notice.time),
        reason=notice.reason,
    )


def end_to_proto(end: End) -> runs_pb2.WatchRunsResponse.End:
    """Renders the end of a run."""
    return runs_pb2.WatchRunsResponse.End(
        run_id=str(end.run_id),
        workflow_id=end.workflow_id,
        phase=types_pb2.RunPhase.ValueType(end.phase),
        continued_run_id=end.continued_run_id,
        result=payload_to_proto(end.result) if end.phase == Phase.COMPLETED and not end.purged else None,
        failure=failure_to_proto(end.failure),
        result_omitted=end.result is None,
        purged=end.purged,
    )
