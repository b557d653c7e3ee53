"""Mending the record of a paused run to fit its code, where that was changed on purpose.

`repairs` says what becomes of which step. Here the run is changed: steps that are skipped go from the record as with a
rewind, others are recorded under their new names, counts and hashes follow, and a run whose order had changed goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import removing
from stepwell_server.engine.differences import in_words
from stepwell_server.engine.mending import set_going
from stepwell_server.engine.reopening import refuse_driven
from stepwell_server.engine.repairs import Accept, Plan, Repair, plan
from stepwell_server.engine.runs import clear_pause
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType, payload_of, unpack_attributes
from stepwell_server.model.order import MadeCall, unpack_differences
from stepwell_server.model.repairs import MOST_SHOWN, RepairedStep, pack_repaired
from stepwell_server.model.run_calls import ACCEPTANCE, UPDATES
from stepwell_server.model.runs import ORDER_CHANGED, RunRef, unpack_details
from stepwell_server.model.steps import (
    ClosedStep,
    Kind,
    StepState,
    is_on_topic,
    pack_step_details,
    unpack_step_details,
)
from stepwell_server.model.topics import kept_name

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.removing import AnyStep
    from stepwell_server.model.order import Difference


class Repaired(msgspec.Struct, frozen=True, gc=False):
    """The answer: how many steps were renamed and skipped, and the first of them."""

    run_id: UUID
    phase: int
    paused: bool
    renamed_count: int
    skipped_count: int
    steps: tuple[RepairedStep, ...]


class RepairRun(msgspec.Struct, frozen=True, gc=False):
    """See the module. Refuses with REPAIR_DISAGREES where what is known of the code contradicts the mended record."""

    ref: RunRef
    repairs: tuple[Repair, ...]
    reason: str

    def wants(self) -> Missing:
        return Missing(open_steps=True, closed_steps=True, received=True)

    def decide(self, change: Change) -> Repaired:
        run = change.open
        refuse_driven(change)
        if run.pause_reason is None:
            raise errors.RunNotPaused(run_id=run.run_id)
        is_accepted = any(isinstance(repair, Accept) for repair in self.repairs)
        if is_accepted and run.pause_reason != ORDER_CHANGED:
            raise errors.RunPaused(run_id=run.run_id, pause_reason=f"{run.pause_reason} (no order is to be accepted)")
        steps = change.every_step()
        made = plan(run.run_id, steps, self.repairs)
        if not is_accepted:
            _refuse_known_difference(change, steps, made)
        return self._apply(change, steps, made, is_accepted=is_accepted)

    def _apply(self, change: Change, steps: list[AnyStep], made: Plan, *, is_accepted: bool) -> Repaired:
        removing.take_out(change, made.skipped, "a repair skips it")
        change.replace_steps([*made.changed, *_moved_updates(steps, made.skipped)])
        removing.count_again(change, made.scopes)
        if made.skipped:
            removing.give_signals_back(change)
            _hand_out_signals(change)
        shown = _shown(steps, made)
        counts = {"renamed": len(made.renamed), "skipped": len(made.skipped)}
        facts = {name: str(count) for name, count in counts.items() if count}
        facts |= {"accepted": "true"} if is_accepted else {}
        facts |= {"reason": self.reason} if self.reason else {}
        event = change.event(EventType.RUN_REPAIRED, payload=pack_repaired(shown), facts=facts)
        if change.open.pause_reason == ORDER_CHANGED:
            change.news.notice(event)
            clear_pause(change)
            set_going(change)
        removing.forget_news(change, made.skipped)
        paused = change.open.pause_reason is not None
        return Repaired(change.run_id, change.phase, paused, len(made.renamed), len(made.skipped), shown)


def _shown(steps: list[AnyStep], made: Plan) -> tuple[RepairedStep, ...]:
    after = {step.ordinal: step for _, step in made.changed}
    gone = {step.ordinal for step in made.skipped}
    shown = []
    for step in steps:
        was = (step.ordinal, step.scope, step.kind, step.name, step.occurrence, step.key)
        if step.ordinal in gone:
            shown.append(RepairedStep(*was, skipped=True))
        elif step.ordinal in made.renamed:
            now = after[step.ordinal]
            shown.append(RepairedStep(*was, new_name=now.name, new_occurrence=now.occurrence))
    return tuple(shown[:MOST_SHOWN])


def _refuse_known_difference(change: Change, steps: list[AnyStep], made: Plan) -> None:
    """Holds the mended record against the calls of the code that the pause knows of."""
    number = unpack_details(change.open.details).pause_event
    if not number:
        return
    event = change.event_at(number)
    if event is None:
        return
    told = payload_of(event.payload_kind, event.payload, unpack_attributes(event.attributes))
    lines: dict[str, tuple[list[AnyStep], list[AnyStep]]] = {}
    for side, record in enumerate((steps, made.after(steps))):
        for step in record:
            lines.setdefault(step.scope, ([], []))[side].append(step)
    for found in unpack_differences(told):
        before, after = lines.get(found.scope, ([], []))
        _refuse_difference(change.run_id, found, before, after)


def _refuse_difference(run_id: UUID, found: Difference, before: list[AnyStep], after: list[AnyStep]) -> None:
    if found.place is None:
        return
    code = [*(MadeCall(step.kind, step.name) for step in before[: found.place]), *found.made]
    record = [MadeCall(step.kind, step.name) for step in after]
    place = next((i for i, (own, new) in enumerate(zip(record, code, strict=False)) if own != new), None)
    if place is None and not found.made and len(record) > len(code):
        place = len(code)  # the code ended the branch there
    if place is None:
        return
    scope, recorded, got = in_words(found.scope, place, record[place:], code[place:])
    raise errors.RepairDisagrees(run_id=run_id, scope=scope, recorded=recorded, got=got)


def _moved_updates(steps: list[AnyStep], skipped: list[AnyStep]) -> list[tuple[AnyStep, AnyStep]]:
    """Acceptances of updates, whose place counts the waits of the run's own line, of which there are fewer now."""
    ends = [
        step.end_event
        for step in skipped
        if isinstance(step, ClosedStep) and not step.scope and step.kind != Kind.MARKER
    ]
    moved: list[tuple[AnyStep, AnyStep]] = []
    for step in steps:
        if not ends or step.scope != UPDATES or step.name != ACCEPTANCE or not isinstance(step, ClosedStep):
            continue
        details = unpack_step_details(step.details)
        fewer = sum(end < step.end_event for end in ends)
        if fewer:
            details = replace(details, place=max(0, details.place - fewer))
            moved.append((step, replace(step, details=pack_step_details(details))))
    return moved


def _hand_out_signals(change: Change) -> None:
    """Signals, and events of topics, that are kept again go to steps that wait for them, oldest first."""
    for step in sorted(change.every_open_step(), key=lambda each: each.ordinal):
        if step.kind != Kind.WAIT or step.wait_name is None:
            continue
        on_topic = is_on_topic(step)
        kept = change.pending_signals(kept_name(step.wait_name) if on_topic else step.wait_name)
        if not kept:
            continue
        signal = kept[0]
        change.take_signal(signal)
        facts = {"received_event" if on_topic else "signal_event": str(signal.event)}
        event = change.event(EventType.WAIT_COMPLETED, ordinal=step.ordinal, facts=facts)
        change.end_step(replace(step, input_event=signal.event), StepState.COMPLETED, event, payload=None)
