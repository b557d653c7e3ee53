"""Starting a run."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine import debounces, endings, run_data, search_attributes
from stepwell_server.engine.change import Change
from stepwell_server.engine.copying import Copied, copy
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.wishes import Missing
from stepwell_server.ids import uuid7
from stepwell_server.model.debounces import DebouncePlace
from stepwell_server.model.definitions import DefinitionRef
from stepwell_server.model.dispatches import IdempotencyKey, folded
from stepwell_server.model.driven import RunDefinition, RunOrigin
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import NULL, Payload
from stepwell_server.model.runs import (
    EMPTY_HASH,
    NO_DETAILS,
    ClosedRun,
    Phase,
    Run,
    RunDetails,
    deadline_of,
    pack_details,
    unpack_details,
)
from stepwell_server.model.search_attributes import AttributeValue
from stepwell_server.model.tasks import TaskKind

if TYPE_CHECKING:
    from stepwell_server.engine.names import Births, Latest


class Reuse(IntEnum):
    """What may become of a workflow id whose latest run has ended; the proto's WorkflowIdReusePolicy."""

    ALLOW = 1
    ALLOW_IF_FAILED = 2
    REJECT = 3


class Conflict(IntEnum):
    """What to do when a run of the same workflow id is open; the proto's WorkflowIdConflictPolicy."""

    FAIL = 1
    USE_EXISTING = 2
    TERMINATE_EXISTING = 3


class Fate(IntEnum):
    """What becomes of a start whose name somebody bore before."""

    FREE = 1
    USES = 2
    REPLACES = 3
    IN_USE = 4
    TAKEN = 5


def fate_of(latest: Latest | None, reuse: int, conflict: int) -> Fate:
    """By the policies, and by how far the latest bearer has come: runs' phases and jobs' states have the same ends."""
    if latest is None:
        return Fate.FREE
    if latest.phase < Phase.COMPLETED:
        fates = {Conflict.USE_EXISTING: Fate.USES, Conflict.TERMINATE_EXISTING: Fate.REPLACES}
        return fates.get(Conflict(conflict), Fate.IN_USE)
    taken = reuse == Reuse.REJECT or (reuse == Reuse.ALLOW_IF_FAILED and latest.phase == Phase.COMPLETED)
    return Fate.TAKEN if taken else Fate.FREE


class NewRun(msgspec.Struct, frozen=True, gc=False):
    """A run to start."""

    namespace_id: int
    namespace: str
    type: str
    task_queue: str
    run_id: UUID | None = None
    workflow_id: str = ""
    input: Payload = NULL
    priority: int = 4
    correlation_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    timeout_seconds: float | None = None
    delay_seconds: float | None = None
    driven: bool = False
    managed: bool = True
    phase: int = Phase.PENDING
    parent_key: int | None = None
    parent_ordinal: int = 0
    details: RunDetails = NO_DETAILS
    origin: RunOrigin | None = None  # its key is not yet known
    search_attributes: dict[str, AttributeValue] = {}
    definition: DefinitionRef | None = None
    data: dict[str, Payload] | None = None
    copied: Copied | None = None  # of a fork: what its record begins with

    @property
    def debounce_place(self) -> DebouncePlace | None:
        """What it is held against, if it is to be one with the starts that come soon after."""
        debounce = self.details.debounce
        return None if debounce is None else (self.namespace_id, self.type, debounce.key)

    @property
    def key_place(self) -> tuple[int, str, str, str] | None:
        """Where its idempotency key is registered, if it has one."""
        origin = self.origin
        if origin is None or not origin.idempotency_key:
            return None
        return (self.namespace_id, self.type, folded(origin.trigger_key), folded(origin.idempotency_key))


class Started(msgspec.Struct, frozen=True, gc=False):
    """The answer to a start."""

    run_id: UUID
    run_key: int
    started: bool


class StartRun(msgspec.Struct, frozen=True, gc=False):
    """Starts a run, or finds it: by its id on a repeat, by its workflow id where the policies say so.

    A run that it replaces ends in the same batch, so that never two of a name are open.
    """

    new: NewRun
    reuse: int = Reuse.ALLOW
    conflict: int = Conflict.FAIL
    request_id: str = ""
    request_hash: bytes | None = None
    method: str = "StartRun"

    def open_key(self, births: Births) -> int | None:
        """The open run that it replaces or pushes on, or None: it is loaded and locked before this is decided."""
        new = self.new
        if (place := new.debounce_place) is not None:
            return births.debounced[place]
        if self.conflict != Conflict.TERMINATE_EXISTING or not new.workflow_id:
            return None
        latest = births.named(new.namespace_id, new.workflow_id)
        return latest.key if latest is not None and latest.phase < Phase.COMPLETED else None

    def wants(self) -> Missing:
        """What of that run the decision surely needs."""
        return Missing(open_steps=True)

    def decide(self, births: Births, now: datetime, limits: Limits) -> Started:
        """Refuses with RUN_EXISTS, WORKFLOW_ID_IN_USE or REQUEST_ID_REUSED."""
        found = self._repeat_of(births) or self._keyed(births, now) or self._namesake(births)
        if found is not None:
            return found
        key = self.open_key(births)
        other = births.other(key) if key is not None else None
        place = self.new.debounce_place
        if place is not None and other is not None and _push_on(other, self.new):
            return Started(other.run_id, other.run_key, started=False)
        change = open_run(_following(self.new, births), births, now, limits)
        if place is not None:
            births.debounce(place, change.run_key)
        elif other is not None:
            endings.terminate_run(other, f"replaced by run {change.run_id}")
        births.bear(change, self.request_hash)
        return Started(change.run_id, change.run_key, started=True)

    def _repeat_of(self, births: Births) -> Started | None:
        new = self.new
        if new.run_id is None:
            return None
        known = births.with_id(new.namespace_id, new.run_id)
        if known is None:
            return None
        if self.request_hash is None or known.request_hash is None:
            raise errors.RunExists(namespace=new.namespace, workflow_id=new.workflow_id, run_id=new.run_id)
        if known.request_hash != self.request_hash:
            raise errors.RequestIdReused(method=self.method, request_id=self.request_id)
        return Started(known.run_id, known.run_key, started=False)

    def _keyed(self, births: Births, now: datetime) -> Started | None:
        """The run of its idempotency key, if that is another's; else the key is this run's."""
        new, place = self.new, self.new.key_place
        if place is None or new.run_id is None:
            return None
        run_id = births.register(IdempotencyKey(*place, new.run_id, now))
        return Started(run_id, 0, started=False) if run_id != new.run_id else None

    def _namesake(self, births: Births) -> Started | None:
        new = self.new
        if not new.workflow_id:
            return None
        latest = births.named(new.namespace_id, new.workflow_id)
        fate = fate_of(latest, self.reuse, self.conflict)
        if latest is None or fate is Fate.FREE:
            return None
        if fate is Fate.USES:
            return Started(latest.id, latest.key, started=False)
        # A run that starts a child of its own name can't be replaced by it: it would not be there to record it.
        if fate is Fate.REPLACES and latest.key != new.parent_key:
            return None
        refusal = errors.RunExists if fate is Fate.TAKEN else errors.WorkflowIdInUse
        raise refusal(namespace=new.namespace, workflow_id=new.workflow_id, run_id=latest.id)


def _push_on(change: Change, new: NewRun) -> bool:
    """Gives a run that waits for quiet the input of a later start, and a later time; False if it waits no more."""
    details = unpack_details(None if change.run is None else change.run.details)
    if change.run is None or details.debounce is None or new.details.debounce is None:
        return False
    begin_time = change.now + timedelta(seconds=new.details.debounce.period_seconds)
    longest = new.details.debounce.maximum_seconds
    if longest is not None:
        begin_time = max(change.now, min(begin_time, change.run.create_time + timedelta(seconds=longest)))
    number = change.event(EventType.RUN_DEBOUNCED, payload=new.input)
    details = msgspec.structs.replace(details, begin_time=begin_time, input_event=number)
    change.update(details=pack_details(details))
    change.update(wake_time=next_look(change))
    return True


def _following(new: NewRun, births: Births) -> NewRun:
    """The run with the definition that it names found: where it gives no type, that is the definition's code."""
    if new.definition is None:
        return new
    followed = births.definition(new.namespace_id, new.namespace, new.definition)
    details = msgspec.structs.replace(new.details, definition=followed)
    return msgspec.structs.replace(new, type=new.type or followed.code, details=details)


def open_run(new: NewRun, births: Births, now: datetime, limits: Limits) -> Change:
    """A new run as a change: its row, its first event, and its task unless it starts later or is driven."""
    delayed = new.delay_seconds is not None and new.delay_seconds > 0
    begin_time = now + timedelta(seconds=new.delay_seconds) if delayed and new.delay_seconds else None
    details = new.details if begin_time is None else msgspec.structs.replace(new.details, begin_time=begin_time)
    deadline = None if new.timeout_seconds is None else now + timedelta(seconds=new.timeout_seconds)
    run = Run(
        run_key=births.next_key(),
        namespace_id=new.namespace_id,
        run_id=new.run_id or uuid7(),
        workflow_id=new.workflow_id,
        type=new.type,
        task_queue=new.task_queue,
        priority=new.priority,
        driven=new.driven,
        managed=new.managed,
        parent_key=new.parent_key,
        parent_ordinal=new.parent_ordinal,
        correlation_id=new.correlation_id,
        traceparent=new.traceparent,
        tracestate=new.tracestate,
        create_time=now,
        deadline=deadline,
        phase=new.phase,
        version=0,
        last_event=0,
        last_step=0,
        last_signal=0,
        open_steps=0,
        order_count=0,
        order_hash=EMPTY_HASH,
        grants=0,
        session_id=None,
        returns=0,
        queued=not (delayed or new.driven or details.carried_from),
        dirty=False,
        owner_id="",
        lease_expire_time=None,
        pause_reason=None,
        cancel_reason=None,
        cancel_time=None,
        build_id="",
        update_time=now,
        suspend_time=None,
        wake_time=begin_time,
        details=pack_details(details),
    )
    change = Change(now=now, namespace=new.namespace, limits=limits, run=run, fresh=True, births=births)
    change.event(EventType.RUN_STARTED, payload=new.input)
    if new.origin is not None:
        change.put_side((RunOrigin, 0), msgspec.structs.replace(new.origin, run_key=run.run_key))
    search_attributes.give(change, new.search_attributes)
    if details.definition is not None:
        change.put_side((RunDefinition, 0), RunDefinition(run.run_key, details.definition.key))
    if new.data:
        run_data.begin(change, new.data)
    if new.copied is not None:
        copy(change, new.copied)
    if details.debounce is not None:
        debounces.wait(change, details.debounce)
    if run.managed:
        change.update(wake_time=next_look(change))
    if run.queued and details.concurrency is not None:
        # It has no task before it has a slot.
        change.update(queued=False)
        endings.enqueue_run(change)
    elif run.queued:
        change.enqueue(0, TaskKind.RUN, run.task_queue, run.type, run.priority)
    return change


def counts_from(run: Run | ClosedRun) -> datetime:
    """From when a run's times count: its start, or since it was last opened again."""
    details = unpack_details(run.details)
    return details.reopen_time or run.create_time


def span_of(run: Run | ClosedRun) -> float | None:
    """How many seconds a run may take; None is without a limit."""
    deadline = deadline_of(run)
    return None if deadline is None else (deadline - counts_from(run)).total_seconds()


def is_unbegun(run: Run) -> bool:
    """Whether nobody has begun a code run, or its present attempt: there is nothing that its code could clean up."""
    if run.driven:
        return False
    details = unpack_details(run.details)
    return run.phase == Phase.PENDING if details.attempt > 1 else not run.grants and not details.first_key


def begins_later(change: Change) -> bool:
    """Whether the run's start is delayed beyond now, or until it has the signals of the run that it continues."""
    details = unpack_details(change.open.details)
    return details.carried_from != 0 or (details.begin_time is not None and details.begin_time > change.now)


def latest_end(run: Run, details: RunDetails) -> datetime | None:
    """When the run will have ended, whatever it does: at its deadline, or when it has taken too long for its policy."""
    times = [details.deadline or run.deadline]
    if details.maximum_run_seconds is not None:
        times.append(counts_from(run) + timedelta(seconds=details.maximum_run_seconds))
    return min((time for time in times if time is not None), default=None)


def next_look(change: Change) -> datetime | None:
    """When a managed run must be looked at though nothing happens.

    That is when it may begin, at its deadline, or when a policy's patience ends.
    """
    run = change.open
    if not run.managed:
        return None
    details = unpack_details(run.details)
    times = [latest_end(run, details)]
    if run.details is not None:
        if begins_later(change):
            times.append(details.begin_time)
        times.append(details.resume_time)
        if details.maximum_suspend_seconds is not None and run.suspend_time is not None:
            times.append(run.suspend_time + timedelta(seconds=details.maximum_suspend_seconds))
    return min((time for time in times if time is not None), default=None)
