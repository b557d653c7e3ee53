"""SquidMesh's `StepRunStore`: what each step of a run was given and came to."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from stepwell.stores._connection import Store, payload_of, time_of, value_of
from stepwell.v1 import runs_pb2
from stepwell.v1 import step_store_pb2 as steps
from stepwell.v1.step_store_pb2_grpc import StepStoreStub
from stepwell.v1.types_pb2 import Failure, StepState


class StepRunStatus(StrEnum):
    """How far a step run has come."""

    pending = "pending"
    running = "running"
    completed = "completed"
    failed = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRun:
    """One step of one run. `completed_at` is ours: completion has an order of its own."""

    id: str
    run_id: str
    step: str
    status: StepRunStatus
    input: dict[str, Any]
    output: dict[str, Any] | None
    last_error: dict[str, Any] | None
    inserted_at: dt.datetime
    updated_at: dt.datetime
    completed_at: dt.datetime | None


class StepRunStore(Store):
    """Answers like `SquidMesh.StepRunStore`. A run is created with `RunStore.CreateRun`."""

    async def begin_step(
        self, run_id: str, step: str, input: dict[str, Any]
    ) -> tuple[StepRun, Literal["execute", "skip"]]:
        """Begins a step unless it is under way or done. Raises `RunNotFound`, `RunTerminal`."""
        request = steps.BeginStepRequest(
            namespace=self.namespace, run_id=run_id, step_name=step, input=payload_of(input)
        )
        answer = await self.call(StepStoreStub(self.channel).BeginStep, request)
        executes = answer.outcome == steps.BeginStepResponse.OUTCOME_EXECUTE
        return _step_run(run_id, answer.step), "execute" if executes else "skip"

    async def schedule_step(
        self, run_id: str, step: str, input: dict[str, Any]
    ) -> tuple[StepRun, Literal["schedule", "skip"]]:
        """Records a step that is to be begun later. Raises `RunNotFound`, `RunTerminal`."""
        request = steps.ScheduleStepRequest(
            namespace=self.namespace, run_id=run_id, step_name=step, input=payload_of(input)
        )
        answer = await self.call(StepStoreStub(self.channel).ScheduleStep, request)
        scheduled = answer.outcome == steps.ScheduleStepResponse.OUTCOME_SCHEDULE
        return _step_run(run_id, answer.step), "schedule" if scheduled else "skip"

    async def complete_step(self, step_run_id: str, output: dict[str, Any]) -> StepRun:
        """Completes a running step. Raises `StepNotFound`, `RunNotFound`, and `StepStateConflict` for a stale one.

        Differs: the seed's version writes over whatever the step came to. Later ones refuse that, and so do we.
        """
        request = steps.CompleteStepRequest(
            namespace=self.namespace, step_number=int(step_run_id), result=payload_of(output)
        )
        answer = await self.call(StepStoreStub(self.channel).CompleteStep, request)
        return _step_run(answer.run_id, answer.step)

    async def fail_step(self, step_run_id: str, error: dict[str, Any]) -> StepRun:
        """Fails a running step. Raises `StepNotFound`, `RunNotFound`, and `StepStateConflict` for a stale one.

        Differs: as `complete_step`.
        """
        failure = Failure(message=str(error.get("message", "")), details=payload_of(error))
        request = steps.FailStepRequest(namespace=self.namespace, step_number=int(step_run_id), failure=failure)
        answer = await self.call(StepStoreStub(self.channel).FailStep, request)
        return _step_run(answer.run_id, answer.step)

    async def get_step_run(self, run_id: str, step: str) -> StepRun | None:
        """Reads a step run, or `None`."""
        request = steps.GetStepRequest(namespace=self.namespace, run_id=run_id, step_name=step)
        answer = await self.call(StepStoreStub(self.channel).GetStep, request)
        return _step_run(run_id, answer.step) if answer.found else None

    async def completed_steps(self, run_id: str) -> list[str]:
        """The names of completed steps, in the order of their completion.

        Differs: the store's code sorts by insertion, its documents say completion.
        """
        return [_name(step) for step in await self._completed(run_id)]

    async def completed_outputs(self, run_id: str) -> list[dict[str, Any]]:
        """The outputs of completed steps, in the order of their completion; without an output it is empty."""
        return [value_of(step.result) or {} for step in await self._completed(run_id)]

    async def step_statuses(self, run_id: str) -> dict[str, StepRunStatus]:
        """The statuses of the steps that are recorded. An unknown run has none."""
        request = steps.ListStepStatesRequest(namespace=self.namespace, run_id=run_id)
        entries = await self.every(StepStoreStub(self.channel).ListStepStates, request, "entries")
        return {entry.step_name: _status(entry.state) for entry in entries}

    async def _completed(self, run_id: str) -> list[runs_pb2.Step]:
        request = steps.ListCompletedStepsRequest(namespace=self.namespace, run_id=run_id)
        return await self.every(StepStoreStub(self.channel).ListCompletedSteps, request, "steps")


def _status(state: StepState.ValueType) -> StepRunStatus:
    return StepRunStatus(StepState.Name(state).removeprefix("STEP_STATE_").lower())


def _name(step: runs_pb2.Step) -> str:
    return step.key or step.name


def _step_run(run_id: str, step: runs_pb2.Step) -> StepRun:
    created, ended = step.create_time.ToDatetime(dt.UTC), time_of(step, "end_time")
    return StepRun(
        id=str(step.number),
        run_id=run_id,
        step=_name(step),
        status=_status(step.state),
        input=value_of(step.input) or {},
        output=value_of(step.result),
        last_error=value_of(step.failure.details) if step.HasField("failure") else None,
        inserted_at=created,
        updated_at=ended or time_of(step, "start_time") or created,
        completed_at=ended if step.state == StepState.STEP_STATE_COMPLETED else None,
    )
