"""StatisticsService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import statistics_pb2, statistics_pb2_grpc, types_pb2
from stepwell_server.api.fields import time
from stepwell_server.api.filters import read_filter
from stepwell_server.api.page import read_page
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.runs_read import counted_runs
from stepwell_server.api.stores import StoreCalls
from stepwell_server.errors import InvalidField
from stepwell_server.model.runs import LISTED, Phase
from stepwell_server.model.statistics import Granularity, Grouping, window
from stepwell_server.store import run_lists, run_search, statistics
from stepwell_server.store.run_lists import RunFilter

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.model.statistics import Bucket
    from stepwell_server.store.runs import SeenRun

    Context = grpc.aio.ServicerContext[Any, Any]


class StatisticsCalls(StoreCalls, statistics_pb2_grpc.StatisticsServiceServicer):
    """Counts runs and looks into them."""

    async def CountRuns(
        self, request: statistics_pb2.CountRunsRequest, context: Context
    ) -> statistics_pb2.CountRunsResponse:
        grouping = self._fields.member(request.group_by, statistics_pb2.RunGrouping, "group_by") or Grouping.PHASE
        counted = await statistics.count_by(self._database, await self._wanted(request), Grouping(grouping))
        group, shown = statistics_pb2.CountRunsResponse.Group, counted.groups[: statistics.MOST_GROUPS]
        return statistics_pb2.CountRunsResponse(
            groups=[group(value=value, count=count) for value, count in shown],
            total=counted.total,
            truncated=counted.is_cut,
            more_groups=len(counted.groups) > len(shown),
        )

    async def GetRunStatistics(
        self, request: statistics_pb2.GetRunStatisticsRequest, context: Context
    ) -> statistics_pb2.GetRunStatisticsResponse:
        space, day_start = await self._space(request), Granularity.DAY.floor(self._clock.now())
        found = await statistics.dashboard(self._database, space.namespace_id or 0, day_start)
        today = found.ended
        return statistics_pb2.GetRunStatisticsResponse(
            definition_count=found.definitions,
            type_count=found.types,
            open_count=found.open,
            running_count=found.running,
            paused_count=found.paused,
            day_start=time_to_proto(day_start),
            completed_today=today.get(Phase.COMPLETED, 0),
            failed_today=today.get(Phase.FAILED, 0),
            cancelled_today=today.get(Phase.CANCELLED, 0) + today.get(Phase.TERMINATED, 0),
            timed_out_today=today.get(Phase.TIMED_OUT, 0),
            skipped_today=today.get(Phase.SKIPPED, 0),
            truncated=found.is_cut,
        )

    async def GetRunTimeseries(
        self, request: statistics_pb2.GetRunTimeseriesRequest, context: Context
    ) -> statistics_pb2.GetRunTimeseriesResponse:
        granularity = self._fields.member(request.granularity, statistics_pb2.RunGranularity, "granularity")
        buckets = window(
            Granularity(granularity or Granularity.HOUR),
            _required_time(request, "start_time"),
            _required_time(request, "end_time"),
        )
        series, is_cut = await statistics.series(self._database, await self._wanted(request), buckets)
        return statistics_pb2.GetRunTimeseriesResponse(
            buckets=[
                bucket_to_proto(buckets.start + place * buckets.size, bucket) for place, bucket in enumerate(series)
            ],
            truncated=is_cut or buckets.is_cut,
        )

    async def SearchRuns(
        self, request: statistics_pb2.SearchRunsRequest, context: Context
    ) -> statistics_pb2.SearchRunsResponse:
        space, page = await self._space(request), read_page(request, int, self._fields.limits)
        wanted, needle = await self._wanted(request), self._fields.text(request.text, "text")
        if needle:
            found = await run_search.find(
                self._database, wanted, needle, page.after, page.size, page.skip, counts=request.count_total
            )
            runs, last, total, is_cut = found.runs, found.last, found.count, found.is_cut
        else:
            place = None if page.after is None else (page.after,)
            listed = await run_lists.page(self._database, wanted, (), place, page.fetch, page.skip)
            runs, last = listed[: page.size], _last(listed, page.size)
            total, is_cut = await counted_runs(self._database, wanted) if request.count_total else (0, False)
        shown = await self._listed(runs, space.namespace, payloads=request.payloads)
        if len(shown) < len(runs):
            last = runs[len(shown) - 1].run_key
        return statistics_pb2.SearchRunsResponse(
            runs=shown,
            next_page_token=page.token(last) if last is not None else "",
            total_size=total if request.count_total else 0,
            truncated=is_cut,
        )

    async def GetStorageStats(
        self, request: statistics_pb2.GetStorageStatsRequest, context: Context
    ) -> statistics_pb2.GetStorageStatsResponse:
        space = await self._space(request)
        found = await statistics.storage(self._database, space.namespace_id or 0)
        group = statistics_pb2.GetStorageStatsResponse.TableGroup
        return statistics_pb2.GetStorageStatsResponse(
            definition_count=found.definitions,
            run_count=found.runs,
            open_run_count=found.open_runs,
            more_runs=found.more_runs,
            groups=[
                group(name=each.name, estimated_rows=each.rows, total_bytes=each.size, tables=each.tables)
                for each in found.groups
            ],
        )

    async def _wanted(self, request: Any) -> RunFilter:  # noqa: ANN401 - any request about runs that fit
        fields, space = self._fields, await self._space(request)
        phases = fields.items(getattr(request, "phases", ()), "phases")
        return RunFilter(
            namespace_id=space.namespace_id or 0,
            phases=tuple(fields.member(phase, types_pb2.RunPhase, "phases", required=True) for phase in phases),
            type=fields.text(getattr(request, "type", ""), "type"),
            where=read_filter(request.filter, LISTED, fields.limits),
        )


def bucket_to_proto(start: datetime, bucket: Bucket) -> statistics_pb2.GetRunTimeseriesResponse.Bucket:
    """Renders a bucket."""
    ended = bucket.ended
    return statistics_pb2.GetRunTimeseriesResponse.Bucket(
        start_time=time_to_proto(start),
        total=bucket.total,
        running=bucket.running,
        completed=ended.get(Phase.COMPLETED, 0),
        failed=ended.get(Phase.FAILED, 0),
        cancelled=ended.get(Phase.CANCELLED, 0),
        terminated=ended.get(Phase.TERMINATED, 0),
        timed_out=ended.get(Phase.TIMED_OUT, 0),
        skipped=ended.get(Phase.SKIPPED, 0),
        p50_duration_ms=bucket.p50,
        p95_duration_ms=bucket.p95,
    )


def _last(listed: list[SeenRun], size: int) -> int | None:
    return listed[size - 1].run_key if len(listed) > size else None


def _required_time(request: statistics_pb2.GetRunTimeseriesRequest, field: str) -> datetime:
    found = time(request, field)
    if found is None:
        raise InvalidField(field=field, problem="is required: a time, such as 2026-01-31T00:00:00Z")
    return found
