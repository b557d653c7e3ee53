"""FlowOrchestrator: lists, pages and search of runs, statistics and time series, by the names of its tests."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import pytest_asyncio
from tests.parity.cases import Engine, answers

from stepwell.stores.flow_orchestrator import FlowRunStore, RunTimeseriesGranularity
from stepwell.v1 import mirrors_pb2
from stepwell.v1.types_pb2 import Payload
from stepwell_server.service import Service

TRAIT = mirrors_pb2.TRAIT_FLOW_RUN_STORE
FLOW, OTHER = str(uuid4()), str(uuid4())
HOUR, DAY = RunTimeseriesGranularity.Hour, RunTimeseriesGranularity.Day
BEGIN = dt.datetime(2026, 1, 1, 8, tzinfo=dt.UTC)
Timed = Callable[[str, float, float | None], Awaitable[None]]

_replicas: list[Service] = []


@pytest_asyncio.fixture(autouse=True)
async def _known(replicas: tuple[Service, Service]) -> None:
    _replicas[:] = replicas


async def timed(run_id: str, minutes: float, milliseconds: float | None) -> None:
    """Puts a run's start, and how long it took, where the test wants them."""
    begin = BEGIN + dt.timedelta(minutes=minutes)
    table = "runs" if milliseconds is None else "closed_runs"
    connection = await asyncpg.connect(
        str(_replicas[0].settings.database_url), server_settings={"search_path": "stepwell"}
    )
    try:
        await connection.execute(f"UPDATE {table} SET create_time = $2 WHERE run_id = $1", UUID(run_id), begin)  # noqa: S608
        if milliseconds is not None:
            end = begin + dt.timedelta(milliseconds=milliseconds)
            await connection.execute("UPDATE closed_runs SET end_time = $2 WHERE run_id = $1", UUID(run_id), end)
    finally:
        await connection.close()


async def started(store: FlowRunStore, flow: str = FLOW, name: str = "Pay", job: str | None = None) -> str:
    run_id = str(uuid4())
    await store.StartRunAsync(flow, name, run_id, "manual", '{"n": 1}', job)
    return run_id


async def ended(store: FlowRunStore, status: str = "Succeeded", flow: str = FLOW) -> str:
    run_id = await started(store, flow)
    await store.CompleteRunAsync(run_id, status)
    return run_id


# --- lists and pages --------------------------------------------------------------------------------------------------


@answers(TRAIT, "GetRunsAsync")
async def test_GetRuns_filter_by_flow_skip_take(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    mine = [await started(store) for _ in range(3)]
    await started(store, OTHER)
    assert [run.Id for run in await store.GetRunsAsync(FLOW)] == mine[::-1]
    assert [run.Id for run in await store.GetRunsAsync(FLOW, 1, 1)] == [mine[1]]
    everything = await store.GetRunsAsync()
    assert (len(everything), everything[0].FlowId, everything[0].TriggerDataJson) == (4, OTHER, '{"n": 1}')


@answers(TRAIT, "GetActiveRunsAsync")
async def test_GetActiveRuns_returns_running_runs(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    active = [await started(store) for _ in range(2)]
    await ended(store)
    assert [run.Id for run in await store.GetActiveRunsAsync()] == active[::-1]


@answers(TRAIT, "GetRunsPageAsync")
async def test_GetRunsPage_respects_skip_and_take(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    ids = [await started(store) for _ in range(5)]
    first, total = await store.GetRunsPageAsync(FLOW, skip=0, take=2)
    second, _ = await store.GetRunsPageAsync(FLOW, skip=2, take=2)
    assert ([run.Id for run in (*first, *second)], total) == (ids[:0:-1], 5)


async def test_GetRunsPage_filters_by_status(engine: Engine) -> None:
    """In any case of its letters; the total counts what the page leaves out."""
    store = engine.store(FlowRunStore)
    done = [await ended(store) for _ in range(2)]
    await ended(store, "Failed")
    await started(store)
    for status in ("Succeeded", "succeeded", " SUCCEEDED "):
        page, total = await store.GetRunsPageAsync(status=status, take=1)
        assert ([run.Id for run in page], total) == (done[:0:-1], 2)
    assert (await store.GetRunsPageAsync(status="Running"))[1] == 1
    assert await store.GetRunsPageAsync(status="Strange") == ([], 0)
    assert (await store.GetRunsPageAsync(status=" ", search=" "))[1] == 4


async def test_GetRunsPage_search_matches_flow_name(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    await started(store)
    found = await started(store, name="Refund-7%")
    for search in ("refund-7%", "FUND-7"):
        page, total = await store.GetRunsPageAsync(search=search)
        assert ([(run.Id, run.FlowName) for run in page], total) == ([(found, "Refund-7%")], 1)
    assert (await store.GetRunsPageAsync(search="refund_7"))[1] == 0


async def test_search_by_run_id_trigger_status_and_background_job_id(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    run_id = await started(store, job="job-4711")
    failed = await ended(store, "Failed")
    assert (await store.GetRunsPageAsync(search=run_id[4:20].upper()))[0][0].Id == run_id
    assert (await store.GetRunsPageAsync(search="B-471"))[0][0].Id == run_id
    assert (await store.GetRunsPageAsync(search="anua"))[1] == 2
    assert [run.Id for run in (await store.GetRunsPageAsync(search="faile"))[0]] == [failed]


async def test_search_by_step_key_error_output_and_an_old_attempt(engine: Engine) -> None:
    """What a step said in an attempt before the last is found, too; no character means anything but itself."""
    store = engine.store(FlowRunStore)
    run_id, other = await started(store), await started(store)
    begun = await engine.call("BeginStep", run_id=run_id, step_name="charge_card")
    await engine.call("FailStep", step_number=begun.step.number, failure={"message": "Card Declined ä 100%"})
    again = await engine.call("BeginStep", run_id=run_id, step_name="charge_card")
    await engine.call("CompleteStep", step_number=again.step.number, result=Payload(json='{"Receipt":"R-99"}'))
    await engine.call("BeginStep", run_id=other, step_name="other")
    for search in ("ARGE_CAR", "declined", "ä 100%", '"receipt":"r-9'):
        page, total = await store.GetRunsPageAsync(search=search)
        assert ([run.Id for run in page], total) == ([run_id], 1), search
    for search in ("chargeXcard", "100_", "r.99"):
        assert await store.GetRunsPageAsync(search=search) == ([], 0), search


async def test_combination_flow_status_search_take_1(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    wanted = await ended(store, "Failed")
    for status, flow in (("Succeeded", FLOW), ("Failed", OTHER)):
        await ended(store, status, flow)
    page, total = await store.GetRunsPageAsync(FLOW, "failed", 0, 1, "pay")
    assert ([run.Id for run in page], total) == ([wanted], 1)


# --- statistics -------------------------------------------------------------------------------------------------------


@answers(TRAIT, "GetStatisticsAsync")
async def test_GetStatistics_returns_counts(engine: Engine) -> None:
    """One that ended yesterday does not count; flows are those of runs until one is registered."""
    store = engine.store(FlowRunStore)
    await started(store)
    await ended(store, "Failed", OTHER)
    for _ in range(2):
        await ended(store)
    await timed(await ended(store), 0, 1)
    found = await store.GetStatisticsAsync()
    assert (found.TotalFlows, found.ActiveRuns, found.CompletedToday, found.FailedToday) == (2, 1, 2, 1)
    for code in ("a", "a", "b"):
        await engine.call("CreateDefinition", definition={"code": code, "name": code})
    assert (await store.GetStatisticsAsync()).TotalFlows == 2


# --- time series ------------------------------------------------------------------------------------------------------


async def three_hours(store: FlowRunStore) -> None:
    """100 and 300 ms in the first hour, a failure of 500 ms in the second, and an open run in the third."""
    await timed(await ended(store), 0, 100)
    await timed(await ended(store), 59, 300)
    await timed(await ended(store, "Failed"), 60, 500)
    await timed(await started(store), 120, None)


@answers(TRAIT, "GetRunTimeseriesAsync")
async def test_timeseries_hour_buckets(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    await three_hours(store)
    first, second, third = await store.GetRunTimeseriesAsync(HOUR, BEGIN, BEGIN + dt.timedelta(hours=3))
    assert (first.Timestamp, first.Total, first.Succeeded, first.Failed, first.Running) == (BEGIN, 2, 2, 0, 0)
    assert (round(first.P50DurationMs or 0, 6), round(first.P95DurationMs or 0, 6)) == (200.0, 290.0)
    assert (second.Timestamp, second.Total, second.Failed) == (BEGIN + dt.timedelta(hours=1), 1, 1)
    assert (second.P50DurationMs, second.P95DurationMs) == (500.0, 500.0)
    assert (third.Total, third.Running, third.P50DurationMs, third.P95DurationMs) == (1, 1, None, None)


async def test_timeseries_begins_with_the_hour_of_since_and_ends_before_until(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    await three_hours(store)
    since, until = BEGIN + dt.timedelta(minutes=30), BEGIN + dt.timedelta(minutes=60)
    (only,) = await store.GetRunTimeseriesAsync(HOUR, since, until)
    assert (only.Timestamp, only.Total) == (BEGIN, 2)
    (half,) = await store.GetRunTimeseriesAsync(HOUR, BEGIN, since)
    assert half.Total == 1
    *_, last = await store.GetRunTimeseriesAsync(HOUR, since, until + dt.timedelta(milliseconds=1))
    assert last.Total == 1
    assert await store.GetRunTimeseriesAsync(HOUR, until, BEGIN) == []
    assert await store.GetRunTimeseriesAsync(HOUR, BEGIN, BEGIN) == []


async def test_timeseries_flow_filter(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    for flow in (FLOW, FLOW, OTHER):
        await timed(await ended(store, flow=flow), 5, 100)
    until = BEGIN + dt.timedelta(hours=1)
    totals = [(await store.GetRunTimeseriesAsync(HOUR, BEGIN, until, flow))[0].Total for flow in (FLOW, OTHER, None)]
    assert totals == [2, 1, 3]


async def test_timeseries_empty_window_zero_buckets(engine: Engine) -> None:
    store = engine.store(FlowRunStore)
    await started(store)
    buckets = await store.GetRunTimeseriesAsync(HOUR, BEGIN, BEGIN + dt.timedelta(hours=4))
    assert [(each.Total, each.P50DurationMs, each.P95DurationMs) for each in buckets] == [(0, None, None)] * 4
    most = await store.GetRunTimeseriesAsync(HOUR, BEGIN - dt.timedelta(days=2_000), BEGIN)
    assert len(most) == 10_000


async def test_timeseries_day_buckets(engine: Engine) -> None:
    """Thirty days; what timed out and what was skipped counts apart, and not as running."""
    store = engine.store(FlowRunStore)
    statuses = ("Succeeded", "Succeeded", "Failed", "Cancelled", "TimedOut", "Skipped")
    for place, status in enumerate(statuses):
        await timed(await ended(store, status), 60 * 24 * (place % 3), 100)
    await timed(await started(store), 0, None)
    buckets = await store.GetRunTimeseriesAsync(DAY, BEGIN, BEGIN + dt.timedelta(days=30))
    assert (len(buckets), buckets[0].Timestamp) == (31, BEGIN.replace(hour=0))
    names = ("Total", "Succeeded", "Failed", "Cancelled", "TimedOut", "Skipped", "Running")
    assert [sum(getattr(each, name) for each in buckets) for name in names] == [7, 2, 1, 1, 1, 1, 1]
