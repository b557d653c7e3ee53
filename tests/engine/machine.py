"""Random programs, workers, callers and time against a service in memory, and what must hold after every batch.

Commands gather and are committed together, as they come; workers hold runs in memory, are lost, and replay. The model
knows of each run which ends its code has been told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from msgspec.structs import replace
from tests.engine.code import Code, json
from tests.engine.draws import (
    ATTEMPTS,
    BUILDS,
    BY_KIND,
    CALLS,
    CONFLICTS,
    ENDING,
    ENDS,
    NAMES,
    OWN,
    STARTS,
    WEIGHTS,
    Draw,
)
from tests.engine.machine_people import PersonLives
from tests.engine.world import MAIN

from stepwell_server import errors, refusals
from stepwell_server.engine.activities import CancelledActivity, CompleteActivity, FailActivity
from stepwell_server.engine.builds import PinRun
from stepwell_server.engine.change import Change
from stepwell_server.engine.committer.orders import Order
from stepwell_server.engine.grants import GrantTask, ReturnTask
from stepwell_server.engine.mending import RetryRun, RewindRun, StepName
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.engine.repairing import RepairRun
from stepwell_server.engine.repairs import Chosen, Rename, Skip
from stepwell_server.engine.reported import End, Successor
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, ResumeRun, TerminateRun
from stepwell_server.engine.signals import Signalled, SignalRun
from stepwell_server.engine.starts import NewRun, StartRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import ClosedRun, Phase, Run, unpack_details
from stepwell_server.model.steps import Kind, StepState, is_on_topic, result_event
from stepwell_server.model.tasks import Grant


class Service(PersonLives):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.world.most_carried = 2
        self.accepted: dict[int, list[bytes]] = defaultdict(list)
        self.codes: dict[int, Code] = {}
        self.held: dict[tuple[int, int], Grant] = {}
        self.pending: list[tuple[Order, Callable[[Any], None]]] = []
        self.sent: list[ProgressRun] = []
        self.sent_signals: list[bytes] = []
        self.told: dict[int, set[int]] = defaultdict(set)
        self.cancel_told: set[int] = set()
        self.mended: set[int] = set()

    # --- committing -------------------------------------------------------------------------------------------------

    def give(self, order: Order, then: Callable[[Any], None] = lambda _: None) -> None:
        self.pending.append((order, then))

    def commit(self) -> None:
        """What gathered is a batch. Each answer reaches its caller, and what was committed those who hold runs."""
        if not self.pending:
            return
        orders, self.pending = self.pending, []
        before = {key: {s.end_event for s in self.ends_of(key)} for key in self.world.store.runs}
        answers = self.world.batch(*(order for order, _ in orders))
        assert self.world.last is not None
        changes = self.world.last.subjects.runs
        for (_, then), answer in zip(orders, answers, strict=True):
            assert not isinstance(answer, refusals.Internal | errors.StepOrderChanged), answer
            then(answer)
        for key, change in changes.items():
            self.hear(key, change)
        for key, known in before.items():
            fresh = [step.end_event for step in self.ends_of(key) if step.ordinal in changes_of(changes, key)]
            assert all(event > max(known, default=0) or event in known for event in fresh)

    def hear(self, key: int, change: Change) -> None:
        """What goes out to the session that holds the run."""
        for session, ordinal, token, _ in change.news.revokes:
            assert session == self.world.session
            if ordinal == 0 and key in self.codes and self.codes[key].token == token:
                del self.codes[key]
            elif ordinal:
                self.held.pop((key, ordinal), None)
        if change.run is not None and change.run.session_id is not None:
            self.told[key] |= {ended.step.ordinal for ended in change.news.ended}
            if change.news.run_cancel:
                self.cancel_told.add(key)

    def ends_of(self, key: int) -> list[Any]:
        return [step for place, step in self.world.store.closed_steps.items() if place[0] == key]

    @initialize()
    def begin(self) -> None:
        self.world.start()

    @rule(what=st.sampled_from(WEIGHTS), data=st.data())
    def act(self, what: str, data: Any) -> None:
        """Somebody does something, the common things more often."""
        getattr(self, what)(data.draw)

    def settle(self, draw: Draw) -> None:
        self.commit()

    # --- callers ----------------------------------------------------------------------------------------------------

    def start(self, draw: Draw) -> None:
        if len(self.world.store.runs) < 4:
            name, delay, timeout = draw(st.sampled_from(STARTS))
            new = NewRun(MAIN, "main", "flow", "q", workflow_id=name, delay_seconds=delay, timeout_seconds=timeout)
            self.give(StartRun(replace(new, details=draw(ATTEMPTS)), conflict=draw(CONFLICTS)))

    def signal(self, draw: Draw) -> None:
        if self.world.store.runs:
            key = draw(st.sampled_from(sorted(self.world.store.runs)))
            signal_id = draw(st.sampled_from([None, None, "x", "y"]))
            payload, chain = json(str(len(self.sent_signals))), self.chain_of(key)
            self.sent_signals.append(payload.body)

            def told(answer: Any) -> None:
                if isinstance(answer, Signalled) and answer.recorded:
                    self.accepted[chain].append(payload.body)

            self.give(SignalRun(self.world.ref(key), draw(NAMES), payload, signal_id), told)

    def steer(self, draw: Draw) -> None:
        if self.world.store.runs:
            key = draw(st.sampled_from(sorted(self.world.store.runs)))
            steer: Any = draw(st.sampled_from([CancelRun, PauseRun, PauseRun, TerminateRun, PinRun]))
            self.give(steer(self.world.ref(key), draw(st.sampled_from(BUILDS)) if steer is PinRun else "why"))

    def resume(self, draw: Draw) -> None:
        paused = [key for key, run in self.world.store.runs.items() if run.pause_reason is not None]
        if paused:
            self.give(ResumeRun(self.world.ref(draw(st.sampled_from(paused))), accept_order=False))

    def mend(self, draw: Draw) -> None:
        """Somebody retries what has ended, or rewinds a run, to a step that may be there or not."""
        store = self.world.store
        if not store.runs and not store.closed_runs:
            return
        key = draw(st.sampled_from(sorted([*store.runs, *store.closed_runs])))
        self.mended.add(key)
        if key in store.closed_runs and draw(st.booleans()):
            self.give(RetryRun(self.world.ref(key), (), ""))
        else:
            step = StepName(draw(st.integers(1, 6)))
            self.give(RewindRun(self.world.ref(key), step, ""))

    def repair(self, draw: Draw) -> None:
        """Somebody renames or skips steps of a run that may be paused; such as it then has, its code calls."""
        if self.world.store.runs:
            key = draw(st.sampled_from(sorted(self.world.store.runs)))
            self.mended.add(key)
            if draw(st.booleans()):
                self.give(PauseRun(self.world.ref(key), "look"))
            chosen = [Chosen(StepName(n)) for n in draw(st.lists(st.integers(1, 6), max_size=2, unique=True))]
            every = [Chosen(None, draw(NAMES))] if draw(st.booleans()) else []
            repairs = [Rename(each, draw(NAMES)) if draw(st.booleans()) else Skip(each) for each in [*chosen, *every]]
            self.give(RepairRun(self.world.ref(key), tuple(repairs), ""))

    # --- workers ----------------------------------------------------------------------------------------------------

    def grant(self, draw: Draw) -> None:
        if not self.world.store.tasks:
            return
        key, ordinal = draw(st.sampled_from(sorted(self.world.store.tasks)))
        # Often one that takes the run, as a claim would have it.
        own = self.world.store.tasks[key, ordinal].build_id
        builds = draw(st.sampled_from([(own,), (own,), ("1",), ("2", "1"), ()]))

        def granted(answer: Any) -> None:
            if isinstance(answer, Grant) and ordinal:
                self.held[key, ordinal] = answer
            elif isinstance(answer, Grant) and key in self.world.store.runs:
                assert answer.run.build_id in ("", *builds)
                self.replay(key, answer, builds)

        self.give(GrantTask(self.world.ref(key), ordinal, self.world.session, "worker", builds), granted)
        if draw(st.booleans()):
            self.commit()

    def replay(self, key: int, grant: Grant, builds: tuple[str, ...]) -> None:
        """A worker gets the run: its code goes over all that is recorded, and knows of all that has ended."""
        run = self.world.run(key)
        if run.grants != grant.run.grants or run.session_id is None:
            return
        code = Code(self.world, key, granted=True)
        code.build_id = builds[0] if builds else ""
        steps = [*self.ends_of(key), *(step for place, step in self.world.store.steps.items() if place[0] == key)]
        for step in sorted(steps, key=lambda each: each.ordinal):
            code.passed(code.call(step.name, BY_KIND[Kind(step.kind)], step.scope))
        self.codes[key] = code
        self.told[key] = {step.ordinal for step in self.ends_of(key)}
        if run.cancel_time is not None:
            self.cancel_told.add(key)

    def progress(self, draw: Draw) -> None:
        if not self.codes:
            return
        key = draw(st.sampled_from(sorted(self.codes)))
        code = self.codes[key]
        open_steps = sorted(place[1] for place in self.world.store.steps if place[0] == key)
        cancels = (open_steps[0],) if open_steps and draw(st.integers(0, 7)) == 0 else ()
        stops = tuple(open_steps[-2:]) if draw(st.integers(0, 7)) == 0 else ()
        steps = [code.call(name, body, scope) for name, scope, body in draw(CALLS)]
        waiting, resident = draw(st.sampled_from([(False, True), (True, True), (True, False)]))
        message = code.message(*steps, waiting=waiting, resident=resident, cancels=cancels, stops=stops)
        gives_up = waiting and not resident
        if gives_up:
            del self.codes[key]

        def answered(answer: Any) -> None:
            if isinstance(answer, ProgressAnswer):
                self.told[key] |= {ended.step.ordinal for ended in answer.ended} if not gives_up else set()
                self.told[key] |= set(cancels)
                known = [ordinal for ordinal, step in zip(answer.ordinals, steps, strict=True) if step.kind in OWN]
                self.told[key] |= set(known)
                self.sent.append(message)
            else:
                self.codes.pop(key, None)

        self.give(message, answered)
        if draw(st.booleans()):
            self.commit()

    def repeat(self, draw: Draw) -> None:
        """Whoever missed the answer sends the same again: it was recorded, or the lease is lost; nothing changes."""
        if not self.sent or self.pending:
            return
        message = draw(st.sampled_from(self.sent[-3:]))
        events = {key: len(each) for key, each in self.world.store.events.items()}
        (answer,) = self.world.batch(message)
        assert isinstance(answer, errors.LeaseLost) or answer.duplicate or not message.steps
        assert {key: len(each) for key, each in self.world.store.events.items()} == events
        if not isinstance(answer, errors.LeaseLost) and message.waiting and not message.resident:
            self.codes.pop(message.ref.run_key or 0, None)

    def end(self, draw: Draw) -> None:
        if self.codes:
            key, phase = draw(st.sampled_from(sorted(self.codes))), draw(ENDS)
            successor = Successor(NULL) if phase == Phase.COMPLETED and draw(st.booleans()) else None
            self.give(self.codes.pop(key).message(end=End(phase, successor=successor)))

    def report(self, draw: Draw) -> None:
        if not self.held:
            return
        place, foreign = draw(st.sampled_from(sorted(self.held))), draw(st.integers(0, 7)) == 0
        grant = self.held[place] if foreign else self.held.pop(place)
        assert grant.step is not None
        session = uuid4() if foreign else self.world.session
        named = (self.world.ref(place[0]), place[1], session, grant.step.grants)
        order: Order = draw(
            st.sampled_from(
                [
                    CompleteActivity(*named, NULL),
                    FailActivity(*named, Failure("no")),
                    CancelledActivity(*named, NULL),
                ]
            )
        )

        def refused(answer: Any) -> None:
            assert isinstance(answer, refusals.Refusal) or not foreign or answer.duplicate

        self.give(order, refused)

    def lose(self, draw: Draw) -> None:
        """A worker dies, or gives back what it holds."""
        places = [*self.held, *((key, 0) for key in self.codes)]
        if not places:
            return
        key, ordinal = draw(st.sampled_from(sorted(places)))
        if ordinal:
            step = self.held.pop((key, ordinal)).step
            token = step.grants if step is not None else 0
        else:
            token = self.codes.pop(key).token
        self.give(ReturnTask(self.world.ref(key), ordinal, token, self.world.session, draw(st.booleans()), "lost"))

    # --- time and post ----------------------------------------------------------------------------------------------

    def tick(self, draw: Draw) -> None:
        self.world.advance(draw(st.sampled_from([0.5, 2.0, 2.0, 11.0])))
        now = self.world.now
        for (key, ordinal), step in self.world.store.steps.items():
            if step.wake_time is not None and step.wake_time <= now:
                self.give(FireStep(self.world.ref(key), ordinal))
        for key, run in self.world.store.runs.items():
            if run.wake_time is not None and run.wake_time <= now:
                self.give(LookAtRun(self.world.ref(key)))

    def deliver(self, draw: Draw) -> None:
        if not self.pending:
            for letter in self.world.letters():
                self.give(letter)
            self.commit()

    # --- what must always hold --------------------------------------------------------------------------------------

    @invariant()
    def everything_adds_up(self) -> None:
        self.world.check()

    @invariant()
    def nothing_wakes_nobody(self) -> None:
        """A run with something that its code has not heard of is queued, or held by a session that was told."""
        for key, run in self.world.store.runs.items():
            if run.pause_reason is None and run.phase == Phase.PENDING:
                begins = run.queued or run.wake_time is not None or unpack_details(run.details).carried_from
                assert begins, f"run {key} waits to begin, and nobody looks at it"
            if run.pause_reason is not None or run.phase == Phase.PENDING:
                continue
            untold = {step.ordinal for step in self.ends_of(key)} - self.told[key]
            cancel = run.cancel_time is not None and key not in self.cancel_told
            if untold or cancel:
                assert run.queued, f"run {key}: {untold} ended and nobody hears of it"

    @invariant()
    def who_was_replaced_knows_by_whom(self) -> None:
        """A run that made way names the later run of its workflow id that took it."""
        every: list[Run | ClosedRun] = [*self.world.store.runs.values(), *self.world.store.closed_runs.values()]
        runs = {str(run.run_id): run for run in every}
        for key, closed in self.world.store.closed_runs.items():
            facts = unpack_attributes(self.world.events(key)[-1].attributes).facts or {}
            _, _, by = facts.get("reason", "").partition("replaced by run ")
            if by:
                assert closed.phase == Phase.TERMINATED
                assert runs[by].workflow_id == closed.workflow_id
                assert runs[by].run_key > key

    @invariant()
    def no_signal_is_lost_or_taken_twice(self) -> None:
        """Each that was accepted waits in its chain, or was taken in it; whoever took it got what it carried."""
        store = self.world.store
        found: dict[int, list[bytes]] = defaultdict(list)
        kept = [signal for signal in store.signals.values() if signal.name.isprintable() and not signal.consumed]
        places = [(signal.run_key, signal.event) for signal in kept]
        for (key, _), step in store.closed_steps.items():
            if (
                step.kind == Kind.WAIT
                and not is_on_topic(step)
                and step.state == StepState.COMPLETED
                and not step.timed_out
            ):
                places.append((key, result_event(step)))
        for key, number in places:
            found[self.chain_of(key)].append(self.world.events(key)[number - 1].payload or b"")
        for chain in {self.chain_of(key) for key in store.runs}:
            assert sorted(found[chain]) == sorted(self.accepted[chain])

    @invariant()
    def steps_end_once_and_signals_are_taken_in_their_order(self) -> None:
        for key in [*self.world.store.runs, *self.world.store.closed_runs]:
            ends = [
                event.step_ordinal
                for event in self.world.events(key)
                if event.type in ENDING and event.step_ordinal and event.type != EventType.STEP_COMPLETED
            ]
            assert len(ends) == len(set(ends))
            taken = [
                step.input_event or step.end_event
                for step in sorted(self.ends_of(key), key=lambda each: each.end_event)
                if step.kind == Kind.WAIT
                and step.wait_name == "a"
                and not is_on_topic(step)
                and not step.timed_out
                and step.state == StepState.COMPLETED
            ]
            # What is given back comes after what steps that stay had taken.
            assert taken == sorted(taken) or key in self.mended
            assert len(taken) == len(set(taken))


def changes_of(changes: dict[int, Change], key: int) -> dict[int, None]:
    """The steps of a run that a batch touched."""
    return changes[key].touched if key in changes else {}
