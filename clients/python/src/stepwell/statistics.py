"""Numbers about runs, and runs found by any text of theirs."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Literal

from stepwell.v1 import statistics_pb2
from stepwell.v1.statistics_pb2_grpc import StatisticsServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller
    from stepwell.v1 import runs_pb2

Grouping = Literal["phase", "type", "task_queue", "definition"]
PAGE_SIZE = 100


class Statistics:
    """A client's numbers; `client.statistics`. `filter` is that of `Client.list_runs`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str) -> None:
        """Made by the client."""
        self._stub = StatisticsServiceStub(channel)
        self._caller = caller
        self._namespace = namespace

    async def count(
        self,
        by: Grouping = "phase",
        *,
        filter: str = "",  # noqa: A002
    ) -> statistics_pb2.CountRunsResponse:
        """Counts runs that fit, by a field, the largest group first. `truncated` tells that not all were looked at."""
        grouping = statistics_pb2.RunGrouping.Value(f"RUN_GROUPING_{by.upper()}")
        request = statistics_pb2.CountRunsRequest(namespace=self._namespace, filter=filter, group_by=grouping)
        return await self._caller.call(self._stub.CountRuns, request)

    async def today(self) -> statistics_pb2.GetRunStatisticsResponse:
        """Tells how many runs are open, and what ended since midnight UTC."""
        request = statistics_pb2.GetRunStatisticsRequest(namespace=self._namespace)
        return await self._caller.call(self._stub.GetRunStatistics, request)

    async def series(
        self,
        start: dt.datetime,
        end: dt.datetime,
        *,
        by: Literal["hour", "day"] = "hour",
        type: str = "",  # noqa: A002
        filter: str = "",  # noqa: A002
    ) -> statistics_pb2.GetRunTimeseriesResponse:
        """Gives runs by the hour or day (UTC) that they were started in, with how long they took. Times have zones."""
        request = statistics_pb2.GetRunTimeseriesRequest(
            namespace=self._namespace,
            granularity=statistics_pb2.RunGranularity.Value(f"RUN_GRANULARITY_{by.upper()}"),
            type=type,
            filter=filter,
        )
        request.start_time.FromDatetime(start.astimezone(dt.UTC))
        request.end_time.FromDatetime(end.astimezone(dt.UTC))
        return await self._caller.call(self._stub.GetRunTimeseries, request)

    async def search(
        self,
        text: str,
        *,
        limit: int | None = None,
        type: str = "",  # noqa: A002
        filter: str = "",  # noqa: A002
    ) -> AsyncGenerator[runs_pb2.Run, None]:
        """Finds runs that hold a text, newest first: in their own fields, or in what their steps were and came to."""
        request = statistics_pb2.SearchRunsRequest(
            namespace=self._namespace, text=text, type=type, filter=filter, page_size=PAGE_SIZE
        )
        left = limit
        while left is None or left > 0:
            page = await self._caller.call(self._stub.SearchRuns, request)
            for run in page.runs[:left]:
                yield run
            left = None if left is None else left - len(page.runs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def storage(self) -> statistics_pb2.GetStorageStatsResponse:
        """Tells what the namespace holds, counted, and what the whole database holds, estimated."""
        request = statistics_pb2.GetStorageStatsRequest(namespace=self._namespace)
        return await self._caller.call(self._stub.GetStorageStats, request)
