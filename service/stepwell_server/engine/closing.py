"""The closed forms of what was open, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server.model.runs import ClosedRun, Phase, Run
from stepwell_server.model.steps import ClosedStep, Step, StepState

if TYPE_CHECKING:
    from datetime import datetime

_STEP_FIELDS = [name for name in Step.__struct_fields__ if name in ClosedStep.__struct_fields__]


def close_step(step: Step, state: StepState, now: datetime, event: int, *, timed_out: bool = False) -> ClosedStep:
    """The ended form of an open step."""
    return ClosedStep(
        step.run_key,
        step.ordinal,
        step.scope,
        step.name,
        step.occurrence,
        step.key,
        step.kind,
        step.type,
        step.task_queue,
        step.priority,
        step.wait_name,
        step.seq,
        step.child_key,
        step.create_time,
        step.input_event,
        state,
        step.attempt,
        step.grants,
        step.start_time,
        now,
        event,
        timed_out,
        step.details,
    )


def open_step(step: ClosedStep) -> Step:
    """The open form of an ended step, which nobody has begun anew yet."""
    fields = {name: getattr(step, name) for name in _STEP_FIELDS}
    fresh = {"session_id": None, "returns": 0, "owner_id": "", "wake_time": None, "cancel_requested": False}
    return Step(**{**fields, **fresh, "state": StepState.PENDING})


def close_run(run: Run, phase: Phase, now: datetime, event: int) -> ClosedRun:
    """The closed form of an open run."""
    return ClosedRun(
        run.run_key,
        run.namespace_id,
        run.run_id,
        run.workflow_id,
        run.type,
        run.task_queue,
        run.priority,
        run.driven,
        run.managed,
        run.parent_key,
        run.parent_ordinal,
        run.correlation_id,
        run.traceparent,
        run.tracestate,
        run.create_time,
        run.deadline,
        phase,
        run.version + 1,
        run.last_event,
        run.last_step,
        run.last_signal,
        run.order_count,
        run.order_hash,
        run.grants,
        run.cancel_reason,
        run.cancel_time,
        run.build_id,
        now,
        event,
        run.details,
    )
