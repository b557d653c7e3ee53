"""One run while a batch changes it: what was loaded, what the commands made of it, and what is to be written.

A command's `decide` reads and changes it through the verbs below, and nothing else: no I/O, no clock but `now`.
Commands of one run are folded over the same Change in their order. Every verb notes how to undo itself, so that a
refused command leaves no trace; a decision may therefore refuse at any point.

Invariants: every change of what is open of a run goes with a higher `version`; event numbers have no gaps; a step is
in `steps` (open) or in `closed`, never in both; `run` is None exactly when there is no open run.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.ids import uuid7
from stepwell_server.model.events import Event, EventType, Origin, pack_attributes
from stepwell_server.model.mail import Letter, Mail, pack_letter
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import TERMINAL, ClosedRun, Phase, Run
from stepwell_server.model.steps import ClosedStep, EndedStep, Kind, Scope, Step, StepState
from stepwell_server.model.tasks import Grant, Task, TaskKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell_server.engine.names import Births
    from stepwell_server.model.driven import Side, SideKey
    from stepwell_server.model.signals import Signal

Identity = tuple[str, str, int, str]
_ABSENT: Any = object()
_STEP_FIELDS = [name for name in Step.__struct_fields__ if name in ClosedStep.__struct_fields__]
HIGHEST_PRIORITY = 9


class Limits(NamedTuple):
    """What one run may hold."""

    open_steps: int = 20_000
    events: int = 100_000


class Missing(Exception):  # noqa: N818 - a wish, not an error
    """Raised by a decision that needs more of the run: the committer loads it and decides again."""

    def __init__(
        self,
        *,
        ordinals: Iterable[int] = (),
        identities: Iterable[Identity] = (),
        scopes: Iterable[str] = (),
        signals: Iterable[str] = (),
        signal_ids: Iterable[str] = (),
        waits: Iterable[str] = (),
        heartbeats: Iterable[int] = (),
        names: Iterable[tuple[int, str]] = (),
        sides: Iterable[SideKey] = (),
        open_steps: bool = False,
        closed_steps: bool = False,
    ) -> None:
        super().__init__("more of the run is needed")
        self.ordinals = frozenset(ordinals)
        self.identities = frozenset(identities)
        self.scopes = frozenset(scopes)
        self.signals = frozenset(signals)
        self.signal_ids = frozenset(signal_ids)
        self.waits = frozenset(waits)
        self.heartbeats = frozenset(heartbeats)
        self.names = frozenset(names)
        self.sides = frozenset(sides)
        self.open_steps = open_steps
        self.closed_steps = closed_steps


class Known:
    """Which parts of a run were loaded, so that absence can be told from ignorance."""

    __slots__ = (
        "closed_steps",
        "heartbeats",
        "identities",
        "open_steps",
        "ordinals",
        "scopes",
        "sides",
        "signal_ids",
        "signals",
        "waits",
    )

    def __init__(self, *, everything: bool = False) -> None:
        self.ordinals: set[int] = set()
        self.identities: set[Identity] = set()
        self.scopes: set[str] = set()
        self.signals: set[str] = set()
        self.signal_ids: set[str] = set()
        self.waits: set[str] = set()
        self.heartbeats: set[int] = set()
        self.sides: set[SideKey] = set()
        self.open_steps = everything
        self.closed_steps = everything

    def add(self, loaded: Missing) -> None:
        """Notes what was loaded."""
        self.ordinals |= loaded.ordinals
        self.identities |= loaded.identities
        self.scopes |= loaded.scopes
        self.signals |= loaded.signals
        self.signal_ids |= loaded.signal_ids
        self.waits |= loaded.waits
        self.heartbeats |= loaded.heartbeats
        self.sides |= loaded.sides
        self.open_steps = self.open_steps or loaded.open_steps
        self.closed_steps = self.closed_steps or loaded.closed_steps


class News:
    """What a change means for connected workers; handed on once it is committed."""

    __slots__ = ("cancels", "ended", "grants", "revokes", "run_cancel", "tasks")

    def __init__(self) -> None:
        self.grants: list[Grant] = []
        self.ended: list[EndedStep] = []
        self.cancels: list[tuple[UUID, int, int, str]] = []  # session, ordinal, token, reason
        self.revokes: list[tuple[UUID, int, int, str]] = []
        self.tasks: list[Task] = []
        self.run_cancel = False


class Change:
    """See the module."""

    __slots__ = (
        "_closed_by_name",
        "_lists",
        "_mark",
        "_open_by_name",
        "_undo",
        "births",
        "closed",
        "closed_run",
        "consumed",
        "events",
        "fresh",
        "heartbeats",
        "known",
        "limits",
        "loaded_steps",
        "mail",
        "mail_done",
        "namespace",
        "new_signals",
        "news",
        "now",
        "original",
        "removed_steps",
        "run",
        "scopes",
        "sides",
        "signal_ids",
        "signals",
        "steps",
        "task_drops",
        "tasks",
        "touched",
        "touched_scopes",
        "touched_sides",
    )

    def __init__(
        self,
        *,
        now: datetime,
        namespace: str,
        limits: Limits,
        run: Run | None,
        closed_run: ClosedRun | None = None,
        fresh: bool = False,
        births: Births | None = None,
    ) -> None:
        self.now = now
        self.births = births
        self.namespace = namespace
        self.limits = limits
        self.run = run
        self.closed_run = closed_run
        self.original = run
        self.fresh = fresh
        self.known = Known(everything=fresh)
        self.steps: dict[int, Step] = {}
        self.closed: dict[int, ClosedStep] = {}
        self._open_by_name: dict[Identity, int] = {}
        self._closed_by_name: dict[Identity, int] = {}
        self.loaded_steps: set[int] = set()
        self.touched: dict[int, None] = {}
        self.removed_steps: dict[int, ClosedStep] = {}
        self.sides: dict[SideKey, Side | None] = {}
        self.touched_sides: dict[SideKey, None] = {}
        self.scopes: dict[str, Scope] = {}
        self.touched_scopes: dict[str, None] = {}
        self.signals: dict[str, list[Signal]] = {}
        self.signal_ids: dict[str, Signal] = {}
        self.new_signals: list[Signal] = []
        self.consumed: list[Signal] = []
        self.heartbeats: dict[int, tuple[datetime, Payload]] = {}
        self.events: list[Event] = []
        self.tasks: dict[int, Task] = {}
        self.task_drops: dict[int, None] = {}
        self.mail: list[Mail] = []
        self.mail_done: list[UUID] = []
        self.news = News()
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._lists: tuple[list[Any], ...] = (
            self.events,
            self.mail,
            self.mail_done,
            self.new_signals,
            self.consumed,
            self.news.grants,
            self.news.ended,
            self.news.cancels,
            self.news.revokes,
            self.news.tasks,
        )
        self._mark: tuple[Run | None, ClosedRun | None, bool, list[int]] = (run, closed_run, False, [0] * 10)

    # --- undo -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Starts a command: what follows can be undone until the next `begin`."""
        self._undo.clear()
        self._mark = (self.run, self.closed_run, self.news.run_cancel, [len(each) for each in self._lists])

    def undo(self) -> None:
        """Takes back all since `begin`."""
        for mapping, key, before in reversed(self._undo):
            if before is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = before
        self._undo.clear()
        self.run, self.closed_run, self.news.run_cancel, lengths = self._mark
        for sequence, length in zip(self._lists, lengths, strict=True):
            del sequence[length:]

    def _set(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:  # noqa: ANN401 - any of the maps above
        self._undo.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def _pop(self, mapping: dict[Any, Any], key: Any) -> None:  # noqa: ANN401
        if key in mapping:
            self._undo.append((mapping, key, mapping.pop(key)))

    # --- loading (by the committer) ---------------------------------------------------------------------------------

    def load_step(self, step: Step) -> None:
        """Takes in an open step as stored, unless this batch has already changed it."""
        if step.ordinal in self.loaded_steps or step.ordinal in self.touched:
            return
        self.loaded_steps.add(step.ordinal)
        self.steps[step.ordinal] = step
        self._open_by_name[step.identity] = step.ordinal

    def load_closed_step(self, step: ClosedStep) -> None:
        """Takes in an ended step as stored."""
        if step.ordinal not in self.closed and step.ordinal not in self.touched:
            self.closed[step.ordinal] = step
            self._closed_by_name[step.identity] = step.ordinal

    def load_signal(self, signal: Signal) -> None:
        """Takes in a signal as stored that nobody has taken, older than any that this batch has added."""
        if any(each.ordinal == signal.ordinal for each in self.consumed):
            return
        kept = self.signals.setdefault(signal.name, [])
        if all(each.ordinal != signal.ordinal for each in kept):
            kept.append(signal)
            kept.sort(key=lambda each: each.ordinal)

    # --- the run ----------------------------------------------------------------------------------------------------

    @property
    def open(self) -> Run:
        """The run, which must be open."""
        if self.run is None:
            raise errors.RunTerminal(run_id=self.run_id, phase=self.phase.name)
        return self.run

    @property
    def run_id(self) -> UUID:
        """The run's id, open or closed."""
        return (self.run or self._closed_run).run_id

    @property
    def run_key(self) -> int:
        """The run's key, open or closed."""
        return (self.run or self._closed_run).run_key

    @property
    def phase(self) -> Phase:
        """The run's phase, open or closed."""
        return Phase((self.run or self._closed_run).phase)

    @property
    def _closed_run(self) -> ClosedRun:
        if self.closed_run is None:
            raise AssertionError("a change has an open or a closed run")
        return self.closed_run

    def update(self, **fields: Any) -> None:  # noqa: ANN401 - columns of runs
        """Changes columns of the open run."""
        self.run = replace(self.open, **fields)

    def event(
        self,
        kind: EventType,
        *,
        ordinal: int = 0,
        payload: Payload = NULL,
        failure: Failure | None = None,
        facts: dict[str, str] | None = None,
    ) -> int:
        """Appends to the history and answers the event's number."""
        return self._append(kind, Origin.ENGINE, ordinal, payload, pack_attributes(payload, failure, facts), None, 0)

    @property
    def has_room(self) -> bool:
        """Whether history takes more than what a run needs to end."""
        return self.open.last_event < self.limits.events

    def need_room(self) -> None:
        """Refuses new work of a run whose history is full."""
        if not self.has_room:
            value = self.open.last_event + 1
            raise errors.LimitExceeded(limit="run_events", value=value, maximum=self.limits.events)

    def caller_event(self, label: str, payload: Payload, caller_seq: int) -> int:
        """Appends a caller's own event."""
        return self._append(EventType.CALLER, Origin.CALLER, 0, payload, pack_attributes(payload), label, caller_seq)

    def _append(  # noqa: PLR0917 - the columns of one row
        self,
        kind: int,
        origin: int,
        ordinal: int,
        payload: Payload,
        attributes: bytes | None,
        label: str | None,
        caller_seq: int,
    ) -> int:
        run = self.open
        number = run.last_event + 1
        if kind not in _ALWAYS_KEPT:
            self.need_room()
        body = payload.body if payload.kind else None
        self.events.append(
            Event(
                run.run_key, number, kind, origin, ordinal, self.now, payload.kind, body, label, caller_seq, attributes
            )
        )
        self.run = replace(run, last_event=number, version=run.version + 1, update_time=self.now)
        return number

    def bump(self) -> None:
        """Raises the version for a change that history does not mention, such as a grant."""
        run = self.open
        self.run = replace(run, version=run.version + 1)

    # --- steps ------------------------------------------------------------------------------------------------------

    def step(self, ordinal: int) -> Step | ClosedStep | None:
        """The step of that ordinal, open or ended, or None. Asks for it if it is not loaded."""
        found = self.steps.get(ordinal) or self.closed.get(ordinal)
        if found is None and ordinal not in self.known.ordinals and not self.fresh:
            raise Missing(ordinals=[ordinal])
        return found

    def step_named(self, identity: Identity) -> Step | ClosedStep | None:
        """The step of that identity, open or ended, or None. Asks for it if it is not loaded."""
        ordinal = self._open_by_name.get(identity) or self._closed_by_name.get(identity)
        if ordinal is not None:
            return self.steps.get(ordinal) or self.closed.get(ordinal)
        if identity not in self.known.identities and not self.fresh:
            raise Missing(identities=[identity])
        return None

    def add_step(self, step: Step) -> None:
        """Adds an open step; its ordinal is the run's next."""
        run = self.open
        if run.open_steps >= self.limits.open_steps:
            raise errors.LimitExceeded(limit="open_steps", value=run.open_steps + 1, maximum=self.limits.open_steps)
        self.run = replace(run, last_step=step.ordinal, open_steps=run.open_steps + 1)
        self._set(self._open_by_name, step.identity, step.ordinal)
        self.put_step(step)

    def put_step(self, step: Step) -> None:
        """Changes an open step."""
        self._set(self.touched, step.ordinal, None)
        self._set(self.steps, step.ordinal, step)

    def add_ended_step(self, step: ClosedStep) -> None:
        """Adds a step that ends as it is recorded."""
        self.run = replace(self.open, last_step=step.ordinal)
        self._set(self._closed_by_name, step.identity, step.ordinal)
        self._set(self.touched, step.ordinal, None)
        self._set(self.closed, step.ordinal, step)

    def end_step(
        self,
        step: Step,
        state: StepState,
        event: int,
        *,
        payload: Payload | None = NULL,
        failure: Failure | None = None,
        timed_out: bool = False,
    ) -> ClosedStep:
        """Moves an open step among the ended ones.

        `event` is the event that holds what it came to; a `payload` of None is read from there by whoever needs it.
        """
        run = self.open
        ended = close_step(step, state, self.now, event, timed_out=timed_out)
        self._pop(self.steps, step.ordinal)
        self._pop(self._open_by_name, step.identity)
        self._set(self._closed_by_name, step.identity, step.ordinal)
        self._set(self.touched, step.ordinal, None)
        self._set(self.closed, step.ordinal, ended)
        self.run = replace(run, open_steps=run.open_steps - 1)
        if step.state == StepState.PENDING:
            self.drop_task(step.ordinal)
        self.news.ended.append(EndedStep(ended, payload, failure))
        return ended

    def reopen_step(self, ended: ClosedStep) -> Step:
        """Takes an ended step among the open ones again, as it is when it begins anew."""
        run = self.open
        if run.open_steps >= self.limits.open_steps:
            raise errors.LimitExceeded(limit="open_steps", value=run.open_steps + 1, maximum=self.limits.open_steps)
        self.remove_step(ended)
        step = open_step(ended)
        self.run = replace(self.open, open_steps=run.open_steps + 1)
        self._set(self._open_by_name, step.identity, step.ordinal)
        self.put_step(step)
        return step

    def remove_step(self, ended: ClosedStep) -> None:
        """Takes an ended step out of the record; history keeps what it was."""
        if ended.ordinal not in self.touched:
            self._set(self.removed_steps, ended.ordinal, ended)
        self._pop(self.closed, ended.ordinal)
        self._pop(self._closed_by_name, ended.identity)
        self._set(self.touched, ended.ordinal, None)

    def put_ended_step(self, step: ClosedStep) -> None:
        """Records an ended step in the place of one that was removed."""
        self._set(self._closed_by_name, step.identity, step.ordinal)
        self._set(self.touched, step.ordinal, None)
        self._set(self.closed, step.ordinal, step)

    def every_closed_step(self) -> list[ClosedStep]:
        """All ended steps of the run. Asks for them if they are not all loaded."""
        if not self.known.closed_steps:
            raise Missing(closed_steps=True)
        return list(self.closed.values())

    def every_open_step(self) -> list[Step]:
        """All open steps of the run. Asks for them if they are not all loaded."""
        if not self.known.open_steps and len(self.steps) < self.open.open_steps:
            raise Missing(open_steps=True)
        return list(self.steps.values())

    # --- tasks, scopes, signals, mail -------------------------------------------------------------------------------

    def enqueue(self, ordinal: int, kind: TaskKind, queue: str, type_name: str, priority: int) -> None:
        """Puts a task into its queue, ready now."""
        run = self.open
        task = Task(
            run_key=run.run_key,
            ordinal=ordinal,
            namespace_id=run.namespace_id,
            task_queue=queue,
            kind=kind,
            type=type_name,
            rank=HIGHEST_PRIORITY - priority,
            ready_time=self.now,
            build_id=run.build_id if kind == TaskKind.RUN else "",
        )
        self._set(self.tasks, ordinal, task)
        self.news.tasks.append(task)

    def drop_task(self, ordinal: int) -> None:
        """Takes a task out of its queue, if it is in it."""
        if ordinal in self.tasks:
            self._pop(self.tasks, ordinal)
        elif not self.fresh:
            self._set(self.task_drops, ordinal, None)

    def scope(self, path: str) -> Scope:
        """How many calls are recorded in a branch, and their hash."""
        if not path:
            return Scope(self.open.run_key, "", self.open.order_count, self.open.order_hash)
        found = self.scopes.get(path)
        if found is not None:
            return found
        if path not in self.known.scopes and not self.fresh:
            raise Missing(scopes=[path])
        return Scope(self.open.run_key, path, 0, bytes(8))

    def set_scope(self, scope: Scope) -> None:
        """Notes how many calls are recorded in a branch now."""
        if not scope.scope:
            self.update(order_count=scope.order_count, order_hash=scope.order_hash)
            return
        self._set(self.touched_scopes, scope.scope, None)
        self._set(self.scopes, scope.scope, scope)

    def pending_signals(self, name: str) -> list[Signal]:
        """Signals of that name that nobody has taken, oldest first."""
        if name not in self.known.signals and not self.fresh and self.open.last_signal:
            raise Missing(signals=[name])
        return self.signals.get(name, [])

    def add_signal(self, signal: Signal) -> None:
        """Keeps a signal until it is waited for."""
        self._set(self.signals, signal.name, [*self.signals.get(signal.name, []), signal])
        self._note_signal(signal)

    def note_taken_signal(self, signal: Signal) -> None:
        """Keeps the id of a signal that was taken as it came, so that a repeat is recognised."""
        if signal.signal_id is not None:
            self._note_signal(signal)
        else:
            self.update(last_signal=signal.ordinal)

    def _note_signal(self, signal: Signal) -> None:
        self.new_signals.append(signal)
        if signal.signal_id is not None:
            self._set(self.signal_ids, signal.signal_id, signal)
        self.update(last_signal=signal.ordinal)

    def take_signal(self, signal: Signal) -> None:
        """Takes a kept signal."""
        self._set(self.signals, signal.name, [each for each in self.signals[signal.name] if each is not signal])
        self.consumed.append(signal)

    @property
    def had_signals(self) -> bool:
        """Whether the run, open or closed, ever got a signal."""
        return bool((self.run or self._closed_run).last_signal)

    def signal_with_id(self, signal_id: str) -> Signal | None:
        """The signal that was recorded under that id, or None."""
        found = self.signal_ids.get(signal_id)
        if found is None and signal_id not in self.known.signal_ids and not self.fresh and self.had_signals:
            raise Missing(signal_ids=[signal_id])
        return found

    def waiting_for(self, signal: str) -> Step | None:
        """The oldest step that waits for that signal, or None."""
        if signal not in self.known.waits and not self.known.open_steps and self.open.open_steps:
            raise Missing(waits=[signal])
        waiting = [step for step in self.steps.values() if step.wait_name == signal and step.kind == Kind.WAIT]
        return min(waiting, key=lambda step: step.ordinal, default=None)

    def heartbeat(self, ordinal: int) -> tuple[datetime, Payload] | None:
        """When an activity last sent details, and which."""
        if ordinal not in self.known.heartbeats and not self.fresh:
            raise Missing(heartbeats=[ordinal])
        return self.heartbeats.get(ordinal)

    def side(self, key: SideKey) -> Side | None:
        """A small row of the run in a table of its own, or None. Asks for it if it is not loaded."""
        if key not in self.sides and key not in self.known.sides and not self.fresh:
            raise Missing(sides=[key])
        return self.sides.get(key)

    def put_side(self, key: SideKey, row: Side | None) -> None:
        """Changes such a row, or with None takes it away."""
        self._set(self.sides, key, row)
        self._set(self.touched_sides, key, None)

    def load_side(self, key: SideKey, row: Side) -> None:
        """Takes in such a row as stored, unless this batch has already changed it."""
        if key not in self.touched_sides:
            self.sides[key] = row

    def post(self, run_key: int, letter: Letter) -> None:
        """Sends mail to another run."""
        self.mail.append(Mail(uuid7(), run_key, self.now, pack_letter(letter)))

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, phase: Phase, event: int) -> None:
        """Moves the run among the closed ones. Its open steps must have ended."""
        run = self.open
        if phase not in TERMINAL:
            raise AssertionError(phase)
        self.closed_run = close_run(run, phase, self.now, event)
        if run.queued:
            self.drop_task(0)
        self.run = None


# Events that a run at its limit still records, because without them what is under way could not end: one for each
# open step, and a few of the run itself.
_ALWAYS_KEPT = frozenset(
    {
        EventType.RUN_COMPLETED,
        EventType.RUN_FAILED,
        EventType.RUN_CANCELLED,
        EventType.RUN_TERMINATED,
        EventType.RUN_TIMED_OUT,
        EventType.RUN_CONTINUED,
        EventType.RUN_CANCEL_REQUESTED,
        EventType.RUN_PAUSED,
        EventType.RUN_RESUMED,
        EventType.STEP_CANCELLED,
        EventType.ACTIVITY_COMPLETED,
        EventType.ACTIVITY_FAILED,
        EventType.ACTIVITY_CANCELLED,
        EventType.TIMER_FIRED,
        EventType.TIMER_CANCELLED,
        EventType.WAIT_TIMED_OUT,
        EventType.WAIT_CANCELLED,
        EventType.CHILD_COMPLETED,
        EventType.CHILD_FAILED,
        EventType.CHILD_CANCELLED,
    }
)


def close_step(step: Step, state: StepState, now: datetime, event: int, *, timed_out: bool = False) -> ClosedStep:
    """The ended form of an open step."""
    return ClosedStep(
        step.run_key,
        step.ordinal,
        step.scope,
        step.name,
        step.occurrence,
        step.key,
        step.kind,
        step.type,
        step.task_queue,
        step.priority,
        step.wait_name,
        step.seq,
        step.child_key,
        step.create_time,
        step.input_event,
        state,
        step.attempt,
        step.grants,
        step.start_time,
        now,
        event,
        timed_out,
        step.details,
    )


def open_step(step: ClosedStep) -> Step:
    """The open form of an ended step, which nobody has begun anew yet."""
    fields = {name: getattr(step, name) for name in _STEP_FIELDS}
    fresh = {"session_id": None, "returns": 0, "owner_id": "", "wake_time": None, "cancel_requested": False}
    return Step(**{**fields, **fresh, "state": StepState.PENDING})


def close_run(run: Run, phase: Phase, now: datetime, event: int) -> ClosedRun:
    """The closed form of an open run."""
    return ClosedRun(
        run.run_key,
        run.namespace_id,
        run.run_id,
        run.workflow_id,
        run.type,
        run.task_queue,
        run.priority,
        run.driven,
        run.managed,
        run.parent_key,
        run.parent_ordinal,
        run.correlation_id,
        run.traceparent,
        run.tracestate,
        run.create_time,
        run.deadline,
        phase,
        run.version + 1,
        run.last_event,
        run.last_step,
        run.last_signal,
        run.order_count,
        run.order_hash,
        run.grants,
        run.cancel_reason,
        run.cancel_time,
        run.build_id,
        now,
        event,
        run.details,
    )
