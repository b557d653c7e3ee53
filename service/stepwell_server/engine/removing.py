"""Taking steps out of a run's record, so that the code does them anew; history keeps what they were.

Ordinals are never given again: whoever still works on a step that is gone finds it gone, whatever its token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server.engine import endings
from stepwell_server.engine.order import chain
from stepwell_server.model.runs import EMPTY_HASH, pack_details, unpack_details
from stepwell_server.model.steps import ClosedStep, Kind, Scope, Step, StepState, fingerprint_of, result_event

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell_server.engine.change import Change

AnyStep = Step | ClosedStep


def take_out(change: Change, steps: Sequence[AnyStep], reason: str) -> None:
    """Takes steps out of the record: open ones are cancelled, their workers told, their children dealt with."""
    for step in steps:
        if isinstance(step, Step):
            endings.cancel_step(change, step, reason)
    for step in steps:
        ended = change.step(step.ordinal)
        if isinstance(ended, ClosedStep):
            change.remove_step(ended)
    details = unpack_details(change.open.details)
    change.update(details=pack_details(replace(details, removed_steps=details.removed_steps + len(steps))))


def count_again(change: Change, scopes: Iterable[str]) -> None:
    """Counts and hashes the calls of branches as they are recorded now."""
    lines = dict.fromkeys(scopes, (0, EMPTY_HASH))
    for step in change.every_step():
        if step.scope in lines:
            count, hash_ = lines[step.scope]
            lines[step.scope] = (count + 1, chain(hash_, step.kind, step.name, fingerprint_of(step)))
    for scope, (count, hash_) in lines.items():
        change.set_scope(Scope(change.run_key, scope, count, hash_))


def give_signals_back(change: Change) -> None:
    """Keeps again, in their order, the signals that no recorded wait has taken."""
    taken = {signal_of(step) for step in change.every_step()}
    for signal in change.every_signal():
        if signal.event not in taken:
            change.give_back(signal)


def signal_of(step: AnyStep) -> int:
    """The event of the signal that a step took, 0 for none."""
    is_taken = step.kind == Kind.WAIT and isinstance(step, ClosedStep) and step.state == StepState.COMPLETED
    return result_event(step) if is_taken and isinstance(step, ClosedStep) and not step.timed_out else 0


def forget_news(change: Change, steps: Iterable[AnyStep]) -> None:
    """Nobody is told of the ends of steps that are gone: their names may be borne by new ones. Comes last."""
    gone = {step.ordinal for step in steps}
    change.news.ended = [each for each in change.news.ended if each.step.ordinal not in gone]
