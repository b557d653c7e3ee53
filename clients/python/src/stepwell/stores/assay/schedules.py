"""assay's methods on schedules."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from stepwell import reasons
from stepwell.stores._connection import Store, stamp
from stepwell.stores.assay.records import (
    OVERLAPS,
    OverlapPolicy,
    SchedulePatch,
    WorkflowSchedule,
    payload_of,
    workflow_schedule,
)
from stepwell.v1 import schedules_pb2 as schedules
from stepwell.v1.runs_pb2 import StartRunRequest
from stepwell.v1.schedules_pb2_grpc import ScheduleServiceStub

_PATHS = {
    "cron_expr": "spec.cron",
    "timezone": "spec.time_zone",
    "input": "run.input",
    "task_queue": "run.task_queue",
    "overlap_policy": "overlap_policy",
}


class Schedules(Store):
    """Schedules. The service's leader fires them."""

    async def create_schedule(self, schedule: WorkflowSchedule) -> None:
        """Creates a schedule. Raises `ScheduleExists`, `InvalidField`.

        Differs: what is no cron expression, no time zone or no policy is refused. Five fields are understood, too.
        """
        ours = schedules.Schedule(
            name=schedule.name,
            spec=schedules.ScheduleSpec(cron=schedule.cron_expr, time_zone=schedule.timezone),
            run=StartRunRequest(
                type=schedule.workflow_type, task_queue=schedule.task_queue, input=payload_of(schedule.input)
            ),
            overlap_policy=OVERLAPS[schedule.overlap_policy],
            paused=schedule.paused,
        )
        request = schedules.CreateScheduleRequest(
            namespace=schedule.namespace, schedule=ours, next_time=stamp(schedule.next_run_at)
        )
        await self.call(ScheduleServiceStub(self.channel).CreateSchedule, request)

    async def get_schedule(self, namespace: str, name: str) -> WorkflowSchedule | None:
        """Reads a schedule, or `None`."""
        request = schedules.GetScheduleRequest(namespace=namespace, name=name)
        try:
            answer = await self.call(ScheduleServiceStub(self.channel).GetSchedule, request)
        except reasons.ScheduleNotFound:
            return None
        return workflow_schedule(namespace, answer.schedule)

    async def list_schedules(self, namespace: str) -> list[WorkflowSchedule]:
        """The schedules of a namespace by name."""
        request = schedules.ListSchedulesRequest(namespace=namespace, payloads=True)
        found = await self.every(ScheduleServiceStub(self.channel).ListSchedules, request, "schedules")
        return [workflow_schedule(namespace, schedule) for schedule in found]

    async def update_schedule_last_run(
        self, namespace: str, name: str, last_run_at: float, next_run_at: float, workflow_id: str
    ) -> None:
        """Notes a firing that the caller has made. Raises `ScheduleNotFound`."""
        request = schedules.RecordScheduleRunRequest(
            namespace=namespace,
            name=name,
            last_time=stamp(last_run_at),
            next_time=stamp(next_run_at),
            workflow_id=workflow_id,
        )
        await self.call(ScheduleServiceStub(self.channel).RecordScheduleRun, request)

    async def delete_schedule(self, namespace: str, name: str) -> bool:
        """Deletes a schedule; `False` if there was none."""
        request = schedules.DeleteScheduleRequest(namespace=namespace, name=name)
        return (await self.call(ScheduleServiceStub(self.channel).DeleteSchedule, request)).deleted

    async def update_schedule(self, namespace: str, name: str, patch: SchedulePatch) -> WorkflowSchedule | None:
        """Changes what the patch names, or answers `None`. New times reckon the next firing anew."""
        paths = [path for field, path in _PATHS.items() if getattr(patch, field) is not None]
        if not paths:
            return await self.get_schedule(namespace, name)
        ours = schedules.Schedule(
            name=name,
            spec=schedules.ScheduleSpec(cron=patch.cron_expr or "", time_zone=patch.timezone or ""),
            run=StartRunRequest(task_queue=patch.task_queue or "", input=payload_of(patch.input)),
            overlap_policy=OVERLAPS[patch.overlap_policy or OverlapPolicy.skip],
        )
        request = schedules.UpdateScheduleRequest(
            namespace=namespace, schedule=ours, update_mask=FieldMask(paths=paths)
        )
        try:
            answer = await self.call(ScheduleServiceStub(self.channel).UpdateSchedule, request)
        except reasons.ScheduleNotFound:
            return None
        return workflow_schedule(namespace, answer.schedule)

    async def set_schedule_paused(self, namespace: str, name: str, paused: bool) -> WorkflowSchedule | None:
        """Pauses or resumes a schedule, or answers `None`. What it missed while paused stays undone."""
        stub, names = ScheduleServiceStub(self.channel), {"namespace": namespace, "name": name}
        try:
            if paused:
                return workflow_schedule(
                    namespace, (await self.call(stub.PauseSchedule, schedules.PauseScheduleRequest(**names))).schedule
                )
            return workflow_schedule(
                namespace, (await self.call(stub.ResumeSchedule, schedules.ResumeScheduleRequest(**names))).schedule
            )
        except reasons.ScheduleNotFound:
            return None
