"""Cancellation in a run's branches: raised once in each, marked in its record, and raised again there in a replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell._calls import Call, RunCancelled
from stepwell._scopes import CANCEL_MARK, key_of
from stepwell._updates import Condition
from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import MarkerStep

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell._scopes import Scope

# Where a branch met it: in a call that it waited for, or at its next call; `until_of` in its n-th wait for a condition.
WAIT, CALL = "wait", "call"


def until_of(scope: Scope) -> str:
    """Names the wait for a condition that a branch is in."""
    return f"until {scope.untils}"


def meet_mark(run: RunExecution, scope: Scope, place: str) -> None:
    """Raises the cancellation again where the record has it."""
    mark = scope.marks.get(scope.count)
    if mark is None or mark.name != CANCEL_MARK or mark.result.json.strip('"') != place:
        return
    del scope.marks[scope.count]
    run.record.steps.pop(key_of(mark), None)
    run.out.replay(scope, mark.kind, CANCEL_MARK, "")
    scope.cancel_seen = True
    raise RunCancelled(run.cancel_reason)


def mark_cancelled(run: RunExecution, scope: Scope, place: str) -> None:
    """Marks that a branch is about to meet the cancellation."""
    scope.cancel_seen = True
    value = types_pb2.Payload(json=f'"{place}"')
    run.add_step(scope, types_pb2.STEP_KIND_MARKER, CANCEL_MARK, "", body={"marker": MarkerStep(value=value)})


def cancel_waiting(run: RunExecution) -> bool:
    """Raises a requested cancellation in all branches that wait; others meet it at their next call."""
    is_raised = False
    for scope in list(run.scopes.values()):
        waiting = scope.waiting
        if scope.cancel_seen or not isinstance(waiting, Call | Condition):
            continue
        mark_cancelled(run, scope, WAIT if isinstance(waiting, Call) else until_of(scope))
        waiting.interrupt(RunCancelled(run.cancel_reason))
        is_raised = True
    return is_raised
