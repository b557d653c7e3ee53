"""Patches of schedules that are due: what is due by then fires, or is counted as missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from typing import Any

import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from tests.api.schedule_kit import HOUR, P, World, scheduling
from tests.service import refusal

from stepwell.v1 import runs_pb2, types_pb2
from stepwell_server.loops.schedules import Schedules

ALL = P.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """Nobody fires but the test."""
    async with scheduling(database_url) as made:
        await made.service.leader.stop()
        yield made


def loop_of(world: World) -> Schedules:
    return Schedules(world.service.duties.shared, world.service.committers, world.service.clock, 60.0)


async def patch(world: World, paths: list[str], **fields: Any) -> Any:
    schedule = P.Schedule(name="nightly", **fields)
    request = P.UpdateScheduleRequest(schedule=schedule, update_mask=FieldMask(paths=paths))
    return (await world.calls.UpdateSchedule(request)).schedule


async def test_a_patch_of_what_is_no_time_leaves_a_due_firing_due(world: World) -> None:
    made = await world.create()
    world.advance(HOUR)
    run = runs_pb2.StartRunRequest(input=types_pb2.Payload(json="2"))
    for paths, fields in (
        (["run.input"], {"run": run}),
        (["overlap_policy"], {"overlap_policy": ALL}),
        (["catchup_window"], {"catchup_window": Duration(seconds=7_200)}),
        (["spec.cron"], {"spec": made.spec}),
    ):
        patched = await patch(world, paths, **fields)
        assert (patched.next_time, patched.waiting_count) == (made.next_time, 0)
    assert await loop_of(world).run_once() == 1
    (run,) = await world.started()
    after = await world.get()
    assert (after.fired_count, after.missed_count, after.last_time) == (1, 0, made.next_time)
    assert (await world.runs.GetRun(runs_pb2.GetRunRequest(run_id=run.run_id))).run.input.json == "2"


async def test_a_patch_of_the_times_lets_a_due_firing_fire_all_the_same(world: World) -> None:
    made = await world.create()
    world.advance(HOUR)
    patched = await patch(world, ["spec.cron"], spec=P.ScheduleSpec(cron="30 3 * * *"))
    assert patched.next_time.ToDatetime(UTC) > world.service.clock.now()
    assert (patched.waiting_count, patched.missed_count) == (1, 0)
    assert (await world.get()) == patched
    assert await loop_of(world).run_once() == 1
    after = await world.get()
    assert (after.fired_count, after.waiting_count, after.skipped_count) == (1, 0, 0)
    assert (after.last_time, after.next_time) == (made.next_time, patched.next_time)
    assert len(await world.started()) == 1


async def test_what_was_due_too_long_ago_is_counted_as_missed(world: World) -> None:
    await world.create(overlap_policy=ALL, catchup_window=Duration(seconds=5_400))
    world.advance(4 * HOUR)
    patched = await patch(world, ["spec.time_zone"], spec=P.ScheduleSpec(time_zone="Asia/Kolkata"))
    assert patched.waiting_count + patched.missed_count == 4
    assert patched.waiting_count in {1, 2}
    assert await loop_of(world).run_once() == 1
    after = await world.get()
    assert (after.fired_count, after.missed_count) == (patched.waiting_count, patched.missed_count)


async def test_a_patch_of_the_times_waits_for_a_crowd_that_is_due(world: World) -> None:
    made = await world.create(cron="* * * * * *", catchup_window=Duration(seconds=1))
    world.advance(timedelta(seconds=1_500))
    call = patch(world, ["spec.cron"], spec=P.ScheduleSpec(cron="@daily"))
    assert await refusal(call) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert (await world.get()).next_time == made.next_time
    await loop_of(world).run_once()
    patched = await patch(world, ["spec.cron"], spec=P.ScheduleSpec(cron="@daily"))
    assert (patched.spec.cron, patched.missed_count >= 1_498) == ("@daily", True)


async def test_a_paused_schedule_owes_nothing(world: World) -> None:
    await world.create()
    await world.calls.PauseSchedule(P.PauseScheduleRequest(name="nightly"))
    world.advance(3 * HOUR)
    patched = await patch(world, ["spec.cron"], spec=P.ScheduleSpec(cron="@daily"))
    assert (patched.waiting_count, patched.missed_count, patched.HasField("next_time")) == (0, 0, False)


async def test_what_is_due_when_a_schedule_is_paused_is_missed(world: World) -> None:
    made = await world.create()
    world.advance(2 * HOUR)
    paused = (await world.calls.PauseSchedule(P.PauseScheduleRequest(name="nightly"))).schedule
    assert (paused.missed_count, paused.HasField("next_time")) == (2, False)
    await world.calls.ResumeSchedule(P.ResumeScheduleRequest(name="nightly"))
    again = (await world.calls.PauseSchedule(P.PauseScheduleRequest(name="nightly"))).schedule
    assert (again.missed_count, again.fired_count, made.missed_count) == (2, 0, 0)
