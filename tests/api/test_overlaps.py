"""Schedules that come due while their runs are in hand, go on under another id, or are paused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from typing import Any

import grpc.aio
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from tests.api.schedule_kit import HOUR, P, World, eventually, scheduling, stamp
from tests.stream.calls import Caller, code_of
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN

from stepwell.v1 import definitions_pb2, definitions_pb2_grpc, runs_pb2, types_pb2, workers_pb2, workers_pb2_grpc

RUNNING, CANCELLED = types_pb2.RUN_PHASE_RUNNING, types_pb2.RUN_PHASE_CANCELLED


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    # What a worker has in hand stays there, however slow the machine is.
    async with scheduling(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


async def in_hand(world: World, channel: grpc.aio.Channel) -> Code:
    """The schedule's first run, which a worker has begun."""
    workers: Any = workers_pb2_grpc.WorkerServiceStub(channel)
    replica: Any = type("Workers", (), {"workers": workers})
    caller = await Caller.of(replica, task_queues=["default"], workflow_types=["t"])
    world.advance(HOUR)
    await world.past()
    return code_of(caller, (await caller.claim(kind=RUN))[0])


async def test_cancel_other_asks_a_run_in_hand_and_waits_for_its_end(world: World) -> None:
    """Of the firings that come meanwhile the last one waits."""
    await world.create(overlap_policy=P.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER)
    async with grpc.aio.insecure_channel(world.service.address) as channel:
        code = await in_hand(world, channel)
        world.advance(HOUR)
        after = await world.past()
        assert (after.fired_count, after.waiting_count, after.skipped_count) == (1, 1, 0)
        (first,) = await world.started()
        assert (first.phase, first.HasField("cancel_request")) == (RUNNING, True)
        world.advance(HOUR)
        after = await world.past()
        assert (after.fired_count, after.waiting_count, after.skipped_count) == (1, 1, 1)
        assert (await code.tell(cancelled=workers_pb2.CancelledRun())).status == ACCEPTED

    async def has_fired() -> Any:
        found = await world.get()
        return found if found.fired_count == 2 else None

    after = await eventually(has_fired)
    cancelled, second = await world.started()
    assert (cancelled.run_id, cancelled.phase, after.waiting_count) == (first.run_id, CANCELLED, 0)
    assert after.last_run_id == second.run_id
    assert after.last_time.ToDatetime(UTC) == after.next_time.ToDatetime(UTC) - HOUR


async def test_a_run_that_went_on_as_a_new_one_is_still_open(world: World) -> None:
    await world.create(overlap_policy=P.SCHEDULE_OVERLAP_POLICY_SKIP)
    async with grpc.aio.insecure_channel(world.service.address) as channel:
        code = await in_hand(world, channel)
        assert (await code.tell(continue_as_new=workers_pb2.ContinueAsNew())).status == ACCEPTED
    world.advance(HOUR)
    after = await world.past()
    assert (after.fired_count, after.skipped_count) == (1, 1)


async def test_a_paused_schedule_is_patched_and_noted_and_does_not_fire(world: World) -> None:
    await world.create()
    await world.calls.PauseSchedule(P.PauseScheduleRequest(name="nightly"))
    changed = P.Schedule(name="nightly", spec=P.ScheduleSpec(cron="30 * * * *"))
    request = P.UpdateScheduleRequest(schedule=changed, update_mask=FieldMask(paths=["spec.cron"]))
    patched = (await world.calls.UpdateSchedule(request)).schedule
    assert (patched.spec.cron, patched.HasField("next_time"), patched.paused) == ("30 * * * *", False, True)
    now = world.service.clock.now()
    noted = P.RecordScheduleRunRequest(
        name="nightly", last_time=stamp(now), next_time=stamp(now + timedelta(minutes=1)), workflow_id="theirs"
    )
    await world.calls.RecordScheduleRun(noted)
    # Another one, due at the same time, shows that the leader has looked.
    await world.create("beside", next_time=stamp(now + timedelta(minutes=1)))
    world.advance(timedelta(minutes=2))
    assert (await world.past("beside")).fired_count == 1
    assert ((await world.get()).fired_count, await world.started()) == (0, [])
    resumed = (await world.calls.ResumeSchedule(P.ResumeScheduleRequest(name="nightly"))).schedule
    assert resumed.next_time.ToDatetime(UTC).minute == 30
    assert resumed.next_time.ToDatetime(UTC) > world.service.clock.now()


async def test_a_schedule_tells_that_its_definition_is_gone(world: World) -> None:
    """What a schedule would start is not held for it; it fires again once the definition is there again."""
    async with grpc.aio.insecure_channel(world.service.address) as channel:
        definitions: Any = definitions_pb2_grpc.DefinitionServiceStub(channel)

        async def define() -> None:
            made = definitions_pb2.Definition(code="order", name="order")
            await definitions.CreateDefinition(definitions_pb2.CreateDefinitionRequest(definition=made))

        await define()
        run = runs_pb2.StartRunRequest(type="t", definition=definitions_pb2.DefinitionRef(code="order"))
        await world.create(run=run)
        gone = await definitions.DeleteDefinition(definitions_pb2.DeleteDefinitionRequest(code="order"))
        assert gone.deleted_count == 1
        world.advance(HOUR)
        after = await world.past()
        assert (after.fired_count, "order" in after.last_error) == (0, True)
        await define()
        world.advance(HOUR)
        after = await world.past()
        assert (after.fired_count, after.last_error) == (1, "")
