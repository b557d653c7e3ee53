"""Attempts of a run: one whose code failed begins anew, if its retry policy says so.

The run is the same, under its id and its name; its record begins again with nothing. History keeps what was. All times
that limit the run go on counting.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server.engine import endings, starts
from stepwell_server.engine.removing import count_again, forget_news, give_signals_back, take_out
from stepwell_server.engine.retries import delay_after
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import Phase, pack_details, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.model.payloads import Failure


def delay_before_next(change: Change, failure: Failure) -> float | None:
    """Seconds before the run begins anew, or None if its failure is final.

    It is so without a policy that says otherwise; of a run that was asked to cancel; where the run's time would be over
    before the next attempt begins; and where its history is full.
    """
    run = change.open
    details = unpack_details(run.details)
    if details.retry is None or run.cancel_time is not None or not change.has_room:
        return None
    delay = delay_after(details.retry, details.attempt, failure)
    last = starts.latest_end(run, details)
    if delay is None or (last is not None and change.now + timedelta(seconds=delay) >= last):
        return None
    return delay


def begin_anew(change: Change, failure: Failure, delay: float) -> None:
    """Ends the attempt: its open steps are cancelled, its record is emptied, and its signals are kept again.

    The code that begins anew is nobody's yet: it may be mended, and so the run is not pinned to a build.
    """
    run = change.open
    details = unpack_details(run.details)
    steps = change.every_step()
    begin_time = change.now + timedelta(seconds=delay)
    facts = {"attempt": str(details.attempt), "next_attempt_time": begin_time.isoformat(), "removed": str(len(steps))}
    event = change.event(EventType.RUN_ATTEMPT_FAILED, failure=failure, facts=facts)
    take_out(change, steps, f"attempt {details.attempt} of the run failed")
    count_again(change, dict.fromkeys(step.scope for step in steps))
    give_signals_back(change)
    details = replace(
        unpack_details(change.open.details),
        attempt=details.attempt + 1,
        begin_time=begin_time,
        failure_event=event,
        failed_token=run.grants,
    )
    change.update(
        phase=Phase.PENDING,
        session_id=None,
        owner_id="",
        dirty=False,
        returns=0,
        build_id="",
        suspend_time=None,
        details=pack_details(details),
    )
    change.update(wake_time=starts.next_look(change))
    if not starts.begins_later(change):
        endings.enqueue_run(change)
    forget_news(change, steps)


def has_failed(change: Change, token: int) -> bool:
    """Whether the holder of that grant has reported that the attempt failed, after which another began."""
    return change.run is not None and 0 < token == unpack_details(change.run.details).failed_token
