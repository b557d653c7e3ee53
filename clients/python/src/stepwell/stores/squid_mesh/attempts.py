"""SquidMesh's `AttemptStore`: the attempts at a step, one by one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stepwell.stores._connection import Store, payload_of, time_of, value_of
from stepwell.v1 import run_store_pb2 as runs
from stepwell.v1 import step_store_pb2 as steps
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.step_store_pb2_grpc import StepStoreStub
from stepwell.v1.types_pb2 import Failure, StepState


class StepAttemptStatus(StrEnum):
    """How far an attempt has come."""

    running = "running"
    completed = "completed"
    failed = "failed"


_STATUSES = {
    StepState.STEP_STATE_RUNNING: StepAttemptStatus.running,
    StepState.STEP_STATE_WAITING: StepAttemptStatus.completed,
    StepState.STEP_STATE_COMPLETED: StepAttemptStatus.completed,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAttempt:
    """An attempt at a step. One that was overtaken by the next has failed."""

    run_id: str
    step: str
    attempt_number: int
    status: StepAttemptStatus
    error: dict[str, Any] | None
    inserted_at: dt.datetime | None
    updated_at: dt.datetime | None


class AttemptStore(Store):
    """Answers like SquidMesh's `AttemptStore`.

    Differs: an attempt belongs to a step, which is named by its run and name, and its end is the step's: the attempt
    under way is the one that is completed or failed. Steps that are begun here are not begun with `StepRunStore`, whose
    `begin_step` counts an attempt itself.
    """

    async def begin_attempt(self, run_id: str, step: str) -> StepAttempt:
        """Begins the next attempt at a step. Raises `StepStateConflict` once the step is completed."""
        request = steps.RecordStepStartRequest(namespace=self.namespace, run_id=run_id, step_name=step)
        begun = (await self.call(StepStoreStub(self.channel).RecordStepStart, request)).step
        return StepAttempt(
            run_id=run_id,
            step=step,
            attempt_number=begun.attempt,
            status=StepAttemptStatus.running,
            error=None,
            inserted_at=time_of(begun, "start_time"),
            updated_at=time_of(begun, "start_time"),
        )

    async def complete_attempt(self, run_id: str, step: str) -> None:
        """Completes the attempt under way. Raises `StepStateConflict` for a stale one, `StepNotFound`."""
        request = steps.RecordStepCompleteRequest(
            namespace=self.namespace, run_id=run_id, step_name=step, state=StepState.STEP_STATE_COMPLETED
        )
        await self.call(StepStoreStub(self.channel).RecordStepComplete, request)

    async def fail_attempt(self, run_id: str, step: str, error: dict[str, Any]) -> None:
        """Fails the attempt under way. Raises `StepStateConflict` for a stale one, `StepNotFound`."""
        request = steps.RecordStepCompleteRequest(
            namespace=self.namespace,
            run_id=run_id,
            step_name=step,
            state=StepState.STEP_STATE_FAILED,
            failure=Failure(message=str(error.get("message", "")), details=payload_of(error)),
        )
        await self.call(StepStoreStub(self.channel).RecordStepComplete, request)

    async def attempt_count(self, run_id: str, step: str) -> int:
        """How many attempts at a step there were."""
        request = steps.GetStepRequest(namespace=self.namespace, run_id=run_id, step_name=step)
        return (await self.call(StepStoreStub(self.channel).GetStep, request)).step.attempt

    async def latest_attempt(self, run_id: str, step: str) -> StepAttempt | None:
        """The latest attempt at a step, or `None`."""
        request = runs.GetRunDetailRequest(namespace=self.namespace, run_id=run_id)
        for found in await self.every(RunStoreStub(self.channel).GetRunDetail, request, "steps"):
            if (found.step.key or found.step.name) == step and found.attempts:
                return _attempt(run_id, step, found.attempts[-1])
        return None


def _attempt(run_id: str, step: str, attempt: runs.GetRunDetailResponse.Attempt) -> StepAttempt:
    began = time_of(attempt, "start_time")
    return StepAttempt(
        run_id=run_id,
        step=step,
        attempt_number=attempt.attempt,
        status=_STATUSES.get(attempt.state, StepAttemptStatus.failed),
        error=value_of(attempt.failure.details) if attempt.HasField("failure") else None,
        inserted_at=began,
        updated_at=time_of(attempt, "end_time") or began,
    )
