"""Starts that take a workflow id from an open run, over the wire and from two replicas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.service import TIMEOUT, Service, reason_of, refusal, serving

from stepwell.v1 import history_pb2, runs_pb2, types_pb2

PENDING, TERMINATED = types_pb2.RUN_PHASE_PENDING, types_pb2.RUN_PHASE_TERMINATED
REPLACE = runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
REJECT = runs_pb2.WORKFLOW_ID_REUSE_POLICY_REJECT
STARTERS = 64
OPEN = "SELECT count(*) FROM runs WHERE workflow_id = 'w'"


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


def start(**fields: Any) -> runs_pb2.StartRunRequest:
    return runs_pb2.StartRunRequest(**{"type": "t", "workflow_id": "w", "conflict_policy": REPLACE, **fields})


def with_start(**fields: Any) -> runs_pb2.SignalWithStartRunRequest:
    return runs_pb2.SignalWithStartRunRequest(start=start(**fields), signal_name="s")


async def end_of(service: Service, run_id: str) -> tuple[int, str]:
    """The phase of a run, and the reason in its last event."""
    run = await service.get(run_id)
    request = history_pb2.ListEventsRequest(run_id=run_id, page_size=1000)
    events = (await service.history.ListEvents(request, timeout=TIMEOUT)).events
    return run.phase, events[-1].attributes.get("reason", "")


async def test_a_start_replaces_the_open_run(service: Service) -> None:
    """Singly, in a batch and with a signal; the workflow id means the new run from then on."""
    first = (await service.runs.StartRun(start(), timeout=TIMEOUT)).run_id
    second = await service.runs.StartRun(start(), timeout=TIMEOUT)
    assert second.started
    assert await end_of(service, first) == (TERMINATED, f"replaced by run {second.run_id}")
    batch = runs_pb2.BatchStartRunsRequest(requests=[start(), start(), start(workflow_id="v")])
    third, fourth, other = (await service.runs.BatchStartRuns(batch, timeout=TIMEOUT)).results
    assert await end_of(service, second.run_id) == (TERMINATED, f"replaced by run {third.started.run_id}")
    assert await end_of(service, third.started.run_id) == (TERMINATED, f"replaced by run {fourth.started.run_id}")
    fifth = await service.runs.SignalWithStartRun(with_start(), timeout=TIMEOUT)
    assert fifth.started
    assert await end_of(service, fourth.started.run_id) == (TERMINATED, f"replaced by run {fifth.run_id}")
    named = (await service.runs.GetRun(runs_pb2.GetRunRequest(workflow_id="w"), timeout=TIMEOUT)).run
    assert (named.run_id, named.phase, named.event_count) == (fifth.run_id, PENDING, 2)
    assert (await service.get(other.started.run_id)).phase == PENDING


async def test_what_contradicts_itself_is_refused(service: Service) -> None:
    """No second run ever, and a second one that replaces the first: the field is named, and nothing happens."""
    first = (await service.runs.StartRun(start(), timeout=TIMEOUT)).run_id
    assert await refusal(service.runs.StartRun(start(reuse_policy=REJECT))) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    refused = with_start(reuse_policy=REJECT)
    assert (await refusal(service.runs.SignalWithStartRun(refused)))[1] == "INVALID_FIELD"
    batch = runs_pb2.BatchStartRunsRequest(requests=[start(workflow_id="v"), start(reuse_policy=REJECT)])
    results = (await service.runs.BatchStartRuns(batch, timeout=TIMEOUT)).results
    assert reason_of(results[1].error) == "INVALID_FIELD"
    assert "requests[1].conflict_policy" in results[1].error.message
    assert (await service.get(first)).phase == PENDING


@pytest.mark.parametrize("kind", ["start", "signal with start"])
async def test_of_starters_at_the_same_time_the_last_one_stays(service: Service, database_url: str, kind: str) -> None:
    """On two replicas of two committers: one run of the name is open at any time; the others name their successors."""

    async def one(replica: Service) -> str:
        if kind == "start":
            return str((await replica.runs.StartRun(start(), timeout=60)).run_id)
        return str((await replica.runs.SignalWithStartRun(with_start(), timeout=60)).run_id)

    first = (await service.runs.StartRun(start(), timeout=TIMEOUT)).run_id
    async with serving(database_url, committers=2) as left, serving(database_url, committers=2) as right:
        counts: set[int] = set()
        enough = asyncio.Event()
        counting = asyncio.create_task(_count(database_url, counts, enough))
        run_ids = await asyncio.gather(*(one(replica) for replica in (left, right) * (STARTERS // 2)))
        enough.set()
        await counting
    assert counts == {1}
    ends = {run_id: await end_of(service, run_id) for run_id in [first, *run_ids]}
    assert len(ends) == STARTERS + 1
    (stays,) = [run_id for run_id, (phase, _) in ends.items() if phase == PENDING]
    named = (await service.runs.GetRun(runs_pb2.GetRunRequest(workflow_id="w"), timeout=TIMEOUT)).run
    assert named.run_id == stays
    successors = {run_id: reason.removeprefix("replaced by run ") for run_id, (phase, reason) in ends.items() if reason}
    assert len(successors) == STARTERS
    assert len(set(successors.values())) == STARTERS
    line = [first]
    while line[-1] in successors:
        line.append(successors[line[-1]])
    assert set(line) == set(ends)
    assert line[-1] == stays


async def _count(database_url: str, counts: set[int], enough: asyncio.Event) -> None:
    """Looks how many runs of the name are open, again and again until it is enough."""
    raw = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    try:
        counts.add(await raw.fetchval(OPEN))
        while not enough.is_set():
            counts.add(await raw.fetchval(OPEN))
    finally:
        await raw.close()
