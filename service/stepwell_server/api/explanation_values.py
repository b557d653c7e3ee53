"""Why a run or a job does not move, from what the API says of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from stepwell.v1 import explanations_pb2, jobs_pb2, runs_pb2, types_pb2
from stepwell_server.api.run_values import time_to_proto
from stepwell_server.api.task_waits import task_wait_to_proto
from stepwell_server.engine.rate_limits import later_time, settled
from stepwell_server.model.tasks import TaskKind
from stepwell_server.store.task_queues import MOST_COUNTED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from google.protobuf.timestamp_pb2 import Timestamp

    from stepwell_server.model.queue_settings import QueueSettings
    from stepwell_server.model.workers import Crew
    from stepwell_server.store.concurrency import Position
    from stepwell_server.store.task_queues import Backlog

Explanation = explanations_pb2.Explanation
_CODES = {
    runs_pb2.Run.TaskWait.REASON_NO_WORKER: Explanation.CODE_NO_WORKER,
    runs_pb2.Run.TaskWait.REASON_NO_BUILD: Explanation.CODE_NO_BUILD,
    runs_pb2.Run.TaskWait.REASON_NO_ROOM: Explanation.CODE_NO_ROOM,
}
_ADVICE = {
    Explanation.CODE_NO_WORKER: "start a worker for it, or look for a slip in the type or the queue",
    Explanation.CODE_NO_BUILD: "start a worker of that build, declare a compatible one, or pin the run to another",
    Explanation.CODE_NO_ROOM: "wait, or start more workers",
}
_TERMINAL = types_pb2.RUN_PHASE_COMPLETED
_ORDER_CHANGED = "ORDER_CHANGED"
# The leader deals with what is due several times a second, if all is well.
_LATE_SECONDS = 5.0


class Around(NamedTuple):
    """What is known beside the run or the job: who is live, what waits in the queues, and the time."""

    crew: Crew
    backlogs: Sequence[Backlog]
    settings: Mapping[str, QueueSettings]
    now: datetime
    # Of the run's or the job's key, by queue: until when its bucket is spent, and how long it took to fill.
    key_buckets: Mapping[str, tuple[datetime, float]]
    position: Position | None = None
    # What a session holds that has expired: steps by their ordinals, the run or the job itself as 0.
    left: Collection[int] = ()

    def queued(self, kind: TaskKind, type_name: str, task_queue: str, build_id: str, since: datetime) -> Explanation:
        """Why a task waits in its queue, and with how many others."""
        wait = task_wait_to_proto(kind, type_name, task_queue, build_id, since, self.crew)
        alike = (task_queue, int(kind), type_name, build_id)
        counts = {(each.task_queue, each.kind, each.type, each.build_id): each.count for each in self.backlogs}
        code = _CODES[wait.reason]
        later, whose = max(((self._later(task_queue), ""), (self._key_later(task_queue), " of its key")), key=_by_time)
        if code == Explanation.CODE_NO_ROOM and later is not None:
            limit = "that of its key" if whose else "its rate limit"
            return Explanation(
                code=Explanation.CODE_RATE_LIMITED,
                text=f"waits in queue {task_queue} for {limit}: the next task{whose} is given at {later.isoformat()}",
                advice=f"wait, or set another limit with `stepwell queue set {task_queue}`",
                since=wait.ready_time,
                until=time_to_proto(later) if counts.get(alike, 1) == 1 else None,
                backlog_count=min(counts.get(alike, 1), MOST_COUNTED),
            )
        return Explanation(
            code=code,
            text=f"waits in queue {task_queue}: {wait.details}",
            advice=_ADVICE[code],
            since=wait.ready_time,
            backlog_count=min(counts.get(alike, 1), MOST_COUNTED),
        )

    def _later(self, task_queue: str) -> datetime | None:
        """When a queue gives its next task, if that is later because of its limit."""
        found = self.settings.get(task_queue)
        limit = None if found is None else found.rate_limit
        return None if limit is None or found is None else later_time(limit, found.spent_until, self.now)

    def _key_later(self, task_queue: str) -> datetime | None:
        """The same of the key of which this task is."""
        found, bucket = self.settings.get(task_queue), self.key_buckets.get(task_queue)
        limit = None if found is None else found.key_rate_limit
        if limit is None or found is None or bucket is None:
            return None
        return later_time(limit, settled(limit, *bucket, found.update_time), self.now)


def _by_time(told: tuple[datetime | None, str]) -> float:
    return -math.inf if told[0] is None else told[0].timestamp()


def explain_run(
    run: runs_pb2.Run, steps: Sequence[runs_pb2.Step], ready: Mapping[int, datetime], around: Around
) -> list[Explanation]:
    """What stops the run as a whole, then what its open steps wait for. `ready` has the queued ones; the run is 0."""
    if run.phase >= _TERMINAL:
        return [_ended(run)]
    found = _of_the_whole(run, ready, around)
    is_ours = not run.HasField("pause") and (run.managed or not run.driven)
    for step in steps:
        explained = _of_step(step, ready.get(step.ordinal), around)
        if is_ours:
            _look_at_time(explained, around.now)
        explained.step_ordinal, explained.step_name = step.ordinal, step.name
        found.append(explained)
    if run.driven and not run.managed:
        text = "an engine drives it: its timers, retries and time limits happen when that asks"
        advice = "look whether its engine runs, and asks for what is due"
        found.append(Explanation(code=Explanation.CODE_DRIVEN, text=text, advice=advice))
    return found or [_held_or_moving(run, around)]


def explain_job(job: jobs_pb2.Job, ready: datetime | None, around: Around) -> list[Explanation]:
    """What a job waits for."""
    if job.HasField("end_time"):
        text = f"ended {jobs_pb2.JobState.Name(job.state).removeprefix('JOB_STATE_')}"
        advice = "begin it anew with `stepwell job retry`" if job.state == jobs_pb2.JOB_STATE_FAILED else ""
        return [Explanation(code=Explanation.CODE_ENDED, text=text, advice=advice, since=job.end_time)]
    found = []
    if job.HasField("cancel_request"):
        found.append(_cancelling(job.cancel_request.reason, job.cancel_request.time))
    if ready is not None:
        found.append(around.queued(TaskKind.ACTIVITY, job.type, job.task_queue, "", ready))
    elif job.state == jobs_pb2.JOB_STATE_RUNNING:
        found.append(_performed(job.owner_id, job.attempt, job.start_time, _given(job, "wake_time"), 0 in around.left))
    else:
        found.append(_delayed(job.attempt, _given(job, "wake_time")))
    _look_at_time(found[-1], around.now)
    return found


def tell_of_leader(found: Sequence[Explanation], *, is_led: bool) -> None:
    """Says of what is overdue why that may be."""
    for each in found:
        if each.code == Explanation.CODE_OVERDUE:
            each.text += ", and the leader has not dealt with it" if is_led else ", and no replica leads"
            each.advice = "look for `elected`, `resigned` and `round failed` in the logs of the replicas"


def _of_the_whole(run: runs_pb2.Run, ready: Mapping[int, datetime], around: Around) -> list[Explanation]:
    found = []
    if run.HasField("pause"):
        found.append(_paused(run))
    if run.HasField("cancel_request"):
        found.append(_cancelling(run.cancel_request.reason, run.cancel_request.time))
    if run.HasField("begin_time") and run.begin_time.ToNanoseconds() > around.now.timestamp() * 1e9:
        found.append(_delayed(run.attempt, run.begin_time))
    elif 0 in around.left:
        found.append(_lost(run.owner_id, run.update_time))
    elif around.position is not None:
        found.append(_limited(run, around.position))
    elif 0 in ready:
        found.append(around.queued(TaskKind.RUN, run.type, run.task_queue, run.build_id, ready[0]))
    elif run.driven and run.phase == types_pb2.RUN_PHASE_SUSPENDED:
        found.append(_suspended(run))
    elif run.driven and run.owner_id:
        found.append(_held_or_moving(run, around))
    elif _is_overdue_start(run, around.now):
        found.append(_delayed(run.attempt, run.begin_time))
        _look_at_time(found[-1], around.now)
    return found


def _is_overdue_start(run: runs_pb2.Run, now: datetime) -> bool:
    is_pending = run.phase == types_pb2.RUN_PHASE_PENDING and not run.HasField("pause")
    return is_pending and not run.driven and run.HasField("begin_time") and _is_past(run.begin_time, now)


def _is_past(time: Timestamp, now: datetime) -> bool:
    """Whether the leader should have dealt with it, though it may be busy."""
    return time.ToNanoseconds() / 1e9 < now.timestamp() - _LATE_SECONDS


def _look_at_time(told: Explanation, now: datetime) -> None:
    """What should be over by now waits for the leader."""
    if told.HasField("until") and told.code != Explanation.CODE_HOLDER_LOST and _is_past(told.until, now):
        told.code = Explanation.CODE_OVERDUE
        told.text += f"; its time came at {told.until.ToJsonString()}"


def _lost(owner_id: str, since: Timestamp) -> Explanation:
    return Explanation(
        code=Explanation.CODE_HOLDER_LOST,
        text=f"{owner_id or 'its worker'} had it, and its session has expired",
        advice="wait: it goes back to its queue once a leader has led for a session's time",
        since=since,
        owner_id=owner_id,
    )


def _ended(run: runs_pb2.Run) -> Explanation:
    phase = types_pb2.RunPhase.Name(run.phase).removeprefix("RUN_PHASE_")
    text, advice = f"ended {phase}", "" if run.phase == _TERMINAL else "let it go on with `stepwell run retry`"
    if run.continued_run_id:
        text, advice = f"{text}: run {run.continued_run_id} goes on with its work", "ask about that one"
    other = run.continued_run_id
    return Explanation(code=Explanation.CODE_ENDED, text=text, advice=advice, since=run.end_time, other_run_id=other)


def _paused(run: runs_pb2.Run) -> Explanation:
    details = f", {run.pause.details}" if run.pause.details else ""
    advice = "let it go on with `stepwell run resume`"
    if run.pause.reason == _ORDER_CHANGED:
        advice = "its code no longer fits its record: mend the code, or the record with `stepwell run repair`"
    return Explanation(
        code=Explanation.CODE_PAUSED, text=f"paused: {run.pause.reason}{details}", advice=advice, since=run.pause.time
    )


def _cancelling(reason: str, since: Timestamp) -> Explanation:
    text = f"was asked to cancel: {reason}" if reason else "was asked to cancel"
    return Explanation(code=Explanation.CODE_CANCEL_REQUESTED, text=text, since=since)


def _delayed(attempt: int, until: Timestamp | None) -> Explanation:
    text = f"attempt {attempt + 1} is tried later" if attempt else "begins later"
    return Explanation(code=Explanation.CODE_DELAYED, text=text, until=until)


def _limited(run: runs_pb2.Run, position: Position) -> Explanation:
    limit = run.concurrency
    return Explanation(
        code=Explanation.CODE_CONCURRENCY,
        text=f"waits for its turn under limit {limit.name} of key {limit.key}: {position.ahead} before it",
        advice="wait, or end a run of that key",
        since=time_to_proto(position.arrive_time),
        ahead_count=position.ahead,
    )


def _suspended(run: runs_pb2.Run) -> Explanation:
    text, advice = "suspended by its engine", "resume it by its engine, with `ResumeRunWith`"
    if run.wait_topic:
        text, advice = f"suspended until topic {run.wait_topic} has an event", "emit one with `ResolveWatchers`"
    return Explanation(
        code=Explanation.CODE_SUSPENDED,
        text=text,
        advice=advice,
        since=run.update_time,
        until=_given(run, "wake_time"),
        step_name=run.active_step,
    )


def _held_or_moving(run: runs_pb2.Run, around: Around) -> Explanation:
    if 0 in around.left:
        return _lost(run.owner_id, run.update_time)
    if not run.owner_id:
        return Explanation(code=Explanation.CODE_MOVING, text="is about to go on", since=run.update_time)
    return Explanation(
        code=Explanation.CODE_HELD,
        text=f"{run.owner_id} has it, and is at it",
        since=run.update_time,
        until=_given(run, "lease_expire_time"),
        owner_id=run.owner_id,
    )


def _of_step(step: runs_pb2.Step, ready: datetime | None, around: Around) -> Explanation:
    if step.kind in _WAITS:
        return _waiting(step)
    if ready is not None:
        return around.queued(TaskKind.ACTIVITY, step.type, step.task_queue, "", ready)
    if step.state == types_pb2.STEP_STATE_RUNNING:
        is_left = step.ordinal in around.left
        return _performed(step.owner_id, step.attempt, step.start_time, _given(step, "wake_time"), is_left)
    return _delayed(step.attempt, _given(step, "wake_time"))


def _waiting(step: runs_pb2.Step) -> Explanation:
    code, text, advice = _WAITS[step.kind]
    if step.kind == types_pb2.STEP_KIND_WAIT and step.on_topic:
        code, text, advice = Explanation.CODE_TOPIC, _TOPIC_TEXT, _TOPIC_ADVICE
    return Explanation(
        code=code,
        text=text.format(step=step),
        advice=advice.format(step=step),
        since=step.create_time,
        until=_given(step, "wake_time"),
        other_run_id=step.child_run_id,
    )


def _performed(owner_id: str, attempt: int, since: Timestamp, until: Timestamp | None, is_left: bool) -> Explanation:  # noqa: FBT001
    if is_left:
        return _lost(owner_id, since)
    text = f"{owner_id} is at attempt {attempt}" if owner_id else f"attempt {attempt} is under way"
    return Explanation(code=Explanation.CODE_HELD, text=text, since=since, until=until, owner_id=owner_id)


def _given(message: runs_pb2.Run | runs_pb2.Step | jobs_pb2.Job, field: str) -> Timestamp | None:
    found: Timestamp = getattr(message, field)
    return found if message.HasField(field) else None  # type: ignore[arg-type]


_TOPIC_TEXT = "waits for an event of topic {step.wait_name}"
_TOPIC_ADVICE = "publish one with `stepwell topic publish {step.wait_name}`"
_WAITS = {
    types_pb2.STEP_KIND_TIMER: (Explanation.CODE_TIMER, "sleeps", ""),
    types_pb2.STEP_KIND_WAIT: (
        Explanation.CODE_SIGNAL,
        "waits for signal {step.wait_name}",
        "send it with `stepwell run signal RUN {step.wait_name}`",
    ),
    types_pb2.STEP_KIND_CHILD: (
        Explanation.CODE_CHILD,
        "waits for run {step.child_run_id}, its child",
        "ask about that one: `stepwell run explain {step.child_run_id}`",
    ),
    types_pb2.STEP_KIND_USER_TASK: (
        Explanation.CODE_USER_TASK,
        "waits for somebody to complete task {step.user_task_id}",
        "see `stepwell task show {step.user_task_id}`",
    ),
}
