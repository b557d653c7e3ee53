"""Overlap policies look at all open runs that a schedule has started, not at the latest one alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from tests.api.schedule_kit import HOUR, P, World, eventually, scheduling, stamp
from tests.engine.replica import look
from tests.stream.calls import Caller, code_of
from tests.stream.kit import ACCEPTED, RUN

from stepwell.v1 import retention_pb2, retention_pb2_grpc, runs_pb2, types_pb2, workers_pb2, workers_pb2_grpc
from stepwell_server.store import schedule_runs

TERMINATED, CANCELLED = types_pb2.RUN_PHASE_TERMINATED, types_pb2.RUN_PHASE_CANCELLED
KNOWN = "SELECT workflow_id FROM stepwell.schedule_runs ORDER BY workflow_id"


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with scheduling(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


async def trigger(world: World, **fields: Any) -> Any:
    return await world.calls.TriggerSchedule(P.TriggerScheduleRequest(name="nightly", **fields))


async def first_and_beside(world: World, policy: Any) -> tuple[str, str]:
    """A run that the clock started and one that was triggered beside it, both open."""
    await world.create(overlap_policy=policy)
    world.advance(HOUR)
    first = (await world.past()).last_run_id
    beside = await trigger(world)
    assert beside.started
    return first, beside.run_id


async def fired(world: World, count: int) -> Any:
    async def has_fired() -> Any:
        found = await world.get()
        return found if found.fired_count == count and not found.waiting_count else None

    return await eventually(has_fired)


async def phases(world: World) -> dict[str, int]:
    return {run.run_id: run.phase for run in await world.started()}


async def test_skip_heeds_an_older_run_when_the_latest_has_ended(world: World) -> None:
    first, beside = await first_and_beside(world, P.SCHEDULE_OVERLAP_POLICY_SKIP)
    await world.end(beside)
    world.advance(HOUR)
    after = await world.past()
    assert (after.fired_count, after.skipped_count) == (2, 1)
    await world.end(first)
    world.advance(HOUR)
    after = await world.past()
    assert (after.fired_count, after.skipped_count) == (3, 1)


async def test_an_older_run_that_went_on_as_a_new_one_is_heeded(world: World) -> None:
    await world.create(overlap_policy=P.SCHEDULE_OVERLAP_POLICY_SKIP)
    async with grpc.aio.insecure_channel(world.service.address) as channel:
        workers: Any = workers_pb2_grpc.WorkerServiceStub(channel)
        replica: Any = type("Workers", (), {"workers": workers})
        caller = await Caller.of(replica, task_queues=["default"], workflow_types=["t"])
        world.advance(HOUR)
        await world.past()
        code = code_of(caller, (await caller.claim(kind=RUN))[0])
        assert (await code.tell(continue_as_new=workers_pb2.ContinueAsNew())).status == ACCEPTED
    await world.end((await trigger(world)).run_id)
    world.advance(HOUR)
    after = await world.past()
    assert (after.fired_count, after.skipped_count) == (2, 1)


async def test_buffer_one_waits_for_all(world: World) -> None:
    first, beside = await first_and_beside(world, P.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE)
    world.advance(HOUR)
    assert (await world.past()).waiting_count == 1
    await world.end(beside)
    world.advance(HOUR)
    # The leader has looked once more, and leaves this one out since another waits.
    after = await world.past()
    assert (after.fired_count, after.waiting_count, after.skipped_count) == (2, 1, 1)
    await world.end(first)
    assert (await fired(world, 3)).skipped_count == 1


@pytest.mark.parametrize(
    ("policy", "phase"),
    [
        (P.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER, TERMINATED),
        (P.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER, CANCELLED),
    ],
)
async def test_all_of_them_make_way(world: World, policy: Any, phase: Any) -> None:
    first, beside = await first_and_beside(world, policy)
    world.advance(HOUR)
    after = await fired(world, 3)
    found = await phases(world)
    assert {found.pop(first), found.pop(beside)} == {phase}
    assert found == {after.last_run_id: types_pb2.RUN_PHASE_PENDING}


async def test_a_trigger_that_is_to_skip_finds_an_older_run(world: World) -> None:
    first, beside = await first_and_beside(world, P.SCHEDULE_OVERLAP_POLICY_SKIP)
    assert (await trigger(world, skip_if_open=True)).run_id == beside
    await world.end(beside)
    left = await trigger(world, skip_if_open=True)
    assert (left.started, left.run_id) == (False, first)
    await world.end(first)
    assert (await trigger(world, skip_if_open=True)).started


async def test_what_has_ended_is_forgotten_and_a_deleted_schedule_keeps_nothing(
    world: World, database_url: str
) -> None:
    first, beside = await first_and_beside(world, P.SCHEDULE_OVERLAP_POLICY_SKIP)
    async with look(database_url) as database:
        assert len(await database.rows(KNOWN)) == 2
        await world.end(beside)
        world.advance(HOUR)
        await world.past()
        (name,) = [run.workflow_id for run in await world.started() if run.run_id == first]
        assert [row[0] for row in await database.rows(KNOWN)] == [name]
        await world.calls.DeleteSchedule(P.DeleteScheduleRequest(name="nightly"))
        assert await database.rows(KNOWN) == []


async def test_a_run_that_was_removed_holds_nothing_up(world: World, database_url: str) -> None:
    first, beside = await first_and_beside(world, P.SCHEDULE_OVERLAP_POLICY_SKIP)
    async with grpc.aio.insecure_channel(world.service.address) as channel:
        retention: Any = retention_pb2_grpc.RetentionServiceStub(channel)
        for run_id in (first, beside):
            await world.end(run_id)
            await retention.DeleteRun(retention_pb2.DeleteRunRequest(run_id=run_id))
    world.advance(HOUR)
    after = await world.past()
    assert (after.fired_count, after.skipped_count) == (3, 0)
    async with look(database_url) as database:
        assert [row[0] for row in await database.rows(KNOWN)] == [after.last_workflow_id]


async def test_under_allow_all_the_newest_are_known(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_runs, "MOST_RUNS", 3)
    await world.create(overlap_policy=P.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL)
    world.advance(5 * HOUR)
    await world.past()
    names = sorted(run.workflow_id for run in await world.started())
    assert len(names) == 5

    async def cut() -> list[str]:
        rows = [row[0] for row in await database.rows(KNOWN)]
        return rows if len(rows) == 3 else []

    async with look(database_url) as database:
        assert await eventually(cut) == names[-3:]
        beside = await trigger(world)
        known = {row[0] for row in await database.rows(KNOWN)}
        assert known == {*names[-2:], beside.workflow_id}


async def test_what_an_outside_engine_noted_is_heeded(world: World) -> None:
    await world.create()
    theirs = await world.runs.StartRun(runs_pb2.StartRunRequest(type="t", workflow_id="theirs"))
    now = world.service.clock.now()
    for name in ("theirs", "gone"):
        noted = P.RecordScheduleRunRequest(
            name="nightly", last_time=stamp(now), next_time=stamp(now + timedelta(minutes=1)), workflow_id=name
        )
        await world.calls.RecordScheduleRun(noted)
    world.advance(timedelta(minutes=1))
    after = await world.past()
    assert (after.fired_count, after.skipped_count) == (0, 1)
    await world.end(theirs.run_id)
    world.advance(HOUR)
    assert (await world.past()).fired_count == 1
