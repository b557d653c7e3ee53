"""How a run's code hears that it was asked to cancel: once in each branch, and on a replay in the same places.

Where it was raised is recorded as a marker: `"wait"` behind the call at which the branch waited, `"call"` before one
that was never made, `"until n"` in its n-th wait for a condition. A shielded branch counts as having heard of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell._calls import ENDED, Call, RaceLost, RunCancelled
from stepwell._scopes import CANCEL_MARK, LOST_MARK, key_of
from stepwell._updates import Condition
from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import MarkerStep

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell._scopes import Scope
    from stepwell.v1.workers_pb2 import StepRecord, Task

WAIT, CALL = "wait", "call"
_CANCELLED = types_pb2.STEP_STATE_CANCELLED


class Cancellation:
    """Whether a run was asked to cancel, and which of its branches have heard so."""

    __slots__ = ("_run", "is_due", "reason")

    def __init__(self, run: RunExecution, task: Task) -> None:
        """Begins with what the assignment says."""
        self._run = run
        self.is_due = task.cancel_requested
        self.reason = task.cancel_reason

    def part(self) -> None:
        """Forgets the run, of which nothing is under way any more."""
        del self._run

    def request(self, reason: str) -> None:
        """Takes note that cancellation was asked for."""
        self.is_due = True
        self.reason = reason
        self._run.wake()

    def meet(self, scope: Scope, place: str, given_up: StepRecord | None = None) -> None:
        """Raises the cancellation, or that a race is lost, again where the record has it.

        `given_up`: the step that the branch waited for. If that is open, the worker before was lost between the two.
        """
        mark = scope.marks.get(scope.count)
        if mark is None or mark.name not in {CANCEL_MARK, LOST_MARK} or mark.result.json.strip('"') != place:
            return
        if mark.name == LOST_MARK and scope.lost is None:
            if scope.strayed is None:
                scope.strayed = (scope.count, [])
                self._run.out.note(scope)
                self._run.stray(f"branch {scope.path} has lost a race, and is in none")
            return
        del scope.marks[scope.count]
        if given_up is not None and given_up.state not in ENDED:
            self._run.out.cancel_ordinals.append(given_up.ordinal)
            self._run.wake()
        self._run.record.steps.pop(key_of(mark), None)
        self._run.out.replay(scope, mark.kind, mark.name, mark.key)
        if mark.name == LOST_MARK:
            scope.hear_loss()
            raise RaceLost
        scope.cancel_seen = True
        raise RunCancelled(self.reason)

    def meet_until(self, scope: Scope) -> None:
        """The same while a branch waits until something holds."""
        self.meet(scope, _until(scope))

    def note(self, scope: Scope, place: str) -> RunCancelled:
        """Records that a branch hears of it here, and gives what is to be raised."""
        scope.cancel_seen = True
        self._run.add_step(scope, types_pb2.STEP_KIND_MARKER, CANCEL_MARK, "", body={"marker": marker_of(place)})
        return RunCancelled(self.reason)

    def ended(self, scope: Scope, record: StepRecord) -> bool:
        """Tells whether it ended a step whose branch has yet to hear of it."""
        return record.state == _CANCELLED and self.is_due and not scope.cancel_seen

    def raise_where_code_waits(self) -> bool:
        """Raises it in all branches that wait, but for those that wait for an activity's own end first.

        Others meet it at their next call. Tells whether it was raised in any.
        """
        if not self.is_due:
            return False
        is_raised = False
        for scope in list(self._run.scopes.values()):
            waiting = scope.waiting
            if scope.cancel_seen or not isinstance(waiting, Call | Condition):
                continue
            if isinstance(waiting, Call) and waiting.is_patient:
                self._run.out.stop(waiting)
                continue
            waiting.interrupt(self.note(scope, place_of(scope)))
            is_raised = True
        return is_raised


def marker_of(place: str) -> MarkerStep:
    """Spells where a branch hears of something."""
    return MarkerStep(value=types_pb2.Payload(json=f'"{place}"'))


def place_of(scope: Scope) -> str:
    """Names where a branch waits."""
    return WAIT if isinstance(scope.waiting, Call) else _until(scope)


def _until(scope: Scope) -> str:
    """Names the wait for a condition that a branch is in."""
    return f"until {scope.untils}"
