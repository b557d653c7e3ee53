"""Schedules: runs that the service starts again and again, by the clock."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from google.protobuf.field_mask_pb2 import FieldMask

from stepwell._rpc import uuid7
from stepwell.definitions import type_and_hint
from stepwell.options import RunOptions, run_fields
from stepwell.policies import Seconds, duration, timestamp
from stepwell.runs import PAGE_SIZE
from stepwell.v1 import runs_pb2, schedules_pb2
from stepwell.v1.schedules_pb2_grpc import ScheduleServiceStub

if TYPE_CHECKING:
    import grpc.aio

    from stepwell._rpc import Caller
    from stepwell.converter import DataConverter

Overlap = Literal["skip", "buffer_one", "cancel_other", "terminate_other", "allow_all"]


class When(TypedDict, total=False):
    """When a schedule fires.

    `cron`: five fields, six with seconds first, a macro such as `@daily`, or `@every 90s`. `time_zone`: an IANA name,
    default `UTC`. `jitter`: the most seconds that a firing is put off by. Nothing fires before `start_time` or from
    `end_time` on; both with a zone.
    """

    cron: str
    time_zone: str
    jitter: Seconds
    start_time: dt.datetime
    end_time: dt.datetime


class ScheduleOptions(When, RunOptions, total=False):
    """How a schedule is made.

    `overlap`: what happens while runs of it are open, default `skip`. `catchup_window`: how many seconds old a time
    may be that nobody could fire, default a day. `paused`: it does not fire by the clock. The others are of its runs,
    as in `StartOptions`; each run's `workflow_id` has its time behind it.
    """

    overlap: Overlap
    catchup_window: Seconds
    paused: bool


class Schedules:
    """A client's schedules; `client.schedules`. Schedules are given as the protocol's messages."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller, namespace: str, converter: DataConverter) -> None:
        """Made by the client."""
        self._stub = ScheduleServiceStub(channel)
        self._caller = caller
        self._namespace = namespace
        self._converter = converter

    async def create(
        self,
        name: str,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[ScheduleOptions],
    ) -> schedules_pb2.Schedule:
        """Makes a schedule of a function with `@workflow`, or of a type by name; `cron` is required.

        Raises `ScheduleExists`, `InvalidField`.
        """
        schedule = schedules_pb2.Schedule(name=name, paused=options.get("paused", False))
        self._apply(schedule, workflow, input, options)
        request = schedules_pb2.CreateScheduleRequest(namespace=self._namespace, schedule=schedule, request_id=uuid7())
        return (await self._caller.call(self._stub.CreateSchedule, request)).schedule

    async def get(self, name: str) -> schedules_pb2.Schedule:
        """Reads a schedule. Raises `ScheduleNotFound`."""
        request = schedules_pb2.GetScheduleRequest(namespace=self._namespace, name=name)
        return (await self._caller.call(self._stub.GetSchedule, request)).schedule

    async def list(self) -> AsyncGenerator[schedules_pb2.Schedule, None]:
        """Lists the namespace's schedules by name, without their runs' input."""
        request = schedules_pb2.ListSchedulesRequest(namespace=self._namespace, page_size=PAGE_SIZE)
        while True:
            page = await self._caller.call(self._stub.ListSchedules, request)
            for schedule in page.schedules:
                yield schedule
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def update(self, name: str, **options: Unpack[ScheduleOptions]) -> schedules_pb2.Schedule:
        """Changes the options given, but for `paused`; new times reckon the next firing anew from now.

        Raises `ScheduleNotFound`, `InvalidField`.
        """
        if "paused" in options:
            raise ValueError("pause and resume say whether a schedule fires")
        schedule = schedules_pb2.Schedule(name=name)
        self._apply(schedule, None, None, options)
        request = schedules_pb2.UpdateScheduleRequest(
            namespace=self._namespace,
            schedule=schedule,
            update_mask=FieldMask(paths=[_PATHS.get(option, f"run.{option}") for option in options]),
            request_id=uuid7(),
        )
        return (await self._caller.call(self._stub.UpdateSchedule, request)).schedule

    async def delete(self, name: str) -> bool:
        """Deletes a schedule; its runs go on. False if there was none."""
        request = schedules_pb2.DeleteScheduleRequest(namespace=self._namespace, name=name, request_id=uuid7())
        return (await self._caller.call(self._stub.DeleteSchedule, request)).deleted

    async def pause(self, name: str, reason: str = "") -> bool:
        """Stops a schedule from firing by the clock. False if it was paused. Raises `ScheduleNotFound`."""
        request = schedules_pb2.PauseScheduleRequest(
            namespace=self._namespace, name=name, reason=reason, request_id=uuid7()
        )
        return (await self._caller.call(self._stub.PauseSchedule, request)).accepted

    async def resume(self, name: str) -> bool:
        """Lets a schedule fire from now on. False if it was not paused. Raises `ScheduleNotFound`."""
        request = schedules_pb2.ResumeScheduleRequest(namespace=self._namespace, name=name, request_id=uuid7())
        return (await self._caller.call(self._stub.ResumeSchedule, request)).accepted

    async def trigger(
        self, name: str, *, request_id: str = "", skip_if_open: bool = False
    ) -> schedules_pb2.TriggerScheduleResponse:
        """Starts a run of it now, paused or not, and tells which. Raises `ScheduleNotFound`."""
        request = schedules_pb2.TriggerScheduleRequest(
            namespace=self._namespace, name=name, request_id=request_id or uuid7(), skip_if_open=skip_if_open
        )
        return await self._caller.call(self._stub.TriggerSchedule, request)

    async def backfill(self, name: str, start: dt.datetime, end: dt.datetime, overlap: Overlap = "allow_all") -> int:
        """Fires the times of a span that is over, each once; tells how many there are, at most 1,000.

        Raises `ScheduleNotFound`, `LimitExceeded`.
        """
        request = schedules_pb2.BackfillScheduleRequest(
            namespace=self._namespace,
            name=name,
            start_time=timestamp(start),
            end_time=timestamp(end),
            overlap_policy=_overlap(overlap),
            request_id=uuid7(),
        )
        return (await self._caller.call(self._stub.BackfillSchedule, request)).times

    async def next_times(self, name: str, count: int = 10) -> Sequence[dt.datetime]:
        """Tells when a schedule would fire, in UTC, without jitter. Raises `ScheduleNotFound`."""
        request = schedules_pb2.PreviewScheduleRequest(namespace=self._namespace, name=name, count=count)
        found = (await self._caller.call(self._stub.PreviewSchedule, request)).times
        return [time.ToDatetime(dt.UTC) for time in found]

    def _apply(
        self,
        schedule: schedules_pb2.Schedule,
        workflow: Callable[..., Awaitable[Any]] | str | None,
        value: object,
        options: ScheduleOptions,
    ) -> None:
        schedule.spec.cron = options.get("cron", "")
        schedule.spec.time_zone = options.get("time_zone", "")
        for message, field, given in (
            (schedule.spec, "jitter", duration(options.get("jitter"))),
            (schedule.spec, "start_time", timestamp(options.get("start_time"))),
            (schedule.spec, "end_time", timestamp(options.get("end_time"))),
            (schedule, "catchup_window", duration(options.get("catchup_window"))),
        ):
            if given is not None:
                getattr(message, field).CopyFrom(given)
        schedule.overlap_policy = _overlap(options.get("overlap", "skip"))
        run = runs_pb2.StartRunRequest(**run_fields(options))
        if workflow is not None:
            run.type, _ = type_and_hint(workflow, "workflow")
            run.input.CopyFrom(self._converter.to_payload(value))
        schedule.run.CopyFrom(run)


_PATHS = {
    **{name: f"spec.{name}" for name in When.__annotations__},
    "overlap": "overlap_policy",
    "catchup_window": "catchup_window",
}


def _overlap(name: Overlap) -> schedules_pb2.ScheduleOverlapPolicy.ValueType:
    return schedules_pb2.ScheduleOverlapPolicy.Value(f"SCHEDULE_OVERLAP_POLICY_{name.upper()}")
