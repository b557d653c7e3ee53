"""Schedules over the wire, fired by the service's leader, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from tests.engine.replica import look
from tests.loops.rig import rig_settings
from tests.service import refusal

from stepwell.v1 import namespaces_pb2, namespaces_pb2_grpc, runs_pb2, runs_pb2_grpc, schedules_pb2, types_pb2
from stepwell.v1.schedules_pb2_grpc import ScheduleServiceStub
from stepwell_server.clock import TestClock
from stepwell_server.loops.schedules import Schedules
from stepwell_server.service import Service

P = schedules_pb2
QUICK = {"test_clock": True, "schedule_poll_seconds": 0.05}
HOUR = timedelta(hours=1)


class World:
    """A service, its stubs, and what a test asks of them."""

    def __init__(self, service: Service, channel: Any) -> None:
        self.service = service
        self.calls: Any = ScheduleServiceStub(channel)
        self.runs: Any = runs_pb2_grpc.RunServiceStub(channel)
        self.namespaces: Any = namespaces_pb2_grpc.NamespaceServiceStub(channel)

    async def create(self, name: str = "nightly", cron: str = "0 * * * *", **fields: Any) -> Any:
        run = fields.pop("run", runs_pb2.StartRunRequest(type="t", input=types_pb2.Payload(json="1")))
        next_time, spec = fields.pop("next_time", None), fields.pop("spec", P.ScheduleSpec(cron=cron))
        made = P.Schedule(name=name, spec=spec, run=run, **fields)
        return (await self.calls.CreateSchedule(P.CreateScheduleRequest(schedule=made, next_time=next_time))).schedule

    async def get(self, name: str = "nightly") -> Any:
        return (await self.calls.GetSchedule(P.GetScheduleRequest(name=name))).schedule

    def advance(self, by: timedelta) -> None:
        clock = self.service.clock
        assert isinstance(clock, TestClock)
        clock.advance(by)
        self.service.schedules.wake()

    async def past(self, name: str = "nightly") -> Any:
        """The schedule, once the leader has looked at all that is due by now."""

        async def looked() -> Any:
            found = await self.get(name)
            soon = found.next_time.ToDatetime(UTC) > self.service.clock.now()
            return found if soon or not found.HasField("next_time") else None

        return await eventually(looked)

    async def started(self, name: str = "nightly") -> list[Any]:
        """The schedule's runs, oldest first."""
        listed = await self.runs.ListRuns(runs_pb2.ListRunsRequest(correlation_id=name))
        return list(reversed(listed.runs))

    async def end(self, run_id: str) -> None:
        assert (await self.runs.TerminateRun(runs_pb2.TerminateRunRequest(run_id=run_id))).accepted


async def eventually(look: Any) -> Any:
    """What another task does in its own time."""
    async with asyncio.timeout(20):
        while not (found := await look()):  # noqa: ASYNC110 - the service is remote
            await asyncio.sleep(0.02)
    return found


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with (
        Service(rig_settings(database_url, **QUICK)) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        await service.leader.wait_elected()
        yield World(service, channel)


def stamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


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
    both = [Schedules(service._connection, service.committers, service.clock, 60.0) for _ in range(2)]
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
    loop = Schedules(world.service._connection, world.service.committers, world.service.clock, 60.0)
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
    loop = Schedules(world.service._connection, world.service.committers, world.service.clock, 60.0)
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


# --- pause, patch, trigger, backfill ----------------------------------------------------------------------------------


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


async def test_a_patch_reckons_the_next_firing_anew_and_keeps_the_rest(world: World) -> None:
    made = await world.create()
    changed = P.Schedule(name="nightly", spec=P.ScheduleSpec(cron="30 3 * * *"), run=runs_pb2.StartRunRequest(type="x"))
    mask = FieldMask(paths=["spec.cron"])
    after = (await world.calls.UpdateSchedule(P.UpdateScheduleRequest(schedule=changed, update_mask=mask))).schedule
    assert after.next_time != made.next_time
    assert after.next_time.ToDatetime(UTC).minute == 30
    assert (after.run, after.overlap_policy, after.create_time) == (made.run, made.overlap_policy, made.create_time)
    changed.run.input.json = "2"
    mask = FieldMask(paths=["run.input", "overlap_policy"])
    after = (await world.calls.UpdateSchedule(P.UpdateScheduleRequest(schedule=changed, update_mask=mask))).schedule
    assert (after.run.type, after.run.input.json, after.spec.cron) == ("t", "2", "30 3 * * *")


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


# --- the noun ---------------------------------------------------------------------------------------------------------


async def test_a_schedule_is_made_found_listed_and_deleted(world: World) -> None:
    for name in ("b", "a", "c"):
        await world.create(name)
    again = world.calls.CreateSchedule(
        P.CreateScheduleRequest(
            schedule=P.Schedule(name="a", spec=P.ScheduleSpec(cron="@daily"), run=runs_pb2.StartRunRequest(type="t"))
        )
    )
    assert await refusal(again) == ("ALREADY_EXISTS", "SCHEDULE_EXISTS")
    listed = await world.calls.ListSchedules(P.ListSchedulesRequest(page_size=2))
    rest = await world.calls.ListSchedules(P.ListSchedulesRequest(page_size=2, page_token=listed.next_page_token))
    assert [each.name for each in (*listed.schedules, *rest.schedules)] == ["a", "b", "c"]
    assert [(await world.calls.DeleteSchedule(P.DeleteScheduleRequest(name="a"))).deleted for _ in range(2)] == [
        True,
        False,
    ]
    gone = world.calls.GetSchedule(P.GetScheduleRequest(name="a"))
    assert await refusal(gone) == ("NOT_FOUND", "SCHEDULE_NOT_FOUND")


async def test_nothing_crosses_namespaces(world: World) -> None:
    await world.create("mine")
    await world.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    other: dict[str, Any] = {"namespace": "other", "name": "mine"}
    calls = world.calls
    for call in (
        calls.GetSchedule(P.GetScheduleRequest(**other)),
        calls.PauseSchedule(P.PauseScheduleRequest(**other)),
        calls.ResumeSchedule(P.ResumeScheduleRequest(**other)),
        calls.TriggerSchedule(P.TriggerScheduleRequest(**other)),
        calls.PreviewSchedule(P.PreviewScheduleRequest(**other)),
    ):
        assert await refusal(call) == ("NOT_FOUND", "SCHEDULE_NOT_FOUND")
    assert not (await calls.DeleteSchedule(P.DeleteScheduleRequest(**other))).deleted
    assert not (await calls.ListSchedules(P.ListSchedulesRequest(namespace="other"))).schedules


async def test_a_namespace_with_a_schedule_is_not_deleted(world: World) -> None:
    await world.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="kept"))
    made = P.Schedule(name="s", spec=P.ScheduleSpec(cron="@daily"), run=runs_pb2.StartRunRequest(type="t"))
    await world.calls.CreateSchedule(P.CreateScheduleRequest(namespace="kept", schedule=made))
    call = world.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(namespace="kept"))
    assert await refusal(call) == ("FAILED_PRECONDITION", "NAMESPACE_NOT_EMPTY")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "a\0b"},
        {"cron": "* * *"},
        {"spec": P.ScheduleSpec(cron="@daily", time_zone="Nowhere")},
        {"run": runs_pb2.StartRunRequest()},
        {"run": runs_pb2.StartRunRequest(type="t", run_id="01890a5d-ac96-774b-bcce-b302099a8057")},
        {"run": runs_pb2.StartRunRequest(type="t", request_id="r")},
        {"run": runs_pb2.StartRunRequest(type="t", namespace="other")},
        {"overlap_policy": 17},
    ],
)
async def test_bad_schedules_are_refused(world: World, fields: dict[str, Any]) -> None:
    assert await refusal(world.create(**fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


@pytest.mark.parametrize("paths", [[], ["name"], ["paused"], ["spec.nothing"], ["fired_count"]])
async def test_bad_masks_are_refused(world: World, paths: list[str]) -> None:
    await world.create()
    request = P.UpdateScheduleRequest(schedule=P.Schedule(name="nightly"), update_mask=FieldMask(paths=paths))
    assert await refusal(world.calls.UpdateSchedule(request)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_all_of_what_a_run_is_given_is_kept(world: World) -> None:
    """A field of StartRunRequest that a schedule would lose turns this red."""
    theirs = {"namespace", "run_id", "request_id", "reuse_policy", "conflict_policy"}
    numbers = itertools.count(1)
    run = runs_pb2.StartRunRequest()
    for field in run.DESCRIPTOR.fields:
        if field.name in theirs:
            continue
        if field.message_type is None:
            setattr(run, field.name, "text" if field.type == field.TYPE_STRING else 3)
        else:
            _fill(getattr(run, field.name), numbers)
    made = await world.create(run=run)
    assert made.run == run
    assert (await world.get()).run == run


def _fill(message: Any, numbers: Any) -> None:
    """Gives a message values that are all different."""
    if "json" in message.DESCRIPTOR.fields_by_name:
        message.json = '"text"'
    elif message.DESCRIPTOR.full_name == "google.protobuf.Duration":
        message.seconds = next(numbers)
    else:
        for field in message.DESCRIPTOR.fields:
            if field.is_repeated:
                getattr(message, field.name).append("text")
            elif field.message_type is not None:
                _fill(getattr(message, field.name), numbers)
            else:
                setattr(message, field.name, next(numbers))


async def test_a_preview_tells_times_of_a_schedule_and_of_a_spec(world: World) -> None:
    await world.create()
    after = stamp(datetime(2030, 1, 1, tzinfo=UTC))
    mine = await world.calls.PreviewSchedule(P.PreviewScheduleRequest(name="nightly", after=after, count=2))
    assert [time.ToDatetime(UTC).hour for time in mine.times] == [1, 2]
    spec = P.ScheduleSpec(cron="0 9 * * MON", time_zone="Europe/Berlin")
    told = await world.calls.PreviewSchedule(P.PreviewScheduleRequest(spec=spec, after=after))
    assert len(told.times) == 10
    assert told.times[0].ToDatetime(UTC) == datetime(2030, 1, 7, 8, tzinfo=UTC)


async def test_an_outside_engine_notes_its_firing(world: World) -> None:
    await world.create()
    last, following = datetime(2030, 1, 1, tzinfo=UTC), datetime(2100, 1, 2, tzinfo=UTC)
    request = P.RecordScheduleRunRequest(
        name="nightly", last_time=stamp(last), next_time=stamp(following), workflow_id="w-1"
    )
    noted = (await world.calls.RecordScheduleRun(request)).schedule
    assert (noted.last_time, noted.next_time, noted.last_workflow_id) == (stamp(last), stamp(following), "w-1")


async def test_none_comes_into_a_namespace_that_was_deleted_elsewhere(world: World, database_url: str) -> None:
    """Also where it is still taken for known."""
    await world.namespaces.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="b"))
    assert not (await world.calls.ListSchedules(P.ListSchedulesRequest(namespace="b"))).schedules
    async with look(database_url) as database:
        await database.rows("DELETE FROM namespaces WHERE name = 'b'")
    run = runs_pb2.StartRunRequest(type="t")
    made = P.Schedule(name="nightly", spec=P.ScheduleSpec(cron="@daily"), run=run)
    call = world.calls.CreateSchedule(P.CreateScheduleRequest(namespace="b", schedule=made))
    assert await refusal(call) == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")
