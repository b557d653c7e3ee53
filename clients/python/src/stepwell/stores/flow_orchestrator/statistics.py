"""The part of FlowOrchestrator's store that lists, searches and counts runs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import IntEnum

from stepwell.stores._connection import Store, stamp
from stepwell.stores.flow_orchestrator.records import FlowRunRecord, phases_of, run_record
from stepwell.v1 import run_store_pb2 as runs
from stepwell.v1 import statistics_pb2 as statistics
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.statistics_pb2_grpc import StatisticsServiceStub

DRIVEN = "driven = true"


class RunTimeseriesGranularity(IntEnum):
    """How fine a time series is."""

    Hour = 0
    Day = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardStatistics:
    """What the dashboard shows first."""

    TotalFlows: int
    ActiveRuns: int
    CompletedToday: int
    FailedToday: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimeseriesBucket:
    """Runs that were started in one hour or day. What timed out or was skipped is Running to the store itself."""

    Timestamp: dt.datetime
    Total: int
    Succeeded: int
    Failed: int
    Cancelled: int
    Running: int
    TimedOut: int
    Skipped: int
    P50DurationMs: float | None
    P95DurationMs: float | None


class Statistics(Store):
    """See the module."""

    async def GetRunsAsync(self, flowId: str | None = None, skip: int = 0, take: int = 50) -> list[FlowRunRecord]:
        """Runs, of one flow or of all, the newest first."""
        request = runs.ListDrivenRunsRequest(namespace=self.namespace, type=flowId or "", payloads=True)
        listed = await self.window(RunStoreStub(self.channel).ListDrivenRuns, request, "runs", limit=take, offset=skip)
        return [run_record(run) for run in listed]

    async def GetActiveRunsAsync(self) -> list[FlowRunRecord]:
        """All runs that are Running, the newest first."""
        request = runs.ListDrivenRunsRequest(namespace=self.namespace, phases=phases_of("Running"), payloads=True)
        return [run_record(run) for run in await self.every(RunStoreStub(self.channel).ListDrivenRuns, request, "runs")]

    async def GetRunsPageAsync(
        self,
        flowId: str | None = None,
        status: str | None = None,
        skip: int = 0,
        take: int = 50,
        search: str | None = None,
    ) -> tuple[list[FlowRunRecord], int]:
        """Runs that fit, the newest first, and how many fit in all. A blank `status` or `search` does not filter.

        Differs: the total is counted up to 10,000, and with a `search` among the newest 5,000 runs that fit the rest.
        A status is known in any case of its letters, as in the store's memory; its Postgres knows one.
        """
        stub, asked = StatisticsServiceStub(self.channel), (status or "").strip()
        if asked and not phases_of(asked):
            return [], 0
        request = statistics.SearchRunsRequest(
            namespace=self.namespace,
            type=flowId or "",
            phases=phases_of(asked),
            filter=DRIVEN,
            text=(search or "").strip(),
            count_total=True,
            payloads=True,
            page_size=1,
        )
        total = (await self.call(stub.SearchRuns, request)).total_size
        request.count_total = False
        found = await self.window(stub.SearchRuns, request, "runs", limit=take, offset=skip)
        return [run_record(run) for run in found], total

    async def GetStatisticsAsync(self) -> DashboardStatistics:
        """What the dashboard shows first. A day begins at midnight UTC.

        Differs: `TotalFlows` are the registered definitions, as its documents say, and only where none is registered
        the types of runs, which its Postgres counts.
        """
        request = statistics.GetRunStatisticsRequest(namespace=self.namespace)
        found = await self.call(StatisticsServiceStub(self.channel).GetRunStatistics, request)
        return DashboardStatistics(
            TotalFlows=found.definition_count or found.type_count,
            ActiveRuns=found.open_count,
            CompletedToday=found.completed_today,
            FailedToday=found.failed_today,
        )

    async def GetRunTimeseriesAsync(
        self,
        granularity: RunTimeseriesGranularity,
        since: dt.datetime,
        until: dt.datetime,
        flowId: str | None = None,
    ) -> list[RunTimeseriesBucket]:
        """Buckets from the beginning of the hour or day of `since`, empty ones too, at most 10,000.

        Differs: runs that were started between that beginning and `since` count, as in the store's memory; its Postgres
        leaves them out of the first bucket.
        """
        request = statistics.GetRunTimeseriesRequest(
            namespace=self.namespace,
            granularity=statistics.RunGranularity.ValueType(granularity + 1),
            start_time=stamp(since),
            end_time=stamp(until),
            type=flowId or "",
            filter=DRIVEN,
        )
        found = await self.call(StatisticsServiceStub(self.channel).GetRunTimeseries, request)
        return [_bucket(each) for each in found.buckets]


def _bucket(bucket: statistics.GetRunTimeseriesResponse.Bucket) -> RunTimeseriesBucket:
    return RunTimeseriesBucket(
        Timestamp=bucket.start_time.ToDatetime(dt.UTC),
        Total=bucket.total,
        Succeeded=bucket.completed,
        Failed=bucket.failed,
        Cancelled=bucket.cancelled + bucket.terminated,
        Running=bucket.running,
        TimedOut=bucket.timed_out,
        Skipped=bucket.skipped,
        P50DurationMs=bucket.p50_duration_ms if bucket.HasField("p50_duration_ms") else None,
        P95DurationMs=bucket.p95_duration_ms if bucket.HasField("p95_duration_ms") else None,
    )
