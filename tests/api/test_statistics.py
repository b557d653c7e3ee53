"""StatisticsService: counts by a field, search page by page, storage; and that bounds are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import namespaces_pb2, statistics_pb2
from stepwell.v1.statistics_pb2_grpc import StatisticsServiceStub
from stepwell_server.store import run_search, statistics

TYPE, QUEUE, DEFINITION = (
    statistics_pb2.RUN_GROUPING_TYPE,
    statistics_pb2.RUN_GROUPING_TASK_QUEUE,
    statistics_pb2.RUN_GROUPING_DEFINITION,
)


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def call(service: Service, method: str, **fields: Any) -> Any:
    stub: Any = StatisticsServiceStub(service.channel)  # type: ignore[arg-type]
    return await getattr(stub, method)(getattr(statistics_pb2, f"{method}Request")(**fields), timeout=TIMEOUT)


async def counts(service: Service, **fields: Any) -> dict[str, int]:
    answer = await call(service, "CountRuns", **fields)
    return {group.value: group.count for group in answer.groups}


async def test_runs_are_counted_by_a_field(service: Service) -> None:
    """Open and ended together, of one namespace, and only those that fit."""
    for place in range(6):
        env = {"env": {"text": "prod" if place else "test"}}
        run_id = await service.begin(type="ab"[place % 2], task_queue=f"q{place % 3}", search_attributes=env)
        if place < 2:
            await service.end(run_id)
    assert await counts(service) == {"PENDING": 4, "TERMINATED": 2}
    assert await counts(service, group_by=TYPE) == {"a": 3, "b": 3}
    assert await counts(service, group_by=QUEUE) == {"q0": 2, "q1": 2, "q2": 2}
    assert await counts(service, group_by=DEFINITION) == {"": 6}
    assert await counts(service, group_by=TYPE, filter="attribute.env = prod AND phase = PENDING") == {"a": 2, "b": 2}
    assert await counts(service, filter="phase = FAILED") == {}
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="ns"))
    assert await counts(service, namespace="ns") == {}
    answer = await call(service, "CountRuns", group_by=TYPE)
    assert (answer.total, answer.truncated, answer.more_groups) == (6, False, False)


async def test_bounds_are_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(4):
        await service.end(await service.begin(type=f"t{place}", correlation_id="needle" if place == 0 else ""))
    monkeypatch.setattr(statistics, "MOST_GROUPS", 3)
    answer = await call(service, "CountRuns", group_by=TYPE)
    assert (len(answer.groups), answer.more_groups, answer.total, answer.truncated) == (3, True, 4, False)
    monkeypatch.setattr(statistics, "MOST_COUNTED", 2)
    answer = await call(service, "CountRuns")
    assert (answer.total, answer.truncated) == (3, True)
    assert (await call(service, "GetRunStatistics")).truncated
    stats = await call(service, "GetStorageStats")
    assert (stats.run_count, stats.more_runs) == (2, True)
    now = Timestamp()
    now.GetCurrentTime()
    window = {"start_time": Timestamp(seconds=now.seconds - 3600), "end_time": Timestamp(seconds=now.seconds + 60)}
    series = await call(service, "GetRunTimeseries", **window)
    assert (sum(each.terminated for each in series.buckets), series.truncated) == (4, False)
    monkeypatch.setattr(statistics, "MOST_IN_SERIES", 2)
    assert (await call(service, "GetRunTimeseries", **window)).truncated
    monkeypatch.setattr(run_search, "MOST_RUNS", 2)
    monkeypatch.setattr(run_search, "_SLICE", 2)
    found = await call(service, "SearchRuns", text="needle")
    assert (len(found.runs), found.truncated, bool(found.next_page_token)) == (0, True, True)
    found = await call(service, "SearchRuns", text="needle", page_token=found.next_page_token)
    assert [run.type for run in found.runs] == ["t0"]


async def test_a_search_goes_page_by_page_over_all(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the slices lie; each is found once, and the total is that of all."""
    monkeypatch.setattr(run_search, "_SLICE", 3)
    ids = [await service.begin(workflow_id=f"Order-{place}" if place % 3 else "") for place in range(10)]
    for run_id in ids[::2]:
        await service.end(run_id)
    expected = [run_id for place, run_id in enumerate(ids) if place % 3][::-1]
    for size in (1, 2, 4, 6, 50):
        found: list[str] = []
        token = ""
        while True:
            answer = await call(
                service, "SearchRuns", text="oRDER", page_size=size, page_token=token, count_total=not token
            )
            assert token or answer.total_size == len(expected)
            found += [run.run_id for run in answer.runs]
            token = answer.next_page_token
            if not token:
                break
        assert found == expected, size
    skipped = await call(service, "SearchRuns", text="order", skip=4, page_size=1)
    assert [run.run_id for run in skipped.runs] == expected[4:5]
    assert [run.run_id for run in (await call(service, "SearchRuns", page_size=3)).runs] == ids[:6:-1]


async def test_attributes_are_searched(service: Service) -> None:
    run_id = await service.begin(search_attributes={"who": {"text": "Ada Lovelace"}, "n": {"integer": 7}})
    await service.begin()
    assert [run.run_id for run in (await call(service, "SearchRuns", text="lovel")).runs] == [run_id]


async def test_what_is_stored(service: Service, database_url: str) -> None:
    """Counts are of the namespace; the estimates are the catalogue's, of all partitions together."""
    for place in range(3):
        run_id = await service.begin()
        if place:
            await service.end(run_id)
    raw = await asyncpg.connect(database_url)
    try:
        await raw.execute("ANALYZE")
    finally:
        await raw.close()
    stats = await call(service, "GetStorageStats")
    assert (stats.definition_count, stats.run_count, stats.open_run_count, stats.more_runs) == (0, 3, 1, False)
    groups = {group.name: group for group in stats.groups}
    assert "others" not in groups or groups["others"].tables
    assert (groups["history"].tables, groups["history"].estimated_rows) == (["caller_seqs", "events"], 5)
    assert all(group.total_bytes > 0 for group in stats.groups)
    assert [group.total_bytes for group in stats.groups] == sorted((g.total_bytes for g in stats.groups), reverse=True)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("CountRuns", {"filter": "colour = red"}),
        ("CountRuns", {"group_by": 99}),
        ("GetRunTimeseries", {"start_time": Timestamp(seconds=1)}),
        ("GetRunTimeseries", {"end_time": Timestamp(seconds=1)}),
        ("GetRunTimeseries", {"start_time": Timestamp(seconds=-1), "end_time": Timestamp(seconds=1)}),
        ("GetRunTimeseries", {"start_time": Timestamp(), "end_time": Timestamp(seconds=1), "granularity": 7}),
        ("SearchRuns", {"text": "a\0"}),
        ("SearchRuns", {"text": "x" * 256}),
        ("SearchRuns", {"skip": 10_001}),
        ("SearchRuns", {"phases": [99]}),
    ],
)
async def test_refusals(shared: Service, method: str, fields: dict[str, Any]) -> None:
    assert await refusal(call(shared, method, **fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
