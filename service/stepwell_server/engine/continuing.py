"""How a run's code ends it, also by going on as a new run, or by beginning anew after a failure."""

from __future__ import annotations

import msgspec

from stepwell_server.engine import attempts, carrying, concurrency, endings, search_attributes, starts
from stepwell_server.engine.change import Change
from stepwell_server.engine.reported import End
from stepwell_server.ids import uuid7_ending_as
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Failure
from stepwell_server.model.runs import Phase, Run, RunDetails, pack_details, unpack_details
from stepwell_server.telemetry.contexts import of_successor


def end_as_told(change: Change, run: Run, end: End) -> None:
    """Ends the run as its holder says."""
    phase = Phase(end.phase)
    # The holder ends the run itself, and needs no word of it.
    change.update(session_id=None)
    if end.successor is None:
        _end(change, phase, end)
        return
    births = change.births
    if births is None:
        raise AssertionError("a batch can bear runs")
    left = change.left_signals(run.run_key)
    run_id = uuid7_ending_as(run.run_id)
    successor = starts.open_run(
        starts.NewRun(
            run_id=run_id,
            namespace_id=run.namespace_id,
            namespace=change.namespace,
            type=end.successor.type or run.type,
            task_queue=end.successor.task_queue or run.task_queue,
            workflow_id=run.workflow_id,
            input=end.successor.input,
            priority=run.priority,
            correlation_id=run.correlation_id,
            traceparent=of_successor(run.traceparent, run_id),
            timeout_seconds=starts.span_of(run),
            parent_key=run.parent_key,
            parent_ordinal=run.parent_ordinal,
            details=_handed_on(run, carried_from=run.run_key if left.has_more else 0),
            search_attributes=search_attributes.handed_on(change),
        ),
        births,
        change.now,
        change.limits,
    )
    births.bear(successor)
    successor.news.follows = run.traceparent
    continue_details(change, successor)
    concurrency.hand_on(change, successor)
    carrying.hand_over(change, successor, left)
    endings.end_run(change, Phase.COMPLETED, kind=EventType.RUN_CONTINUED)


def _end(change: Change, phase: Phase, end: End) -> None:
    if phase == Phase.FAILED:
        failure = end.failure or Failure("")
        delay = attempts.delay_before_next(change, failure)
        if delay is not None:
            attempts.begin_anew(change, failure, delay)
            return
    endings.end_run(change, phase, payload=end.payload, failure=end.failure)


def _handed_on(run: Run, carried_from: int) -> RunDetails:
    """What the next run of a chain takes over."""
    details = unpack_details(run.details)
    return RunDetails(
        maximum_run_seconds=details.maximum_run_seconds,
        maximum_suspend_seconds=details.maximum_suspend_seconds,
        retry=details.retry,
        source_run_id=str(run.run_id),
        parent_run_id=details.parent_run_id,
        parent_workflow_id=details.parent_workflow_id,
        first_key=details.first_key or run.run_key,
        carried_from=carried_from,
        definition=details.definition,
        concurrency=details.concurrency,
        slot=details.slot,
        fairness_key=details.fairness_key,
    )


def continue_details(change: Change, successor: Change) -> None:
    """Notes which run goes on with the work."""
    details = unpack_details(change.open.details)
    next_id, next_key = str(successor.run_id), successor.run_key
    details = msgspec.structs.replace(details, continued_run_id=next_id, continued_key=next_key)
    change.update(details=pack_details(details))
