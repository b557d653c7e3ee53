"""Schedules fired by the service's leader, over the wire: on time, once, and as their policies say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.api.schedule_kit import HOUR, P, World, eventually, scheduling, stamp
from tests.service import refusal

from stepwell.v1 import runs_pb2, types_pb2
from stepwell_server.loops.schedules import Schedules


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with scheduling(database_url) as made:
        yield made


def top_of_the_hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


# --- firing -----------------------------------------------------------------------------------------------------------


async def test_a_schedule_does_not_fire_when_it_is_made_and_fires_on_time(world: World) -> None:
    made = await world.create()
    nominal = top_of_the_hour(world.service.clock.now()) + HOUR
    assert made.next_time.ToDatetime(UTC) == nominal
    assert await world.started() == []
    world.advance(HOUR)
    after = await world.past()
    (run,) = await world.started()
    text = nominal.isoformat().replace("+00:00", "Z")
    assert (run.workflow_id, run.type, run.correlation_id) == (f"nightly-{text}", "t", "nightly")
    assert (after.fired_count, after.last_run_id, after.last_workflow_id) == (1, run.run_id, run.workflow_id)
    assert after.last_time.ToDatetime(UTC) == nominal
    assert after.next_time.ToDatetime(UTC) == nominal + HOUR


async def test_a_first_time_that_has_passed_fires_once(world: World) -> None:
    """Assay's `schedule_with_elapsed_next_run_fires_on_catch_up`."""
    minute_ago = world.service.clock.now() - timedelta(minutes=1)
    await world.create(next_time=stamp(minute_ago))
    after = await world.past()
    assert after.fired_count == 1
    assert len(await world.started()) == 1


async def test_two_leaders_fire_a_time_once(world: World) -> None:
    service = world.service
    await service.leader.stop()
    for place in range(20):
        await world.create(f"s{place}", overlap_policy=P.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL)
        await world.create(f"one{place}")
    world.advance(3 * HOUR)
    both = [Schedules(service.duties.shared, service.committers, service.clock, 60.0) for _ in range(2)]
    await asyncio.gather(*(leader.run_once() for leader in both))
    counts = [len(await world.started(f"s{place}")) for place in range(20)]
    assert counts == [3] * 20
    assert [(await world.get(f"s{place}")).fired_count for place in range(20)] == [3] * 20
    left_out = [await world.get(f"one{place}") for place in range(20)]
    assert [(each.fired_count, each.skipped_count) for each in left_out] == [(1, 2)] * 20


async def test_a_crash_between_the_start_and_its_note_starts_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.service.leader.stop()
    await world.create()
    world.advance(HOUR)
    loop = Schedules(world.service.duties.shared, world.service.committers, world.service.clock, 60.0)
    with monkeypatch.context() as cut:

        async def dies(*_: Any) -> int:
            raise ConnectionResetError

        cut.setattr("stepwell_server.store.schedules.write_fired", dies)
        with pytest.raises(ConnectionResetError):
            await loop.run_once()
    assert (len(await world.started()), (await world.get()).last_run_id) == (1, "")
    assert await loop.run_once() == 1
    (run,) = await world.started()
    assert (await world.get()).last_run_id == run.run_id


async def test_a_start_that_is_not_decided_on_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.service.leader.stop()
    await world.create()
    world.advance(HOUR)
    loop = Schedules(world.service.duties.shared, world.service.committers, world.service.clock, 60.0)
    with monkeypatch.context() as full:

        async def refuses(_: Any, orders: list[Any]) -> list[object]:
            return [ConnectionError("no") for _ in orders]

        full.setattr("stepwell_server.loops.schedules.submit_all", refuses)
        assert await loop.run_once() == 0
    assert await loop.run_once() == 1
    assert (await world.get()).fired_count == 1


# --- overlap ----------------------------------------------------------------------------------------------------------


async def fired_twice(world: World, policy: Any) -> tuple[Any, Any]:
    """A schedule that came due again while its first run is open, and that first run."""
    await world.create(overlap_policy=policy)
    world.advance(HOUR)
    await world.past()
    (first,) = await world.started()
    world.advance(HOUR)
    return await world.past(), first


async def test_skip_leaves_the_firing_out(world: World) -> None:
    after, first = await fired_twice(world, P.SCHEDULE_OVERLAP_POLICY_SKIP)
    assert (after.fired_count, after.skipped_count, after.waiting_count) == (1, 1, 0)
    await world.end(first.run_id)
    world.advance(HOUR)
    assert (await world.past()).fired_count == 2


async def test_buffer_one_waits_for_the_end(world: World) -> None:
    after, first = await fired_twice(world, P.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE)
    assert (after.fired_count, after.waiting_count) == (1, 1)
    world.advance(HOUR)
    after = await world.past()
    assert (after.fired_count, after.waiting_count, after.skipped_count) == (1, 1, 1)
    await world.end(first.run_id)

    async def has_fired() -> bool:
        return bool((await world.get()).fired_count == 2)

    await eventually(has_fired)
    after = await world.get()
    assert after.waiting_count == 0
    assert after.last_time.ToDatetime(UTC) == after.next_time.ToDatetime(UTC) - 2 * HOUR


async def test_terminate_other_makes_way(world: World) -> None:
    after, first = await fired_twice(world, P.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER)
    ended, second = await world.started()
    assert (ended.run_id, ended.phase) == (first.run_id, types_pb2.RUN_PHASE_TERMINATED)
    assert (after.fired_count, after.last_run_id) == (2, second.run_id)


async def test_cancel_other_asks_and_waits(world: World) -> None:
    # A run that a worker holds is asked; one that nobody has begun ends at once.
    after, first = await fired_twice(world, P.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER)

    async def has_fired() -> Any:
        found = await world.get()
        return found if found.fired_count == 2 else None

    after = await eventually(has_fired)
    cancelled, second = await world.started()
    assert (cancelled.run_id, cancelled.phase) == (first.run_id, types_pb2.RUN_PHASE_CANCELLED)
    assert (after.waiting_count, after.last_run_id) == (0, second.run_id)


async def test_allow_all_goes_ahead(world: World) -> None:
    after, _ = await fired_twice(world, P.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL)
    assert after.fired_count == 2
    assert [run.phase for run in await world.started()] == [types_pb2.RUN_PHASE_PENDING] * 2


# --- pause, trigger, backfill -----------------------------------------------------------------------------------------


async def test_a_resumed_schedule_does_not_make_up_for_its_pause(world: World) -> None:
    await world.create(overlap_policy=P.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL)
    paused = await world.calls.PauseSchedule(P.PauseScheduleRequest(name="nightly", reason="holidays"))
    assert (paused.accepted, paused.schedule.pause_reason) == (True, "holidays")
    assert not paused.schedule.HasField("next_time")
    assert not (await world.calls.PauseSchedule(P.PauseScheduleRequest(name="nightly"))).accepted
    world.advance(5 * HOUR)
    resumed = await world.calls.ResumeSchedule(P.ResumeScheduleRequest(name="nightly"))
    assert resumed.accepted
    assert resumed.schedule.next_time.ToDatetime(UTC) > world.service.clock.now()
    assert not (await world.calls.ResumeSchedule(P.ResumeScheduleRequest(name="nightly"))).accepted
    world.advance(HOUR)
    assert (await world.past()).fired_count == 1


async def test_a_trigger_starts_a_run_once_for_a_request_id(world: World) -> None:
    await world.create()
    request = P.TriggerScheduleRequest(name="nightly", request_id="now")
    first, again = [await world.calls.TriggerSchedule(request) for _ in range(2)]
    assert (first.started, again.started) == (True, False)
    assert (first.run_id, first.workflow_id) == (again.run_id, again.workflow_id)
    skipped = await world.calls.TriggerSchedule(P.TriggerScheduleRequest(name="nightly", skip_if_open=True))
    assert (skipped.started, skipped.run_id) == (False, first.run_id)
    assert (await world.calls.TriggerSchedule(P.TriggerScheduleRequest(name="nightly"))).started
    assert (await world.get()).fired_count == 2
    assert len(await world.started()) == 2


async def test_a_backfill_fires_each_time_of_its_span_once(world: World) -> None:
    await world.create()
    end = top_of_the_hour(world.service.clock.now())
    request = P.BackfillScheduleRequest(name="nightly", start_time=stamp(end - 100 * HOUR), end_time=stamp(end))
    assert (await world.calls.BackfillSchedule(request)).times == 100
    assert (await world.calls.BackfillSchedule(request)).times == 100

    async def is_done() -> Any:
        found = await world.get()
        return found if not found.waiting_count else None

    after = await eventually(is_done)
    listed = await world.runs.ListRuns(runs_pb2.ListRunsRequest(correlation_id="nightly", page_size=1000))
    assert (after.fired_count, len(listed.runs)) == (100, 100)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"end_time": stamp(datetime(2100, 1, 1, tzinfo=UTC))}, "INVALID_FIELD"),
        ({"start_time": None}, "INVALID_FIELD"),
        ({"start_time": stamp(datetime(2000, 1, 1, tzinfo=UTC))}, "LIMIT_EXCEEDED"),
    ],
)
async def test_a_backfill_is_bounded(world: World, fields: dict[str, Any], reason: str) -> None:
    await world.create()
    now = world.service.clock.now()
    span = {"start_time": stamp(now - HOUR), "end_time": stamp(now)}
    call = world.calls.BackfillSchedule(P.BackfillScheduleRequest(name="nightly", **{**span, **fields}))
    assert (await refusal(call))[1] == reason
