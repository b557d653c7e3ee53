"""What becomes of a schedule that is due: which firings go ahead, wait or are left out, and when the next one is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING
from uuid import uuid5

import msgspec
from msgspec.structs import replace

from stepwell_server.engine import cron
from stepwell_server.engine.starts import NewRun, StartRun
from stepwell_server.model.schedules import Overlap, Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from stepwell_server.model.schedules import OpenRun, Schedule, Spec

MOST_TIMES = 1_000
"""How many times one look at a schedule goes through."""
_ONCE = b"schedule"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(NewRun)


class Plan(msgspec.Struct):
    """What to do about a schedule. `terminate` goes before `starts`, which are the times to fire, in their order."""

    starts: list[datetime] = []
    terminate: bool = False
    cancel: bool = False
    keep: list[Waiting] = []
    skipped: int = 0
    missed: int = 0
    next_nominal: datetime | None = None


def pack_run(run: NewRun) -> bytes:
    """What a schedule starts, as a column."""
    return _encoder.encode(run)


def unpack_run(packed: bytes) -> NewRun:
    """The inverse of `pack_run`."""
    return _decoder.decode(packed)


def heeds_open_runs(schedule: Schedule, waiting: Sequence[Waiting]) -> bool:
    """Whether it matters for a schedule, or for what waits of it, which of its runs are open."""
    policies = {schedule.overlap_policy, *(each.overlap_policy for each in waiting)}
    return policies != {Overlap.ALLOW_ALL}


def plan(schedule: Schedule, waiting: Sequence[Waiting], open_runs: Sequence[OpenRun], now: datetime) -> Plan:
    """Goes through what waits and what is due, in the order of their times."""
    due, missed, following = _due(schedule, now)
    made = Plan(missed=missed, next_nominal=following)
    firings = [*waiting, *(Waiting(schedule.schedule_id, time, schedule.overlap_policy) for time in due)]
    for firing in sorted(firings, key=lambda each: each.nominal_time):
        _place(made, firing, open_runs)
    return made


def _place(made: Plan, firing: Waiting, open_runs: Sequence[OpenRun]) -> None:
    policy, time = firing.overlap_policy, firing.nominal_time
    if policy == Overlap.ALLOW_ALL or not (open_runs or made.starts):
        made.starts.append(time)
    elif policy == Overlap.BUFFER_ONE and not any(each.overlap_policy == policy for each in made.keep):
        made.keep.append(firing)
    elif policy == Overlap.TERMINATE_OTHER and not made.starts:
        made.terminate = True
        made.starts.append(time)
    elif policy == Overlap.CANCEL_OTHER and not made.starts:
        left = [each for each in made.keep if each.overlap_policy != policy]
        made.skipped += len(made.keep) - len(left)
        made.keep = [*left, firing]
        made.cancel = any(not run.cancel_requested for run in open_runs)
    else:
        made.skipped += 1
        if policy in {Overlap.TERMINATE_OTHER, Overlap.CANCEL_OTHER}:
            # The one that would be stopped at once does not begin.
            made.starts[-1] = time


def _due(schedule: Schedule, now: datetime) -> tuple[list[datetime], int, datetime | None]:
    """The times that have come and are not too old, how many are, and the first that has not come."""
    first = schedule.next_nominal
    if first is None or schedule.next_time is None or schedule.next_time > now:
        return [], 0, first
    oldest = now - timedelta(seconds=schedule.catchup_seconds)
    due: list[datetime] = []
    missed = 0
    # The first may be a time that the fields do not name, given at creation.
    for count, time in enumerate(chain([first], cron.times_after(schedule.spec, first))):
        if count == MOST_TIMES or (count and cron.with_jitter(schedule.spec, schedule.schedule_id, time) > now):
            return due, missed, time
        if time < oldest:
            missed += 1
        else:
            due.append(time)
    return due, missed, None


class Owed(msgspec.Struct, frozen=True):
    """What of a schedule is due and has yet to fire: its times, how many were too old, and whether there are more."""

    times: list[datetime] = []
    missed: int = 0
    has_more: bool = False


def patched(before: Schedule, after: Schedule, now: datetime) -> tuple[Schedule, Owed]:
    """A schedule that a call changes, when it fires next, and what it owes by the times that it had.

    Only a change of its times reckons the next firing anew. What is due by then neither waits for the new times nor is
    forgotten.
    """
    if after.spec == before.spec:
        return replace(after, next_time=before.next_time, next_nominal=before.next_nominal), Owed()
    if before.pause_reason is not None:
        return replace(after, next_time=None, next_nominal=None), Owed()
    owed = _owed(before, now)
    next_time, nominal = next_firing(after.spec, after.schedule_id, now)
    return replace(after, next_time=next_time, next_nominal=nominal, missed=before.missed + owed.missed), owed


def paused(before: Schedule, reason: str, now: datetime) -> Schedule:
    """A schedule that fires no more. What is due by then and has yet to fire is missed."""
    owed = _owed(before, now)
    missed = before.missed + owed.missed + len(owed.times)
    return replace(before, pause_reason=reason, next_time=None, next_nominal=None, missed=missed, update_time=now)


def _owed(schedule: Schedule, now: datetime) -> Owed:
    try:
        due, missed, following = _due(schedule, now)
    except cron.BadTimes:
        # A zone that this machine does not know: of what is due only the first time is known.
        first = schedule.next_nominal
        return Owed([] if first is None else [first])
    is_next_due = following is not None and cron.with_jitter(schedule.spec, schedule.schedule_id, following) <= now
    return Owed(due, missed, has_more=is_next_due and len(due) + missed == MOST_TIMES)


def next_firing(spec: Spec, schedule_id: UUID, now: datetime) -> tuple[datetime | None, datetime | None]:
    """When a schedule fires next, with jitter, and for which time."""
    nominal = cron.first_after(spec, now)
    return (None, None) if nominal is None else (cron.with_jitter(spec, schedule_id, nominal), nominal)


def times_between(spec: Spec, start: datetime, end: datetime) -> list[datetime]:
    """The times of a span, its end not in it; one more than may be fired at once tells that it is too long."""
    found: list[datetime] = []
    for time in islice(cron.times_after(spec, start - timedelta(microseconds=1)), MOST_TIMES + 1):
        if time >= end:
            break
        found.append(time)
    return found


def workflow_id_of(schedule: Schedule, nominal: datetime) -> str:
    """The workflow id of the run that is for a time."""
    return _workflow_id(schedule, _stamp(nominal))


def first_times(spec: Spec, after: datetime, count: int) -> list[datetime]:
    """The first so many times after a moment."""
    return list(islice(cron.times_after(spec, after), count))


def trigger_of(schedule: Schedule, run_id: UUID, traceparent: str) -> StartRun:
    """The start of a run of the schedule out of its turn."""
    return _start(schedule, str(run_id), run_id, traceparent)


def start_of(schedule: Schedule, nominal: datetime, traceparent: str) -> StartRun:
    """The start that a firing is. Its ids follow from the time, so that a repeat finds the run."""
    stamp = _stamp(nominal)
    return _start(schedule, stamp, uuid5(schedule.schedule_id, stamp), traceparent)


def _start(schedule: Schedule, suffix: str, run_id: UUID, traceparent: str) -> StartRun:
    template = unpack_run(schedule.run)
    run = replace(
        template,
        run_id=run_id,
        workflow_id=_workflow_id(schedule, suffix),
        correlation_id=template.correlation_id or schedule.name,
        traceparent=traceparent,
    )
    return StartRun(run, request_hash=_ONCE)


def _workflow_id(schedule: Schedule, suffix: str) -> str:
    return f"{unpack_run(schedule.run).workflow_id or schedule.name}-{suffix}"


def _stamp(nominal: datetime) -> str:
    return nominal.astimezone(UTC).isoformat().replace("+00:00", "Z")
