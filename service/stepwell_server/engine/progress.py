"""What a run's code did: new steps, and perhaps the run's end. All or nothing.

The order of calls in each branch must agree with the record, else the run is paused: the code has changed.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine import builds, endings, going_ahead, grants, runs, starts
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.attempts import has_failed
from stepwell_server.engine.change import Change
from stepwell_server.engine.commands import Refused
from stepwell_server.engine.continuing import end_as_told
from stepwell_server.engine.differences import describe
from stepwell_server.engine.order import Changed, judge
from stepwell_server.engine.published import publish
from stepwell_server.engine.recording import record
from stepwell_server.engine.reported import (
    Checkpoint,
    End,
    NewChild,
    NewStep,
    NewTimer,
    NewTopicWait,
    NewWait,
    Result,
    ScopeClaim,
    SetAttributes,
    identity,
)
from stepwell_server.engine.run_calls import accepted_before, refuse_unaccepted
from stepwell_server.engine.wishes import Missing, Wanted
from stepwell_server.model.order import pack_differences
from stepwell_server.model.payloads import Payload
from stepwell_server.model.run_calls import Rejection
from stepwell_server.model.runs import ORDER_CHANGED, Phase, Run, RunRef
from stepwell_server.model.steps import (
    ClosedStep,
    EndedStep,
    Kind,
    Step,
)
from stepwell_server.model.topics import kept_name


class ProgressAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a progress: the ordinals of its steps, and which of them have ended already."""

    duplicate: bool
    ordinals: list[int]
    ended: list[EndedStep]


_PLAIN = frozenset({Checkpoint, NewActivity, NewTimer})
_REPEATED = ProgressAnswer(duplicate=True, ordinals=[], ended=[])


class ProgressRun(msgspec.Struct, frozen=True, gc=False):
    """See the module.

    `resident` tells that the worker keeps the run in memory while it waits, `build_id` which build the worker is of.
    """

    ref: RunRef
    session_id: UUID
    token: int
    scopes: list[ScopeClaim]
    steps: list[NewStep]
    cancels: list[int]
    waiting: bool
    end: End | None
    resident: bool
    calls: int | None = None  # all that the code has made, told at its end
    build_id: str = ""
    published: dict[str, Payload] = {}
    rejections: list[Rejection] = []
    stops: list[int] = []
    ahead_of: list[Result] = []

    def wants(self) -> Missing | None:
        wanted = _of_steps(self.steps)
        scopes = [claim.scope for claim in self.scopes if claim.scope]
        if scopes:
            wanted["scopes"] = scopes
        if self.cancels or self.stops or self.ahead_of:
            wanted["ordinals"] = [*self.cancels, *self.stops, *(result.ordinal for result in self.ahead_of)]
        if self.end is not None:
            wanted["open_steps"] = True
            if self.end.successor is not None and self.ref.run_key:
                wanted["carried"] = [self.ref.run_key]
        return Missing(**wanted) if wanted else None

    def decide(self, change: Change) -> ProgressAnswer | Refused:
        if change.run is None:
            return self._repeated_end(change)
        if self.end is not None and self.end.phase == Phase.FAILED and has_failed(change, self.token):
            return _REPEATED
        run = grants.held_run(change, self.session_id, self.token)
        going_ahead.require_recorded(change, self.ahead_of)
        verdict = judge(change, self)
        if not isinstance(verdict, list):
            going_ahead.require_alone(change, self.ahead_of)
        if isinstance(verdict, Changed):
            refusal, differences = describe(change, verdict)
            runs.pause(change, ORDER_CHANGED, refusal.message, pack_differences(differences))
            return Refused(refusal)
        if verdict is not None:
            return _told_again(verdict)
        if self.steps:
            _refuse_known(change, self.steps)
            refuse_unaccepted(change, self.steps)
        if self.steps or self.end is not None:
            _ask_for_names(change, run, self)
        if run.returns:
            change.update(returns=0)
        if self.steps or self.cancels or self.stops or self.end is not None:
            builds.recorded_by(change, self.build_id)
        change.news.reject(self.rejections)
        told = len(change.news.ended)
        ordinals = [record(change, step) for step in self.steps]
        _stop(change, self.stops)
        ended = change.news.keep_ended(told)
        _cancel(change, self.cancels)
        publish(change, self.published)
        if self.end is not None:
            end_as_told(change, run, self.end)
        elif self.waiting:
            _wait(change, resident=self.resident, goes_on=bool(ended))
        else:
            _go_on(change)
        if self.ahead_of:
            going_ahead.withhold(change, self.ahead_of)
        return ProgressAnswer(duplicate=False, ordinals=ordinals, ended=ended)

    def _repeated_end(self, change: Change) -> ProgressAnswer:
        closed = change.closed_run
        same = closed is not None and closed.grants == self.token and self.end is not None
        if not same or closed is None or self.end is None or closed.phase != self.end.phase:
            current = closed.grants if closed is not None else -1
            raise errors.LeaseLost(run_id=change.run_id, token=self.token, current=current)
        return _REPEATED


def _of_steps(steps: list[NewStep]) -> Wanted:
    """What new steps want to see: most nothing."""
    if all(type(step.body) in _PLAIN and not step.key for step in steps):
        return {}
    topics = [step.body.topic for step in steps if isinstance(step.body, NewTopicWait)]
    signals = [step.body.signal for step in steps if isinstance(step.body, NewWait)]
    keyed = [identity(step) for step in steps if step.key] + accepted_before(steps)
    wanted: Wanted = {"signals": [*signals, *map(kept_name, topics)], "topics": topics, "identities": keyed}
    if any(isinstance(step.body, SetAttributes) for step in steps):
        wanted["search_attributes"] = True
    return wanted


def _told_again(steps: list[Step | ClosedStep]) -> ProgressAnswer:
    """The answer to a repeat. It tells what has ended by now: the first answer may never have arrived."""
    ended = [
        EndedStep(step, None, None)
        for step in steps
        if isinstance(step, ClosedStep) and step.kind not in (Kind.LOCAL, Kind.MARKER)
    ]
    return ProgressAnswer(duplicate=True, ordinals=[step.ordinal for step in steps], ended=ended)


def _refuse_known(change: Change, steps: list[NewStep]) -> None:
    """Refuses new steps that name one step twice, or by a caller's key one that is recorded."""
    if len(steps) > 1 and len({identity(step) for step in steps}) < len(steps):
        raise errors.InvalidField(field="steps", problem="names the same step twice")
    for step in steps:
        if step.key and change.step_named(identity(step)) is not None:
            raise errors.InvalidField(field="steps", problem=f"uses key {step.key!r} of a recorded {step.name!r} again")


def _ask_for_names(change: Change, run: Run, progress: ProgressRun) -> None:
    """Asks for all workflow ids that the progress will claim together, and for the runs that its children replace."""
    births, space = change.births, run.namespace_id
    if births is None:
        return
    children = [step.body for step in progress.steps if isinstance(step.body, NewChild) and step.body.workflow_id]
    names = [(space, child.workflow_id) for child in children]
    if progress.end is not None and progress.end.successor is not None and run.workflow_id:
        names.append((space, run.workflow_id))
    if not names:
        return
    unknown = [name for name in names if name not in births.names]
    if unknown:
        raise Missing(names=unknown)
    replacing = [child for child in children if child.conflict == starts.Conflict.TERMINATE_EXISTING]
    found = [births.named(space, child.workflow_id) for child in replacing]
    others = {latest.key for latest in found if latest is not None and latest.phase < Phase.COMPLETED}
    others = {key for key in others - {run.run_key} if not births.is_at_hand(key)}
    if others:
        raise Missing(others=others)


def _cancel(change: Change, ordinals: list[int]) -> None:
    told = len(change.news.ended)
    for ordinal in ordinals:
        step = change.step(ordinal)
        if isinstance(step, Step):
            endings.cancel_step(change, step, "nobody waits for it")
    change.news.keep_ended(told)


def _go_on(change: Change) -> None:
    """The code is at work, though it may have waited until an update came to it."""
    if change.open.phase == Phase.SUSPENDED:
        change.update(phase=Phase.RUNNING, suspend_time=None)
    change.bump()


def _stop(change: Change, ordinals: list[int]) -> None:
    for ordinal in ordinals:
        step = change.step(ordinal)
        if isinstance(step, Step) and step.kind == Kind.ACTIVITY:
            endings.stop_activity(change, step, "its code asks it to stop")


def _wait(change: Change, *, resident: bool, goes_on: bool) -> None:
    """The code can't go on. A worker that does not keep the run gives it up; what it has not heard of queues it."""
    run = change.open
    if not resident and (goes_on or run.dirty):
        change.update(session_id=None, owner_id="")
        change.bump()
        endings.enqueue_run(change)
        return
    if goes_on:
        change.bump()
        return
    change.update(phase=Phase.SUSPENDED, suspend_time=change.now, version=run.version + 1)
    if run.wake_time is not None or run.details is not None:
        change.update(wake_time=starts.next_look(change))
    if not resident:
        change.update(session_id=None, owner_id="")
