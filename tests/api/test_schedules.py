"""Schedules over the wire: made, found, changed and deleted, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from tests.api.schedule_kit import P, World, scheduling, stamp
from tests.engine.replica import look
from tests.service import refusal

from stepwell.v1 import namespaces_pb2, runs_pb2
from stepwell.v1.debounces_pb2 import Debounce
from stepwell.v1.definitions_pb2 import DefinitionRef


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with scheduling(database_url) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def shared_world(shared_database_url: str) -> AsyncIterator[World]:
    """For calls that are refused."""
    async with scheduling(shared_database_url) as made:
        yield made


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
        {"run": runs_pb2.StartRunRequest(type="t", debounce=Debounce(key="k", period=Duration(seconds=1)))},
        {"overlap_policy": 17},
    ],
)
async def test_bad_schedules_are_refused(shared_world: World, fields: dict[str, Any]) -> None:
    assert await refusal(shared_world.create(**fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


@pytest.mark.parametrize("paths", [[], ["name"], ["paused"], ["spec.nothing"], ["fired_count"]])
async def test_bad_masks_are_refused(world: World, paths: list[str]) -> None:
    await world.create()
    request = P.UpdateScheduleRequest(schedule=P.Schedule(name="nightly"), update_mask=FieldMask(paths=paths))
    assert await refusal(world.calls.UpdateSchedule(request)) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_all_of_what_a_run_is_given_is_kept(world: World) -> None:
    """A field of StartRunRequest that a schedule would lose turns this red."""
    theirs = {"namespace", "run_id", "request_id", "reuse_policy", "conflict_policy", "debounce"}
    numbers = itertools.count(1)
    run = runs_pb2.StartRunRequest()
    for field in run.DESCRIPTOR.fields:
        if field.name in theirs:
            continue
        if field.name == "search_attributes":
            run.search_attributes["env"].text = "text"
        elif field.name == "definition":
            run.definition.CopyFrom(DefinitionRef(code="text", version=3))
        elif field.message_type is None:
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
            elif field.type == field.TYPE_STRING:
                setattr(message, field.name, "text")
            else:
                setattr(message, field.name, 2 if field.type == field.TYPE_ENUM else next(numbers))


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
