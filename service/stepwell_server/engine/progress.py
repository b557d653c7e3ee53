"""What a run's code did: new steps, and perhaps the run's end. All or nothing.

The order of calls in each branch must agree with the record, else the run is paused: the code has changed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine import endings, grants, runs, starts
from stepwell_server.engine.activities import NewActivity
from stepwell_server.engine.change import Change
from stepwell_server.engine.commands import Refused
from stepwell_server.engine.order import chain
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import ORDER_CHANGED, Phase, RunDetails, RunRef, pack_details, unpack_details
from stepwell_server.model.steps import (
    ClosedStep,
    EndedStep,
    Kind,
    Scope,
    Step,
    StepDetails,
    StepState,
    pack_step_details,
)
from stepwell_server.model.tasks import TaskKind

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.model.runs import Run


class NewTimer(msgspec.Struct, frozen=True, gc=False):
    """A timer to set."""

    seconds: float


class NewWait(msgspec.Struct, frozen=True, gc=False):
    """A wait for a signal."""

    signal: str
    timeout_seconds: float | None = None


class NewChild(msgspec.Struct, frozen=True, gc=False):
    """A child to start."""

    type: str
    task_queue: str = ""
    workflow_id: str = ""
    input: Payload = NULL
    close_policy: int = 1
    timeout_seconds: float | None = None


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint that is done, or a fact (a marker)."""

    payload: Payload
    failure: Failure | None = None


class NewStep(msgspec.Struct, frozen=True, gc=False):
    """A step that the code says is not recorded yet."""

    scope: str
    name: str
    occurrence: int
    key: str
    fingerprint: bytes
    kind: int
    body: Checkpoint | NewActivity | NewTimer | NewWait | NewChild


class ScopeClaim(msgspec.Struct, frozen=True, gc=False):
    """Where the code says it stands in a branch, before this progress's new steps."""

    scope: str
    count: int
    hash: bytes
    closed: bool


class Successor(msgspec.Struct, frozen=True, gc=False):
    """The run that goes on with the work."""

    input: Payload
    type: str = ""
    task_queue: str = ""


class End(msgspec.Struct, frozen=True, gc=False):
    """The end of the run, as its code says."""

    phase: int
    payload: Payload = NULL
    failure: Failure | None = None
    successor: Successor | None = None


class ProgressAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a progress: the ordinals of its steps, and which of them have ended already."""

    duplicate: bool
    ordinals: list[int]
    ended: list[EndedStep]


class ProgressRun(msgspec.Struct, frozen=True, gc=False):
    """See the module. `resident` tells that the worker keeps the run in memory while it waits."""

    ref: RunRef
    session_id: UUID
    token: int
    scopes: list[ScopeClaim]
    steps: list[NewStep]
    cancels: list[int]
    waiting: bool
    end: End | None
    resident: bool

    def wants(self) -> Missing | None:
        signals = [step.body.signal for step in self.steps if isinstance(step.body, NewWait)]
        scopes = [claim.scope for claim in self.scopes if claim.scope]
        keyed = [_identity(step) for step in self.steps if step.key]
        if not signals and not scopes and not keyed and not self.cancels and self.end is None:
            return None
        ends = self.end is not None
        return Missing(signals=signals, scopes=scopes, identities=keyed, ordinals=self.cancels, open_steps=ends)

    def decide(self, change: Change) -> ProgressAnswer | Refused:
        if change.run is None:
            return self._repeated_end(change)
        run = grants.held_run(change, self.session_id, self.token)
        verdict = _judge_order(change, self)
        if isinstance(verdict, errors.StepOrderChanged):
            runs.pause(change, ORDER_CHANGED, verdict.message)
            return Refused(verdict)
        if verdict is not None:
            return _told_again(verdict)
        _refuse_known(change, self.steps)
        _ask_for_names(change, run, self)
        told = len(change.news.ended)
        ordinals = [_record(change, step) for step in self.steps]
        ended = change.news.ended[told:]
        del change.news.ended[told:]
        _cancel(change, self.cancels)
        if self.end is not None:
            _end(change, run, self.end)
        elif self.waiting:
            _wait(change, resident=self.resident, goes_on=bool(ended))
        else:
            change.bump()
        return ProgressAnswer(duplicate=False, ordinals=ordinals, ended=ended)

    def _repeated_end(self, change: Change) -> ProgressAnswer:
        closed = change.closed_run
        same = closed is not None and closed.grants == self.token and self.end is not None
        if not same or closed is None or self.end is None or closed.phase != self.end.phase:
            current = closed.grants if closed is not None else -1
            raise errors.LeaseLost(run_id=change.run_id, token=self.token, current=current)
        return ProgressAnswer(duplicate=True, ordinals=[], ended=[])


# --- the order of calls -----------------------------------------------------------------------------------------------


def _judge_order(change: Change, progress: ProgressRun) -> errors.StepOrderChanged | list[Step | ClosedStep] | None:
    """None if all is new and in order, the steps if all was recorded before, or what has changed.

    The record moves on only when every branch agrees: a progress that trips the check is written down as a pause.
    """
    by_scope: dict[str, list[NewStep]] = {claim.scope: [] for claim in progress.scopes}
    for step in progress.steps:
        if step.scope not in by_scope:
            raise errors.InvalidField(field="scopes", problem=f"needs an entry for branch {step.scope!r}")
        by_scope[step.scope].append(step)
    repeated: list[tuple[ScopeClaim, Scope]] = []
    moved: list[Scope] = []
    for claim in progress.scopes:
        fresh = by_scope[claim.scope]
        recorded = change.scope(claim.scope)
        after = _after(claim, fresh)
        if claim.count == recorded.order_count and claim.hash == recorded.order_hash:
            moved += [Scope(change.run_key, claim.scope, *after)] if fresh else []
            continue
        if fresh and (after == (recorded.order_count, recorded.order_hash) or _all_recorded(change, fresh)):
            repeated.append((claim, recorded))
            continue
        behind = claim.count < recorded.order_count and not fresh and not claim.closed
        if behind and not _must_be_complete(claim, progress):
            continue
        return _changed(change, claim, fresh, recorded)
    if progress.end is not None and progress.end.phase == Phase.COMPLETED and "" not in by_scope:
        recorded = change.scope("")
        if recorded.order_count:
            return _changed(change, ScopeClaim("", 0, bytes(8), closed=True), [], recorded)
    if repeated and moved:
        claim, recorded = repeated[0]
        return _changed(change, claim, by_scope[claim.scope], recorded)
    for scope in moved:
        change.set_scope(scope)
    if not repeated:
        return None
    _ask_for_steps(change, progress.steps)
    return [found for step in progress.steps if (found := change.step_named(_identity(step))) is not None]


def _after(claim: ScopeClaim, fresh: list[NewStep]) -> tuple[int, bytes]:
    hash_ = claim.hash
    for step in fresh:
        hash_ = chain(hash_, step.kind, step.name, step.fingerprint)
    return claim.count + len(fresh), hash_


def _identity(step: NewStep) -> tuple[str, str, int, str]:
    return (step.scope, step.name, step.occurrence, step.key)


def _all_recorded(change: Change, fresh: list[NewStep]) -> bool:
    """Whether a progress that was overtaken by a later one is sent again."""
    _ask_for_steps(change, fresh)
    return all((found := change.step_named(_identity(step))) is not None and found.kind == step.kind for step in fresh)


def _ask_for_steps(change: Change, steps: list[NewStep]) -> None:
    """Asks for the recorded forms of steps all together, not one by one."""
    unknown = [_identity(step) for step in steps if _identity(step) not in change.known.identities]
    if unknown and not change.fresh:
        raise Missing(identities=unknown)


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
    identities = {_identity(step) for step in steps}
    if len(identities) < len(steps):
        raise errors.InvalidField(field="steps", problem="names the same step twice")
    for step in steps:
        if step.key and change.step_named(_identity(step)) is not None:
            raise errors.InvalidField(field="steps", problem=f"uses key {step.key!r} of a recorded {step.name!r} again")


def _ask_for_names(change: Change, run: Run, progress: ProgressRun) -> None:
    """Asks for all workflow ids that the progress will claim together, before any run is born."""
    names = [
        step.body.workflow_id for step in progress.steps if isinstance(step.body, NewChild) and step.body.workflow_id
    ]
    if progress.end is not None and progress.end.successor is not None and run.workflow_id:
        names.append(run.workflow_id)
    if change.births is None or not names:
        return
    unknown = [name for each in names if (name := (run.namespace_id, each)) not in change.births.names]
    if unknown:
        raise Missing(names=unknown)


def _must_be_complete(claim: ScopeClaim, progress: ProgressRun) -> bool:
    return not claim.scope and progress.end is not None and progress.end.phase == Phase.COMPLETED


def _changed(change: Change, claim: ScopeClaim, fresh: list[NewStep], recorded: Scope) -> errors.StepOrderChanged:
    names = ", ".join(step.name for step in fresh) or "no further step"
    return errors.StepOrderChanged(
        run_id=change.run_id,
        scope=claim.scope or "(root)",
        recorded=f"{recorded.order_count} calls with hash {recorded.order_hash.hex()}",
        got=f"{claim.count} calls with hash {claim.hash.hex()}, then {names}",
    )


# --- recording --------------------------------------------------------------------------------------------------------


def _record(change: Change, new: NewStep) -> int:
    """Records a step and answers its ordinal."""
    change.need_room()
    body = new.body
    if isinstance(body, Checkpoint):
        return _record_checkpoint(change, new, body)
    if isinstance(body, NewActivity):
        return _schedule(change, new, body)
    if isinstance(body, NewTimer):
        change.event(EventType.TIMER_STARTED, ordinal=change.open.last_step + 1)
        return _open(change, new, wake_time=change.now + timedelta(seconds=body.seconds)).ordinal
    if isinstance(body, NewWait):
        return _record_wait(change, new, body)
    return _start_child(change, new, body)


def _open(
    change: Change,
    new: NewStep,
    *,
    state: StepState = StepState.WAITING,
    wake_time: datetime | None = None,
    wait_name: str | None = None,
    type_name: str = "",
    task_queue: str = "",
    priority: int = 4,
    input_event: int = 0,
    child_key: int | None = None,
    details: StepDetails | None = None,
) -> Step:
    step = Step(
        run_key=change.run_key,
        ordinal=change.open.last_step + 1,
        scope=new.scope,
        name=new.name,
        occurrence=new.occurrence,
        key=new.key,
        kind=new.kind,
        type=type_name,
        task_queue=task_queue,
        priority=priority,
        wait_name=wait_name,
        seq=0,
        child_key=child_key,
        create_time=change.now,
        input_event=input_event,
        state=state,
        attempt=0,
        grants=0,
        session_id=None,
        returns=0,
        owner_id="",
        start_time=None,
        wake_time=wake_time,
        cancel_requested=False,
        details=pack_step_details(details) if details is not None else None,
    )
    change.add_step(step)
    return step


def _record_checkpoint(change: Change, new: NewStep, body: Checkpoint) -> int:
    run = change.open
    ordinal = run.last_step + 1
    kind = EventType.STEP_FAILED if body.failure is not None else EventType.STEP_COMPLETED
    if new.kind == Kind.MARKER:
        kind = EventType.MARKER_RECORDED
    state = StepState.FAILED if body.failure is not None else StepState.COMPLETED
    event = change.event(kind, ordinal=ordinal, payload=body.payload, failure=body.failure)
    now = change.now
    change.add_ended_step(
        ClosedStep(
            run_key=run.run_key,
            ordinal=ordinal,
            scope=new.scope,
            name=new.name,
            occurrence=new.occurrence,
            key=new.key,
            kind=new.kind,
            type="",
            task_queue="",
            priority=run.priority,
            wait_name=None,
            seq=0,
            child_key=None,
            create_time=now,
            input_event=0,
            state=state,
            attempt=1,
            grants=run.grants,
            start_time=now,
            end_time=now,
            end_event=event,
            timed_out=False,
            details=None,
        )
    )
    return ordinal


def _schedule(change: Change, new: NewStep, body: NewActivity) -> int:
    run = change.open
    queue = body.task_queue or run.task_queue
    priority = run.priority if body.priority is None else body.priority
    ordinal = run.last_step + 1
    event = change.event(EventType.ACTIVITY_SCHEDULED, ordinal=ordinal, payload=body.input)
    details = None
    if body.retry is not None or body.timeouts is not None:
        details = StepDetails(retry=body.retry, timeouts=body.timeouts)
    step = _open(
        change,
        new,
        state=StepState.PENDING,
        type_name=body.type,
        task_queue=queue,
        priority=priority,
        input_event=event,
        details=details,
    )
    if body.timeouts is not None:
        change.put_step(msgspec.structs.replace(step, wake_time=grants.next_timeout(step)))
    change.enqueue(ordinal, TaskKind.ACTIVITY, queue, body.type, priority)
    return ordinal


def _record_wait(change: Change, new: NewStep, body: NewWait) -> int:
    """A wait. A signal that came before it ends it at once."""
    pending = change.pending_signals(body.signal)
    wake_time = None if body.timeout_seconds is None else change.now + timedelta(seconds=body.timeout_seconds)
    ordinal = change.open.last_step + 1
    change.event(EventType.WAIT_STARTED, ordinal=ordinal, facts={"signal": body.signal})
    signal = pending[0] if pending else None
    step = _open(
        change,
        new,
        wait_name=body.signal,
        wake_time=wake_time,
        input_event=signal.event if signal is not None else 0,
    )
    if signal is not None:
        change.take_signal(signal)
        event = change.event(EventType.WAIT_COMPLETED, ordinal=ordinal, facts={"signal_event": str(signal.event)})
        change.end_step(step, StepState.COMPLETED, event, payload=None)
    return ordinal


def _start_child(change: Change, new: NewStep, body: NewChild) -> int:
    """A child. One whose workflow id is in use fails its step, which the code hears of."""
    run = change.open
    births = change.births
    if births is None:
        raise AssertionError("a batch can bear runs")
    ordinal = run.last_step + 1
    start = starts.StartRun(
        starts.NewRun(
            namespace_id=run.namespace_id,
            namespace=change.namespace,
            type=body.type,
            task_queue=body.task_queue or run.task_queue,
            workflow_id=body.workflow_id,
            input=body.input,
            priority=run.priority,
            correlation_id=run.correlation_id,
            traceparent=run.traceparent,
            tracestate=run.tracestate,
            timeout_seconds=body.timeout_seconds,
            parent_key=run.run_key,
            parent_ordinal=ordinal,
            details=RunDetails(parent_run_id=str(run.run_id)),
        )
    )
    try:
        started = start.decide(births, change.now, change.limits)
    except errors.AlreadyExists as refusal:
        failure = Failure(str(refusal), refusal.reason, non_retryable=True)
        step = _open(change, new, type_name=body.type, task_queue=body.task_queue)
        event = change.event(EventType.CHILD_FAILED, ordinal=ordinal, failure=failure)
        change.end_step(step, StepState.FAILED, event, failure=failure)
        return ordinal
    change.event(EventType.CHILD_STARTED, ordinal=ordinal, facts={"child_run_id": str(started.run_id)})
    _open(
        change,
        new,
        type_name=body.type,
        task_queue=body.task_queue or run.task_queue,
        child_key=started.run_key,
        details=StepDetails(child_run_id=str(started.run_id), close_policy=body.close_policy),
    )
    return ordinal


# --- what follows -----------------------------------------------------------------------------------------------------


def _cancel(change: Change, ordinals: list[int]) -> None:
    told = len(change.news.ended)
    for ordinal in ordinals:
        step = change.step(ordinal)
        if isinstance(step, Step):
            endings.cancel_step(change, step, "nobody waits for it")
    del change.news.ended[told:]


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
    change.update(phase=Phase.SUSPENDED, suspend_time=change.now)
    if run.wake_time is not None or run.details is not None:
        change.update(wake_time=starts.next_look(change))
    change.bump()
    if not resident:
        change.update(session_id=None, owner_id="")


def _end(change: Change, run: Run, end: End) -> None:
    phase = Phase(end.phase)
    # The holder ends the run itself, and needs no word of it.
    change.update(session_id=None)
    if end.successor is None:
        endings.end_run(change, phase, payload=end.payload, failure=end.failure)
        return
    births = change.births
    if births is None:
        raise AssertionError("a batch can bear runs")
    successor = starts.open_run(
        starts.NewRun(
            namespace_id=run.namespace_id,
            namespace=change.namespace,
            type=end.successor.type or run.type,
            task_queue=end.successor.task_queue or run.task_queue,
            workflow_id=run.workflow_id,
            input=end.successor.input,
            priority=run.priority,
            correlation_id=run.correlation_id,
            traceparent=run.traceparent,
            tracestate=run.tracestate,
            timeout_seconds=None if run.deadline is None else (run.deadline - run.create_time).total_seconds(),
            parent_key=run.parent_key,
            parent_ordinal=run.parent_ordinal,
            details=_handed_on(run),
        ),
        births,
        change.now,
        change.limits,
    )
    births.bear(successor)
    continue_details(change, successor)
    endings.end_run(change, Phase.COMPLETED, kind=EventType.RUN_CONTINUED)


def _handed_on(run: Run) -> RunDetails:
    """What the next run of a chain takes over."""
    details = unpack_details(run.details)
    return RunDetails(
        maximum_run_seconds=details.maximum_run_seconds,
        maximum_suspend_seconds=details.maximum_suspend_seconds,
        source_run_id=str(run.run_id),
        parent_run_id=details.parent_run_id,
    )


def continue_details(change: Change, successor: Change) -> None:
    """Notes which run goes on with the work."""
    details = unpack_details(change.open.details)
    next_id, next_key = str(successor.run_id), successor.run_key
    details = msgspec.structs.replace(details, continued_run_id=next_id, continued_key=next_key)
    change.update(details=pack_details(details))
