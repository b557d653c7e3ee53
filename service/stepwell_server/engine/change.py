"""One run while a batch changes it: what was loaded, what the commands made of it, and what is to be written.

A command's `decide` reads and changes it through the verbs of the three classes, and nothing else: no I/O, no clock
but `now`. Commands of one run are folded over the same Change in their order. Every verb notes how to undo itself, so
that a refused command leaves no trace; a decision may therefore refuse at any point.

The verbs that decisions about activities need are those of `activity_change`: a job has them too.

Invariants: every change of what is open of a run goes with a higher `version`; event numbers have no gaps; a step is
in `steps` (open) or in `closed`, never in both; `run` is None exactly when there is no open run.

RunChange: the run itself, its history, its tasks, its mail, and undoing. StepChange: its steps. Change: branches,
signals, heartbeats and whatever else stands in a table of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import endings
from stepwell_server.engine.run_change import HIGHEST_PRIORITY
from stepwell_server.engine.step_change import AnyStep, StepChange
from stepwell_server.engine.wishes import EVERY_SIGNAL, Missing
from stepwell_server.model.events import (
    SIGNAL_ORDINAL,
    TOPIC_EVENT,
    TOPIC_NAME,
    EventType,
    pack_attributes,
    payload_of,
    received_signal,
    unpack_attributes,
)
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import ClosedStep, Kind, Scope, Step, StepState, has_expired, is_on_topic
from stepwell_server.model.tasks import Grant, TaskKind
from stepwell_server.model.topics import TopicCopy, TopicEvent, TopicPosition, TopicView, TopicWait
from stepwell_server.model.user_tasks import TaskStatus, UserTask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from stepwell_server.model.driven import Side, SideKey
    from stepwell_server.model.events import Event
    from stepwell_server.model.run_calls import Published
    from stepwell_server.model.search_attributes import AttributeValue


class Slice(NamedTuple):
    """Signals that go from a run to the one that continues it, and whether there are more."""

    signals: list[Signal]
    has_more: bool


class Change(StepChange):
    """See the module."""

    __slots__ = (
        "carried",
        "carried_away",
        "consumed",
        "dispatches",
        "emptied",
        "given_back",
        "heartbeats",
        "new_signals",
        "published",
        "received",
        "scopes",
        "search_attributes",
        "seen_events",
        "sides",
        "signal_ids",
        "signals",
        "slices",
        "topic_copies",
        "topic_positions",
        "topics",
        "touched_attributes",
        "touched_scopes",
        "touched_sides",
    )

    def _begin_empty(self) -> None:
        super()._begin_empty()
        self.sides: dict[SideKey, Side | None] = {}
        self.touched_sides: dict[SideKey, None] = {}
        self.dispatches: dict[str, bool] = {}  # by the step's name: True if it is released, else it is claimed
        self.scopes: dict[str, Scope] = {}
        self.touched_scopes: dict[str, None] = {}
        self.signals: dict[str, list[Signal]] = {}
        self.signal_ids: dict[str, Signal] = {}
        self.new_signals: list[Signal] = []
        self.consumed: list[Signal] = []
        self.slices: dict[int, Slice] = {}
        self.carried: list[Signal] = []
        self.carried_away: list[tuple[int, int]] = []
        self.emptied: list[int] = []
        self.given_back: dict[int, Signal] = {}
        self.received: list[Signal] = []
        self.heartbeats: dict[int, tuple[datetime, Payload]] = {}
        self.published: dict[str, Published] = {}
        self.search_attributes: dict[str, AttributeValue] = {}
        self.touched_attributes: dict[str, None] = {}
        self.seen_events: dict[int, Event] = {}
        self.topics: dict[str, TopicView] = {}
        self.topic_copies: list[TopicCopy] = []
        self.topic_positions: dict[str, TopicPosition] = {}
        self._lists += [self.new_signals, self.consumed, self.carried, self.carried_away, self.emptied]
        self._lists.append(self.topic_copies)

    # --- its activities ---------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something that the run's code waits for has ended: it hears."""
        endings.wake(self)

    def enqueue_step(self, step: Step, ready_time: datetime | None = None) -> None:
        """Puts an activity's task into its queue. A driven run's are claimed apart, whatever their type."""
        if self.open.driven:
            kind, type_name, priority = TaskKind.DRIVEN_ACTIVITY, "", HIGHEST_PRIORITY
        else:
            kind, type_name, priority = TaskKind.ACTIVITY, step.type, step.priority
        self.enqueue(step.ordinal, kind, step.task_queue, type_name, priority, ready_time)

    def give(self, step: Step, session_id: UUID, ready_time: datetime | None) -> Grant:
        """An activity as it is given to a session."""
        payload = self.input_at_hand(step.input_event)
        grant = Grant(session_id, self.open, step, payload, ready_time=ready_time)
        self.news.grants.append(grant)
        self.news.claims.append(grant)
        return grant

    def input_at_hand(self, number: int) -> Payload | None:
        """An input, if the event that holds it was appended in this batch."""
        for event in self.events:
            if event.number == number:
                return payload_of(event.payload_kind, event.payload, unpack_attributes(event.attributes))
        return None

    def lost(self, token: int, current: int) -> errors.LeaseLost:
        """The refusal of one who does not hold the run, or an activity of it, under that token."""
        return errors.LeaseLost(run_id=self.run_id, token=token, current=current)

    # --- branches, signals and other small rows ---------------------------------------------------------------------

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

    def load_signals(self, name: str, stored: Sequence[Signal], through: int) -> None:
        """Takes in the next signals of that name that nobody has taken, as stored: all up to the ordinal `through`."""
        kept = [*self.signals.get(name, []), *stored]
        self.signals[name] = sorted(kept, key=lambda each: each.ordinal)
        self.known.signals[name] = through

    def pending_signals(self, name: str, through: int = 0) -> list[Signal]:
        """Signals of that name that nobody has taken: the oldest, and all others up to the ordinal `through`."""
        kept = self.signals.get(name, [])
        known = self._signals_known(name)
        if known < EVERY_SIGNAL and (through > known or not kept or kept[0].ordinal > known):
            raise Missing(signals=[name])
        return kept

    def _signals_known(self, name: str) -> int:
        """Up to which ordinal the signals of that name are loaded that nobody has taken."""
        if self.fresh or self.known.received or not self.open.last_signal:
            return EVERY_SIGNAL
        return self.known.signals.get(name, 0)

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
        if signal.ordinal in self.given_back:
            self._pop(self.given_back, signal.ordinal)
        else:
            self.consumed.append(signal)

    def every_signal(self) -> list[Signal]:
        """All signals that the run ever got, taken or not, in their order. Asks for them if they are not loaded."""
        if not self.known.received and self.had_signals:
            raise Missing(received=True)
        fresh = [
            received_signal(event.run_key, event.number, event.attributes, event.event_time)
            for event in self.events
            if event.type == EventType.SIGNAL_RECEIVED
        ]
        fresh += [
            received_signal(copy.run_key, copy.number, copy.attributes, copy.event_time) for copy in self.topic_copies
        ]
        chain_key = self.chain_key
        every = {each.ordinal: replace(each, chain_key=chain_key) for each in (*self.received, *self.carried, *fresh)}
        return [every[ordinal] for ordinal in sorted(every)]

    def give_back(self, signal: Signal) -> None:
        """Keeps a signal again that was taken; where it stands among its kind, its ordinal says."""
        kept = self.signals.get(signal.name, [])
        if any(each.ordinal == signal.ordinal for each in kept):
            return
        self._set(self.signals, signal.name, sorted([*kept, signal], key=lambda each: each.ordinal))
        self._set(self.given_back, signal.ordinal, signal)

    @property
    def had_signals(self) -> bool:
        """Whether the run, open or closed, ever got a signal."""
        return bool((self.run or self._closed_run).last_signal)

    def signal_with_id(self, signal_id: str) -> Signal | None:
        """The signal that was recorded under that id, or None."""
        found = self.signal_ids.get(signal_id)
        # A new run that continues another does not know its chain's ids any better than that one.
        is_new = self.fresh and self.chain_key == self.run_key
        if found is None and signal_id not in self.known.signal_ids and not is_new and self.had_signals:
            raise Missing(signal_ids=[signal_id])
        return found

    def left_signals(self, run_key: int) -> Slice:
        """Signals of a run of its chain that nobody has taken, oldest first, as many as may be carried together."""
        if not self.had_signals:
            return Slice([], has_more=False)
        if run_key not in self.slices:
            raise Missing(carried=[run_key])
        if run_key != self.run_key:
            # Another letter of this batch may have taken them over.
            gone = set(self.carried_away)
            left = [each for each in self.slices[run_key].signals if (run_key, each.ordinal) not in gone]
            return Slice(left, self.slices[run_key].has_more)
        taken = {signal.ordinal for signal in self.consumed} - self.given_back.keys()
        stored, has_more = self.slices[run_key]
        fresh = [*(signal for signal in self.new_signals if not signal.consumed), *self.given_back.values()]
        known = {signal.ordinal: signal for signal in (*fresh, *stored)}
        return Slice([known[ordinal] for ordinal in sorted(known) if ordinal not in taken], has_more)

    def carry_signal(self, signal: Signal) -> None:
        """Takes a signal over from another run of its chain, in its place among those that this one got."""
        event = self.copy_event(signal.run_key, signal.event)
        self.carried_away.append((signal.run_key, signal.ordinal))
        own = replace(signal, run_key=self.run_key, event=event)
        self.carried.append(own)
        if self.fresh:
            self._set(self.signals, own.name, [*self.signals.get(own.name, []), own])

    def waiting_for(self, signal: str, now: datetime | None = None) -> Step | None:
        """The oldest step that waits for that signal, or None. One whose time was over then waits no more."""
        waiting = [
            step for step in self._waiting(signal) if not is_on_topic(step) and not has_expired(step, now or self.now)
        ]
        return min(waiting, key=lambda step: step.ordinal, default=None)

    def _waiting(self, name: str) -> list[Step]:
        """Open steps that wait for a signal or a topic of that name."""
        if name not in self.known.waits and not self.known.open_steps and self.open.open_steps:
            raise Missing(waits=[name])
        return [step for step in self.steps.values() if step.wait_name == name and step.kind == Kind.WAIT]

    # --- topics -----------------------------------------------------------------------------------------------------

    def waiting_on(self, topic: str) -> list[Step]:
        """Open steps that wait for an event of that topic, in their order."""
        return sorted((step for step in self._waiting(topic) if is_on_topic(step)), key=lambda step: step.ordinal)

    def topic(self, name: str) -> tuple[int, TopicEvent | None]:
        """The last event of a topic, after which come those for a wait that begins; and the one that it gets at once.

        Asks for it if it is not loaded.
        """
        view, position = self._topic(name), self.topic_positions.get(name)
        had = max(view.had, position.number if position is not None else 0)
        kept = next((event for event in view.kept if event.number > had), None)
        if kept is None and not view.is_whole:
            raise Missing(topics=[name])
        return max(view.last_number, had), kept

    def last_of_topic(self, name: str) -> int:
        """The number of the last event of a topic that is kept or on its way, 0 for none. Asks for it as `topic`."""
        return self._topic(name).last_number

    def _topic(self, name: str) -> TopicView:
        view = self.topics.get(name)
        if view is None:
            raise Missing(topics=[name])
        return view

    def load_topic(self, name: str, view: TopicView) -> None:
        """Takes in how a topic looks; with what is known of it already, it is what follows that."""
        known = self.topics.get(name)
        if known is not None:
            view = replace(known, kept=known.kept + view.kept, is_whole=view.is_whole)
        self.topics[name] = view

    def copy_topic_event(self, topic: str, event: TopicEvent, ordinal: int) -> int:
        """Appends what an event of a topic says, for the step that gets it, and answers the new event's number.

        A full history takes it all the same: it ends an open step.
        """
        run = self.open
        number, signal = run.last_event + 1, run.last_signal + 1
        facts = {TOPIC_NAME: topic, TOPIC_EVENT: str(event.number), SIGNAL_ORDINAL: str(signal)}
        attributes = pack_attributes(Payload(0, b"", event.metadata), facts=facts)
        self.topic_copies.append(
            TopicCopy(run.run_key, number, ordinal, self.now, attributes, run.namespace_id, topic, event.number)
        )
        self.run = replace(run, last_event=number, last_signal=signal, version=run.version + 1, update_time=self.now)
        if event.retain_time is not None:
            self._note_had(topic, event.number, event.retain_time)
        return number

    def _note_had(self, topic: str, number: int, expire_time: datetime) -> None:
        """Notes that an event was had which is kept for later waits: none of this chain gets it again."""
        known = self.topic_positions.get(topic)
        if known is not None:
            number, expire_time = max(number, known.number), max(expire_time, known.expire_time)
        self._set(self.topic_positions, topic, TopicPosition(self.chain_key, topic, number, expire_time))

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
        """See `StepChange`. One that waited for a topic does so no more; a task for people goes with it."""
        if is_on_topic(step) and (step.ordinal in self.loaded_steps or (TopicWait, step.ordinal) in self.sides):
            self.put_side((TopicWait, step.ordinal), None)
        if step.kind == Kind.USER_TASK:
            self._end_user_task(step.ordinal)
        return super().end_step(step, state, event, payload=payload, failure=failure, timed_out=timed_out)

    # --- tasks for people -------------------------------------------------------------------------------------------

    def user_task(self, ordinal: int) -> UserTask | None:
        """The task of that step, or None. Asks for it if it is not loaded."""
        row = self.side((UserTask, ordinal))
        return row if isinstance(row, UserTask) else None

    def put_user_task(self, task: UserTask, **fields: Any) -> UserTask:  # noqa: ANN401 - columns of user_tasks
        """Changes a task, and notes that it changed."""
        changed = replace(task, update_time=self.now, version=task.version + 1, **fields)
        self.put_side((UserTask, task.ordinal), changed)
        return changed

    def _end_user_task(self, ordinal: int) -> None:
        """Nobody needs it any more, unless it was completed. It was loaded with its step."""
        row = self.sides.get((UserTask, ordinal))
        if isinstance(row, UserTask) and row.is_active:
            self.put_user_task(row, status=TaskStatus.CANCELLED)

    def replace_steps(self, steps: list[tuple[AnyStep, AnyStep]]) -> None:
        """See `StepChange`. A task for people is found by its step's name."""
        super().replace_steps(steps)
        for _, after in steps:
            row = self.sides.get((UserTask, after.ordinal))
            if isinstance(row, UserTask) and row.step_name != after.name:
                self.put_user_task(row, step_name=after.name)

    # --- and the rest -----------------------------------------------------------------------------------------------

    def heartbeat(self, ordinal: int) -> tuple[datetime, Payload] | None:
        """When an activity last sent details, and which."""
        if ordinal not in self.known.heartbeats and not self.fresh:
            raise Missing(heartbeats=[ordinal])
        return self.heartbeats.get(ordinal)

    def event_at(self, number: int) -> Event | None:
        """An event of its history, or None. Asks for it if it is neither loaded nor of this batch."""
        found = self.seen_events.get(number) or next((each for each in self.events if each.number == number), None)
        if found is None and number not in self.known.events:
            raise Missing(events=[number])
        return found

    def publish(self, value: Published) -> None:
        """Puts a value in the place of the one of its name."""
        self._set(self.published, value.name, value)

    def every_search_attribute(self) -> dict[str, AttributeValue]:
        """All search attributes of the run, open or ended. Asks for them if they are not loaded."""
        if not self.known.search_attributes:
            raise Missing(search_attributes=True)
        return self.search_attributes

    def set_search_attribute(self, name: str, value: AttributeValue | None) -> None:
        """Puts a search attribute in the place of the one of its name, or with None takes it away."""
        if value is None:
            self._pop(self.search_attributes, name)
        else:
            self._set(self.search_attributes, name, value)
        self._set(self.touched_attributes, name, None)

    def load_search_attributes(self, stored: dict[str, AttributeValue]) -> None:
        """Takes in the search attributes of the run as stored."""
        if not self.known.search_attributes:
            self.search_attributes = stored
            self.known.search_attributes = True

    def side(self, key: SideKey) -> Side | None:
        """A small row of the run in a table of its own, or None. Asks for it if it is not loaded."""
        if key not in self.sides and key not in self.known.sides and not self.fresh:
            raise Missing(sides=[key])
        return self.sides.get(key)

    def put_side(self, key: SideKey, row: Side | None) -> None:
        """Changes such a row, or with None takes it away."""
        self._set(self.sides, key, row)
        self._set(self.touched_sides, key, None)

    def claim_dispatch(self, step_name: str) -> None:
        """Somebody is at a step: if it was dispatched, that has arrived."""
        self._set(self.dispatches, step_name, False)  # noqa: FBT003 - a value of the map

    def release_dispatch(self, step_name: str) -> None:
        """A step is to be done again: it may be dispatched again."""
        self._set(self.dispatches, step_name, True)  # noqa: FBT003

    def load_side(self, key: SideKey, row: Side) -> None:
        """Takes in such a row as stored, unless this batch has already changed it."""
        if key not in self.touched_sides:
            self.sides[key] = row
