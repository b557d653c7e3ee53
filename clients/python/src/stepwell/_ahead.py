"""Going ahead: code goes on with what its worker's own activity came to, before that is known to be recorded.

The activity's report and what the code does then are recorded together, or neither is: one trip to the service less.
Only code that waits for nothing else goes ahead, so that it can't hear of things in another order than the record has.
It says so at once. Until that is answered nothing happens that anybody could see: functions of checkpoints wait, and
so do queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import StepRecord

if TYPE_CHECKING:
    from stepwell._calls import Call
    from stepwell._runs import RunExecution
    from stepwell._scopes import StepKey
    from stepwell.v1.types_pb2 import Payload
    from stepwell.v1.workers_pb2 import Task


def go_ahead(run: RunExecution, activity: Task, result: Payload) -> bool:
    """Lets the code go on with the result of that activity, if it waits for that alone. Tells whether it does."""
    # What the service records in another form is read as it is recorded.
    found = None if result.HasField("value") else _awaited(run)
    if found is None or found[1].ordinal != activity.step_ordinal:
        return False
    (scope, name, occurrence), call = found
    record = StepRecord(
        ordinal=call.ordinal,
        scope=scope,
        name=name,
        kind=types_pb2.STEP_KIND_ACTIVITY,
        state=types_pb2.STEP_STATE_COMPLETED,
        result=result,
    )
    if isinstance(occurrence, str):
        record.key = occurrence
    else:
        record.occurrence = occurrence
    run.ahead_of = activity.ref
    run.advance((record,))
    return True


def _awaited(run: RunExecution) -> tuple[StepKey, Call[Any]] | None:
    """The one call that all of the run waits for. None if there is anything else that it might hear of."""
    out = run.out
    if len(run.open) != 1 or not out.told_waiting or out.sent is not None or run.ahead_of is not None:
        return None
    if run.active or run.busy or run.unrecorded or run.is_leaving or run.is_broken or run.is_dropped:
        return None
    if run.record.steps or run.has_updates or run.races.running:
        return None
    ((key, call),) = run.open.items()
    is_awaited = call.scope is run.root and call.waiter is not None and not call.is_forsaken
    return (key, call) if is_awaited else None


async def result_is_recorded(run: RunExecution) -> None:
    """Waits until what the code has gone ahead of is recorded. If it never will be, the run is dropped."""
    if run.holding is None:
        run.holding = []
    await run.stay(run.holding)


def confirm(run: RunExecution) -> None:
    """Takes in that what the code has gone ahead of is recorded."""
    run.ahead_of = None
    holding, run.holding = run.holding, None
    run.let_go(holding or ())
    if run.has_caught_up and run.has_queries:
        run.queries.ready()
