"""ScheduleService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio
from msgspec.structs import replace

from stepwell.v1 import schedules_pb2, schedules_pb2_grpc
from stepwell_server import errors, telemetry
from stepwell_server.api.fields import Fields, integer, time
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.page import read_page
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_starts import Metadata, size_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.api.schedule_values import (
    check_mask,
    check_times,
    overlap_from_proto,
    schedule_from_proto,
    schedule_to_proto,
    spec_from_proto,
)
from stepwell_server.engine import schedules as engine
from stepwell_server.engine.starts import Started, StartRun
from stepwell_server.errors import InvalidField, ScheduleExists, ScheduleNotFound
from stepwell_server.ids import run_id_for_request, uuid7
from stepwell_server.model.schedules import Overlap, Schedule, Trigger
from stepwell_server.store import requests
from stepwell_server.store import schedules as store
from stepwell_server.store.schedule_runs import newest_open_run
from stepwell_server.store.schedules import Changed, Decided

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_PREVIEWED, _MOST_PREVIEWED = 10, 1_000


class ScheduleCalls(schedules_pb2_grpc.ScheduleServiceServicer):
    """Keeps schedules; the leader fires them."""

    def __init__(
        self, committers: Committers, database: Database, namespaces: Namespaces, clock: Clock, settings: Settings
    ) -> None:
        self._committers = committers
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._fields = Fields(settings.limits)

    async def CreateSchedule(
        self, request: schedules_pb2.CreateScheduleRequest, context: Context
    ) -> schedules_pb2.CreateScheduleResponse:
        namespace, now = self._fields.namespace(request.namespace), self._clock.now()
        namespace_id = await self._namespaces.id_of(namespace)
        made = schedule_from_proto(
            request.schedule, namespace_id, namespace, _metadata(context), self._fields, now, uuid7()
        )
        first = time(request, "next_time")
        if first is not None and made.pause_reason is None:
            made = replace(made, next_time=first, next_nominal=first)
        asked = asked_of(request, namespace_id, Schedule, self._fields)
        created = await store.create(self._database, made, namespace, now, asked)
        if created is None:
            raise ScheduleExists(namespace=namespace, name=made.name)
        return schedules_pb2.CreateScheduleResponse(schedule=schedule_to_proto(created))

    async def GetSchedule(
        self, request: schedules_pb2.GetScheduleRequest, context: Context
    ) -> schedules_pb2.GetScheduleResponse:
        return schedules_pb2.GetScheduleResponse(schedule=schedule_to_proto(await self._find(request)))

    async def ListSchedules(
        self, request: schedules_pb2.ListSchedulesRequest, context: Context
    ) -> schedules_pb2.ListSchedulesResponse:
        namespace_id = await self._namespaces.id_of(self._fields.namespace(request.namespace))
        page = read_page(request, str, self._fields.limits)
        found = await store.page(self._database, namespace_id, page.after or "", page.fetch)
        shown = self._fitting(found[: page.size]) if request.payloads else found[: page.size]
        token = page.token(shown[-1].name) if len(found) > len(shown) else ""
        listed = [schedule_to_proto(schedule, with_input=request.payloads) for schedule in shown]
        return schedules_pb2.ListSchedulesResponse(schedules=listed, next_page_token=token)

    def _fitting(self, schedules: Sequence[Schedule]) -> Sequence[Schedule]:
        """The first of them, as many as fit a message with their runs' input, but at least one."""
        left = self._fields.limits.message_bytes - MESSAGE_MARGIN
        for place, schedule in enumerate(schedules):
            left -= len(schedule.run)
            if left < 0 and place:
                return schedules[:place]
        return schedules

    async def UpdateSchedule(
        self, request: schedules_pb2.UpdateScheduleRequest, context: Context
    ) -> schedules_pb2.UpdateScheduleResponse:
        namespace, mask, now = self._fields.namespace(request.namespace), request.update_mask, self._clock.now()
        check_mask(mask)
        namespace_id = await self._namespaces.id_of(namespace)

        def decide(before: Schedule) -> Decided:
            merged = schedule_to_proto(before)
            mask.MergeMessage(request.schedule, merged, replace_message_field=True, replace_repeated_field=True)
            after = schedule_from_proto(
                merged, namespace_id, namespace, _metadata(context), self._fields, now, before.schedule_id
            )
            fixed = {name: getattr(before, name) for name in ("pause_reason", "create_time", "waiting", *_RECORDED)}
            after, owed = engine.patched(before, replace(after, **fixed), now)
            if owed.has_more:
                most = engine.MOST_TIMES
                raise errors.LimitExceeded(limit="due_times", value=most + 1, maximum=most)
            return Decided(after, owed.times)

        changed = await self._change(request, request.schedule.name, decide, "schedule.name")
        return schedules_pb2.UpdateScheduleResponse(schedule=schedule_to_proto(changed.schedule))

    async def DeleteSchedule(
        self, request: schedules_pb2.DeleteScheduleRequest, context: Context
    ) -> schedules_pb2.DeleteScheduleResponse:
        namespace_id = await self._namespaces.id_of(self._fields.namespace(request.namespace))
        name = self._fields.name(request.name, "name")
        asked = asked_of(request, namespace_id, bool, self._fields)
        deleted = await store.remove(self._database, namespace_id, name, self._clock.now(), asked)
        return schedules_pb2.DeleteScheduleResponse(deleted=deleted)

    async def PauseSchedule(
        self, request: schedules_pb2.PauseScheduleRequest, context: Context
    ) -> schedules_pb2.PauseScheduleResponse:
        reason, now = self._fields.remark(request.reason, "reason"), self._clock.now()

        def decide(before: Schedule) -> Schedule:
            if before.pause_reason is not None:
                return before
            return engine.paused(before, reason, now)

        changed = await self._change(request, request.name, decide)
        schedule = schedule_to_proto(changed.schedule)
        return schedules_pb2.PauseScheduleResponse(accepted=changed.changed, schedule=schedule)

    async def ResumeSchedule(
        self, request: schedules_pb2.ResumeScheduleRequest, context: Context
    ) -> schedules_pb2.ResumeScheduleResponse:
        now = self._clock.now()

        def decide(before: Schedule) -> Schedule:
            if before.pause_reason is None:
                return before
            next_time, nominal = engine.next_firing(before.spec, before.schedule_id, now)
            return replace(before, pause_reason=None, next_time=next_time, next_nominal=nominal, update_time=now)

        changed = await self._change(request, request.name, decide)
        schedule = schedule_to_proto(changed.schedule)
        return schedules_pb2.ResumeScheduleResponse(accepted=changed.changed, schedule=schedule)

    async def TriggerSchedule(
        self, request: schedules_pb2.TriggerScheduleRequest, context: Context
    ) -> schedules_pb2.TriggerScheduleResponse:
        namespace = self._fields.namespace(request.namespace)
        request_id = self._fields.text(request.request_id, "request_id")
        schedule = await self._find(request)
        scoped = f"schedule {schedule.schedule_id} {request_id}"
        trigger = Trigger(run_id_for_request(namespace, scoped) if request_id else uuid7())
        if request.skip_if_open and (left_to := await newest_open_run(self._database, schedule)) is not None:
            trigger = Trigger(*left_to)
        asked = asked_of(request, schedule.namespace_id, Trigger, self._fields)
        if asked is not None:
            # Kept before it is done: a repeat does it, if it is not done yet, and nothing else.
            trigger = await requests.settled(self._database, asked, trigger, self._clock.now())
        run_id = trigger.run_id
        if trigger.left_to:
            return schedules_pb2.TriggerScheduleResponse(run_id=str(run_id), workflow_id=trigger.left_to)
        traceparent, _ = telemetry.new_traceparent(_metadata(context), type=engine.unpack_run(schedule.run).type)
        start = engine.trigger_of(schedule, run_id, traceparent)
        answer = await self._committers.do(Started, start, size_of(request), remaining())
        if answer.started:
            await self._note_trigger(request, start)
        return schedules_pb2.TriggerScheduleResponse(
            started=answer.started, run_id=str(run_id), workflow_id=start.new.workflow_id
        )

    async def _note_trigger(self, request: schedules_pb2.TriggerScheduleRequest, start: StartRun) -> None:
        run, now = start.new, self._clock.now()

        def decide(before: Schedule) -> Schedule:
            fired = before.fired + 1
            return replace(before, last_time=now, last_workflow_id=run.workflow_id, last_run_id=run.run_id, fired=fired)

        namespace_id = await self._namespaces.id_of(self._fields.namespace(request.namespace))
        # Who asks twice is recognised by the run.
        await store.change(self._database, namespace_id, request.name, decide, now)

    async def BackfillSchedule(
        self, request: schedules_pb2.BackfillScheduleRequest, context: Context
    ) -> schedules_pb2.BackfillScheduleResponse:
        policy = overlap_from_proto(request.overlap_policy, self._fields) or Overlap.ALLOW_ALL
        start, end = _required_time(request, "start_time"), _required_time(request, "end_time")
        if end <= start:
            raise InvalidField(field="end_time", problem="must be after start_time")
        if end > self._clock.now():
            raise InvalidField(field="end_time", problem="must not be in the future: the schedule fires those itself")

        def choose(schedule: Schedule) -> Sequence[datetime]:
            times = engine.times_between(schedule.spec, start, end)
            if len(times) > engine.MOST_TIMES:
                raise errors.LimitExceeded(limit="backfill_times", value=len(times), maximum=engine.MOST_TIMES)
            return times

        namespace, name = self._fields.namespace(request.namespace), self._fields.name(request.name, "name")
        namespace_id, now = await self._namespaces.id_of(namespace), self._clock.now()
        asked = asked_of(request, namespace_id, int, self._fields)
        times = await store.wait_for(self._database, namespace_id, name, choose, policy, now, asked)
        if times is None:
            raise ScheduleNotFound(namespace=namespace, name=name)
        return schedules_pb2.BackfillScheduleResponse(times=times)

    async def PreviewSchedule(
        self, request: schedules_pb2.PreviewScheduleRequest, context: Context
    ) -> schedules_pb2.PreviewScheduleResponse:
        count = integer(request.count, "count", at_most=_MOST_PREVIEWED) or _PREVIEWED
        after = time(request, "after") or self._clock.now()
        if request.HasField("spec"):
            spec = spec_from_proto(request.spec, self._fields, "spec.")
            check_times(spec, after, "spec.")
        else:
            spec = (await self._find(request)).spec
        found = engine.first_times(spec, after, count)
        return schedules_pb2.PreviewScheduleResponse(times=list(filter(None, map(time_to_proto, found))))

    async def RecordScheduleRun(
        self, request: schedules_pb2.RecordScheduleRunRequest, context: Context
    ) -> schedules_pb2.RecordScheduleRunResponse:
        last_time, next_time = _required_time(request, "last_time"), time(request, "next_time")
        workflow_id = self._fields.text(request.workflow_id, "workflow_id")

        def decide(before: Schedule) -> Schedule:
            return replace(
                before,
                last_time=last_time,
                next_time=next_time,
                next_nominal=next_time,
                last_workflow_id=workflow_id,
                last_run_id=None,
            )

        changed = await self._change(request, request.name, decide)
        return schedules_pb2.RecordScheduleRunResponse(schedule=schedule_to_proto(changed.schedule))

    async def _find(self, request: Any) -> Schedule:  # noqa: ANN401 - any request that names a schedule
        namespace, name = self._fields.namespace(request.namespace), self._fields.name(request.name, "name")
        found = await store.read(self._database, await self._namespaces.id_of(namespace), name)
        if found is None:
            raise ScheduleNotFound(namespace=namespace, name=name)
        return found

    async def _change(
        self,
        request: Any,  # noqa: ANN401 - any request that changes a schedule
        name: str,
        decide: Callable[[Schedule], Schedule | Decided],
        field: str = "name",
    ) -> Changed:
        namespace = self._fields.namespace(request.namespace)
        self._fields.name(name, field)
        namespace_id = await self._namespaces.id_of(namespace)
        asked = asked_of(request, namespace_id, Changed, self._fields)
        changed = await store.change(self._database, namespace_id, name, decide, self._clock.now(), asked)
        if changed is None:
            raise ScheduleNotFound(namespace=namespace, name=name)
        return changed


_RECORDED = ("last_time", "last_workflow_id", "last_run_id", "fired", "skipped", "missed", "last_error")


def _metadata(context: Context) -> Metadata:
    return context.invocation_metadata() or ()


def _required_time(request: Any, field: str) -> datetime:  # noqa: ANN401 - any request with that field
    found = time(request, field)
    if found is None:
        raise InvalidField(field=field, problem="is required: give it a time")
    return found
