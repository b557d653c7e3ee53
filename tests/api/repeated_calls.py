"""Every method that takes a request id, with a request that it grants, and how another one differs."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import Any

from tests.api.stores import COMPLETED, Store, at, json, span
from tests.service import TIMEOUT, Holder, Service

from stepwell.v1 import definitions_pb2, jobs_pb2, namespaces_pb2, repairs_pb2, runs_pb2, schedules_pb2, types_pb2
from stepwell_server.engine.reported import NewStep, NewTimer
from stepwell_server.model.steps import Kind


async def call(service: Service, method: str, **fields: Any) -> Any:
    """Any call of the test's services, by its method's name."""
    for noun in ("run", "step", "activity", "event", "signal", "timer", "topic", "run_control"):
        messages = importlib.import_module(f"stepwell.v1.{noun}_store_pb2")
        if hasattr(messages, f"{method}Request"):
            return await Store(service, noun).call(method, **fields)
    stub, messages = service.runs, runs_pb2
    if hasattr(namespaces_pb2, f"{method}Request"):
        stub, messages = service.namespace_calls, namespaces_pb2
    elif hasattr(jobs_pb2, f"{method}Request"):
        stub, messages = service.jobs, jobs_pb2
    elif hasattr(definitions_pb2, f"{method}Request"):
        stub, messages = service.definitions, definitions_pb2
    elif hasattr(schedules_pb2, f"{method}Request"):
        stub, messages = service.schedules, schedules_pb2
    elif hasattr(repairs_pb2, f"{method}Request"):
        messages = repairs_pb2
    return await getattr(stub, method)(getattr(messages, f"{method}Request")(**fields), timeout=TIMEOUT)


async def history(service: Service, run_id: str) -> list[str]:
    return [event.type for event in await Store(service, "event").pages("ReadEvents", "events", run_id=run_id)]


SCHEDULE: dict[str, Any] = {"name": "nightly", "spec": {"cron": "@hourly"}, "run": {"type": "t"}}

Fields = dict[str, Any]
Prepare = Callable[[Service, str], Awaitable[Fields]]


def given(**fields: Any) -> Prepare:
    """The run by its id, and these fields."""

    async def prepare(service: Service, run_id: str) -> Fields:
        return {"run_id": run_id, **fields}

    return prepare


async def claimed_run(service: Service, run_id: str) -> Fields:
    await call(service, "ClaimRun", run_id=run_id, owner_id="a")
    return {"run_id": run_id, "owner_id": "a"}


async def suspended_run(service: Service, run_id: str) -> Fields:
    await call(service, "SuspendRun", run_id=run_id, step_name="s", wake_time=at(0))
    return {"run_id": run_id, "data": json("1")}


async def run_with_step(service: Service, run_id: str) -> Fields:
    await call(service, "SaveStep", run_id=run_id, step_name="s", value=json("1"))
    return {"run_id": run_id, "step_name": "s"}


async def claimed_task(service: Service, run_id: str) -> Fields:
    await call(service, "MarkRunDispatchable", run_id=run_id)
    await call(service, "ClaimRunTask", task_queue="default", worker_id="w")
    return {"run_id": run_id, "worker_id": "w"}


async def begun_step(service: Service, run_id: str) -> Fields:
    begun = await call(service, "BeginStep", run_id=run_id, step_name="s", input=json("1"))
    return {"step_number": begun.step.number}


async def waiting_step(service: Service, run_id: str) -> Fields:
    await call(service, "RegisterSignalWaiter", run_id=run_id, step_name="s", signal_name="go")
    return {"run_id": run_id, "step_name": "s"}


async def claimed_step(service: Service, run_id: str) -> Fields:
    await call(service, "ClaimStep", run_id=run_id, step_name="s", owner_id="a")
    return {"run_id": run_id, "step_name": "s"}


async def started_step(service: Service, run_id: str) -> Fields:
    await call(service, "RecordStepStart", run_id=run_id, step_name="s")
    return {"run_id": run_id, "step_name": "s", "state": types_pb2.STEP_STATE_FAILED}


async def failed_step(service: Service, run_id: str) -> Fields:
    fields = await started_step(service, run_id)
    await call(service, "RecordStepComplete", **fields)
    return {"run_id": run_id, "step_name": "s"}


async def claimed_activity(service: Service, run_id: str) -> Fields:
    await call(service, "CreateActivity", run_id=run_id, seq=1, type="t")
    claim = await call(service, "ClaimActivity", task_queue="default", worker_id="w")
    return {"activity_number": claim.activity.activity_number}


async def waiting_activity(service: Service, run_id: str) -> Fields:
    await call(service, "CreateActivity", run_id=run_id, seq=1, type="t")
    return {"run_id": run_id}


async def failed_activity(service: Service, run_id: str) -> Fields:
    fields = await claimed_activity(service, run_id)
    await call(service, "CompleteActivity", failure={"message": "boom"}, **fields)
    return {**fields, "attempt": 2}


async def signalled(service: Service, run_id: str) -> Fields:
    for number in range(2):
        await call(service, "SendSignal", run_id=run_id, signal_name="s", payload=json(str(number)))
    return {"run_id": run_id, "signal_name": "s"}


async def waiting_timer(service: Service, run_id: str) -> Fields:
    await call(service, "CreateTimer", run_id=run_id, seq=1, fire_time=at(0))
    return {"run_id": run_id}


async def paused(service: Service, run_id: str) -> Fields:
    await call(service, "PauseRun", run_id=run_id)
    return {"run_id": run_id}


async def terminated(service: Service, run_id: str) -> Fields:
    code_run = await service.begin()
    await call(service, "TerminateRun", run_id=code_run)
    return {"run_id": code_run}


async def code_run(service: Service, run_id: str) -> Fields:
    return {"run_id": await service.begin(), "build_id": "b"}


async def recorded_step(service: Service, run_id: str) -> Fields:
    code_run = await service.begin(task_queue="q")
    step = NewStep("", "a", 0, "", b"", Kind.TIMER, NewTimer(60))
    await (await Holder.of(service, "q")).record(step)
    return {"run_id": code_run, "step": {"ordinal": 1}}


async def schedule(service: Service, run_id: str) -> Fields:
    await call(service, "CreateSchedule", schedule=SCHEDULE)
    return {"name": "nightly"}


async def paused_schedule(service: Service, run_id: str) -> Fields:
    fields = await schedule(service, run_id)
    await call(service, "PauseSchedule", **fields)
    return fields


async def backfilled(service: Service, run_id: str) -> Fields:
    return {**await schedule(service, run_id), "start_time": at(0), "end_time": at(86_400)}


async def changed_schedule(service: Service, run_id: str) -> Fields:
    await schedule(service, run_id)
    return {"schedule": {**SCHEDULE, "overlap_policy": 2}, "update_mask": {"paths": ["overlap_policy"]}}


async def fired(service: Service, run_id: str) -> Fields:
    return {**await schedule(service, run_id), "last_time": at(0)}


async def definition(service: Service, run_id: str) -> Fields:
    await call(service, "CreateDefinition", definition={"code": "order"})
    return {"code": "order"}


async def inactive_definition(service: Service, run_id: str) -> Fields:
    await call(service, "CreateDefinition", definition={"code": "order", "active": False})
    return {"code": "order"}


async def changed_definition(service: Service, run_id: str) -> Fields:
    await definition(service, run_id)
    return {"definition": {"code": "order", "name": "n"}, "update_mask": {"paths": ["name"]}}


async def namespace(service: Service, run_id: str) -> Fields:
    await call(service, "CreateNamespace", namespace="ns")
    return {"namespace": "ns"}


async def nothing(service: Service, run_id: str) -> Fields:
    return {"namespace": "new"}


METHODS: dict[str, Prepare] = {
    "ClaimRun": given(owner_id="a", lease_duration=span(60)),
    "ReleaseRun": claimed_run,
    "SetRunPhase": given(phase=COMPLETED, result=json("1")),
    "UpdateDrivenRun": given(phase=COMPLETED, changes=[{"name": "a", "set": json("1")}]),
    "SetRunData": given(changes=[{"name": "a", "set": json("1")}], expected_version=0),
    "MarkRunRunning": suspended_run,
    "MarkRunCompleted": given(result=json("1")),
    "MarkRunFailed": given(failure={"message": "boom"}),
    "ResumeRunWith": suspended_run,
    "SuspendRun": given(step_name="s", wake_time=at(9)),
    "CancelDrivenRun": given(reason="r"),
    "RewindToStep": run_with_step,
    "MarkRunDispatchable": given(),
    "ReleaseRunTask": claimed_task,
    "BeginStep": given(step_name="s", input=json("1")),
    "ScheduleStep": given(step_name="s", input=json("1")),
    "CompleteStep": begun_step,
    "FailStep": begun_step,
    "SaveStep": given(step_name="s", value=json("1")),
    "ClaimStep": given(step_name="s", owner_id="a"),
    "ReleaseStepClaim": claimed_step,
    "RecordStepStart": given(step_name="s", input=json("1")),
    "RecordStepComplete": started_step,
    "RecordSkippedStep": given(step_name="s", reason="r"),
    "RetryStep": failed_step,
    "CreateActivity": given(seq=1, type="t"),
    "RequeueActivityForRetry": failed_activity,
    "CompleteActivity": claimed_activity,
    "CancelPendingActivities": waiting_activity,
    "AppendEvent": given(type="Paid", payload=json("1")),
    "ConsumeSignals": signalled,
    "RegisterSignalWaiter": given(step_name="s", signal_name="go"),
    "DeliverSignal": given(signal_name="go", payload=json("1")),
    "RemoveSignalWaiter": waiting_step,
    "CreateTimer": given(seq=1, fire_time=at(0)),
    "CancelPendingTimers": waiting_timer,
    "RegisterWatcher": given(step_name="s", topic="t"),
    "SuspendOnTopic": given(step_name="s", topic="t"),
    "ConfigureRun": given(trigger_key="manual"),
    "RequestRunCancel": given(reason="r"),
    "MarkRunTimedOut": given(reason="r"),
    "CancelRun": given(reason="r"),
    "TerminateRun": given(reason="r"),
    "PauseRun": given(reason="r"),
    "ResumeRun": paused,
    "PinRun": code_run,
    "RetryRun": terminated,
    "RewindRun": recorded_step,
    "CreateSchedule": given(schedule=SCHEDULE),
    "UpdateSchedule": changed_schedule,
    "DeleteSchedule": schedule,
    "PauseSchedule": schedule,
    "ResumeSchedule": paused_schedule,
    "BackfillSchedule": backfilled,
    "RecordScheduleRun": fired,
    "CreateDefinition": given(definition={"code": "order"}),
    "UpdateDefinition": changed_definition,
    "DeleteDefinition": definition,
    "ActivateDefinition": inactive_definition,
    "DeactivateDefinition": definition,
    "CreateNamespace": nothing,
    "DeleteNamespace": namespace,
}
NO_DATA = {"MarkRunRunning"}
OF_NO_RUN = {method for method in METHODS if method.endswith(("Schedule", "ScheduleRun", "Definition"))}
REASONED = (
    "CancelRun",
    "TerminateRun",
    "PauseRun",
    "CancelDrivenRun",
    "RequestRunCancel",
    "MarkRunTimedOut",
    "RetryRun",
    "RewindRun",
    "PauseSchedule",
)
OTHER: dict[str, Fields] = {
    "CreateNamespace": {"namespace": "other"},
    "DeleteNamespace": {"namespace": "other"},
    "ResumeRun": {"accept_order": True},
    "MarkRunDispatchable": {"workflow_id": "w"},
    "ClaimRun": {"owner_id": "b"},
    "ReleaseStepClaim": {"owner_id": "b"},
    "DeliverSignal": {"only_waiting": True},
    "ReleaseRunTask": {"worker_id": "b"},
    "PinRun": {"build_id": "other"},
    "ConfigureRun": {"trigger_key": "other"},
    "CreateSchedule": {"schedule": {**SCHEDULE, "name": "other"}},
    "UpdateSchedule": {"schedule": {**SCHEDULE, "overlap_policy": 3}},
    "CreateDefinition": {"definition": {"code": "other"}},
    "UpdateDefinition": {"expected_revision": 1},
    **{method: {"code": "other"} for method in ("DeleteDefinition", "ActivateDefinition", "DeactivateDefinition")},
    "BackfillSchedule": {"end_time": at(3_600)},
    "RecordScheduleRun": {"workflow_id": "other"},
    **{method: {"name": "other"} for method in ("DeleteSchedule", "ResumeSchedule")},
    **{method: {"reason": "other"} for method in REASONED},
}
