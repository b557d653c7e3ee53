"""What a run waits for, in words."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from stepwell.cli.output import time_of
from stepwell.v1.types_pb2 import StepKind

if TYPE_CHECKING:
    from typing import Any

    from stepwell.sync import RunHandle
    from stepwell.v1.runs_pb2 import Step

_MOST = 5


def awaited_by(handle: RunHandle[Any]) -> str:
    """Names the open timers, children, signals and topics of a run, the first few of them."""
    found = [_words(step) for step in islice(handle.steps(states=["waiting"]), _MOST + 1)]
    return ", ".join(found[:_MOST] + ["and more"] * (len(found) > _MOST))


def _words(step: Step) -> str:
    what = step.wait_name or step.type or step.name
    kind = StepKind.Name(step.kind).removeprefix("STEP_KIND_").lower().replace("_", " ")
    if step.wait_name:
        kind = "topic" if step.on_topic else "signal"
    what = f"{what} ({step.user_task_id})" if step.user_task_id else what
    until = f" until {time_of(step.wake_time)}" if step.HasField("wake_time") else ""
    return f"{kind} {what}{until}"
