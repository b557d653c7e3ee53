"""Going on with a run from an earlier place of its record: retrying one that has ended badly, rewinding any."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server import errors
from stepwell_server.engine import cuts, endings, races, starts
from stepwell_server.engine.cuts import Lines
from stepwell_server.engine.removing import AnyStep, count_again, forget_news, give_signals_back, take_out
from stepwell_server.engine.reopening import ended, refuse_driven, reopen
from stepwell_server.engine.runs import clear_pause
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.mends import MOST_SHOWN, RemovedStep, pack_removed
from stepwell_server.model.runs import ORDER_CHANGED, RETRIED, REWOUND, Phase, RunRef, unpack_details
from stepwell_server.model.steps import StepState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.engine.change import Change
    from stepwell_server.model.runs import ClosedRun

_WHOLE = Missing(open_steps=True, closed_steps=True, received=True)
_TO_RETRY = (StepState.FAILED, StepState.CANCELLED)


class Mended(msgspec.Struct, frozen=True, gc=False):
    """The answer: how many steps were taken out of the record, and the first of them."""

    run_id: UUID
    phase: int
    removed_count: int
    removed: tuple[RemovedStep, ...]


class StepName(msgspec.Struct, frozen=True, gc=False):
    """Names a recorded step: by its ordinal, or (0) by its branch, its name and its occurrence or key."""

    ordinal: int
    scope: str = ""
    name: str = ""
    occurrence: int = 0
    key: str = ""

    def __str__(self) -> str:
        """As the caller named it."""
        if self.ordinal:
            return str(self.ordinal)
        return f"{self.scope}:{self.name}:{self.key or self.occurrence}" if self.scope else self.name

    def find(self, steps: list[AnyStep]) -> AnyStep | None:
        """The step among those."""
        wanted = (self.scope, self.name, self.occurrence, self.key)
        found = (step for step in steps if self.ordinal in {0, step.ordinal})
        return next((step for step in found if self.ordinal or step.identity == wanted), None)


class RetryRun(msgspec.Struct, frozen=True, gc=False):
    """Lets a run that ended badly go on from its record: what failed and what was cut short is done anew.

    `ordinals` names failed steps that are meant, with all that may have come of them; none: those that the code did not
    get past.
    """

    ref: RunRef
    ordinals: tuple[int, ...]
    reason: str

    def wants(self) -> Missing:
        return _WHOLE

    def decide(self, change: Change) -> Mended:
        closed = ended(change, RETRIED, "a retry")
        lines = Lines(change.every_step())
        chosen = self._chosen(change, lines) if self.ordinals else cuts.failed(lines)
        removed = lines.cut(
            [*chosen, *cuts.cut_short(lines, _closing_event(closed)), *cuts.cancelled(lines, closed.cancel_time)]
        )
        reopen(change, closed, self.ref.namespace)
        facts = {"phase": Phase(closed.phase).name, "reason": self.reason}
        return _go_on(change, removed, EventType.RUN_RETRIED, facts, scopes=_scopes(lines.steps))

    def _chosen(self, change: Change, lines: Lines) -> list[AnyStep]:
        found = {step.ordinal: step for step in lines.steps}
        for ordinal in self.ordinals:
            step = found.get(ordinal)
            if step is None:
                raise errors.StepNotFound(run_id=change.run_id, step=str(ordinal))
            if step.state not in _TO_RETRY:
                raise errors.StepStateConflict(step=str(ordinal), state=StepState(step.state).name)
        return [found[ordinal] for ordinal in self.ordinals]


class RewindRun(msgspec.Struct, frozen=True, gc=False):
    """Takes a run back to before a step: that one and all that was recorded after it, in every branch, is done anew.

    Of a run that has ended goes also what was cut short by its end.
    """

    ref: RunRef
    step: StepName
    reason: str

    def wants(self) -> Missing:
        return _WHOLE

    def decide(self, change: Change) -> Mended:
        closed = None if change.run is not None else ended(change, REWOUND, "a rewind")
        refuse_driven(change)
        steps = change.every_step()
        target = self.step.find(steps)
        if target is None:
            raise errors.StepNotFound(run_id=change.run_id, step=str(self.step))
        removed = {step.ordinal: step for step in steps if step.ordinal >= target.ordinal}
        lines = Lines(steps)
        removed |= {step.ordinal: step for step in lines.cut(races.reopened(steps, removed.values()))}
        facts = {"step": target.name, "ordinal": str(target.ordinal), "reason": self.reason}
        if closed is not None:
            removed |= {step.ordinal: step for step in lines.cut(cuts.cut_short(lines, _closing_event(closed)))}
            reopen(change, closed, self.ref.namespace)
            facts["phase"] = Phase(closed.phase).name
        gone = [removed[ordinal] for ordinal in sorted(removed)]
        scopes = _scopes(steps if closed is not None else gone)
        return _go_on(change, gone, EventType.RUN_REWOUND, facts, scopes=scopes)


def _closing_event(closed: ClosedRun) -> int:
    return unpack_details(closed.details).closing_event


def _scopes(steps: Sequence[AnyStep]) -> dict[str, None]:
    return dict.fromkeys(step.scope for step in steps)


def _go_on(
    change: Change,
    removed: list[AnyStep],
    kind: EventType,
    facts: dict[str, str],
    *,
    scopes: dict[str, None],
) -> Mended:
    """Takes the steps out, has the record fit what is left, and puts the run into its queue."""
    revoke(change, "REWOUND")
    take_out(change, removed, "the run goes on from an earlier place")
    count_again(change, scopes)
    give_signals_back(change)
    is_mended = change.open.pause_reason == ORDER_CHANGED
    if is_mended:
        clear_pause(change)
    shown = tuple(RemovedStep(step.ordinal, step.scope, step.name) for step in removed[:MOST_SHOWN])
    told = {name: fact for name, fact in facts.items() if fact} | {"removed": str(len(removed))}
    event = change.event(kind, payload=pack_removed(shown), facts=told)
    if is_mended or "phase" in told:
        change.news.notice(event)
    set_going(change)
    answer = Mended(change.run_id, change.phase, len(removed), shown)
    forget_news(change, removed)
    return answer


def revoke(change: Change, reason: str) -> None:
    """Takes the run from whoever holds it."""
    run = change.open
    if run.session_id is not None:
        change.news.revoke(run.session_id, 0, run.grants, reason)
        change.update(session_id=None, owner_id="", dirty=False)


def set_going(change: Change) -> None:
    """The run's code, which may have been mended, looks at the record anew, unless somebody paused the run."""
    run = change.open
    phase = Phase.RUNNING if run.grants else Phase.PENDING
    change.update(phase=phase, suspend_time=None)
    change.update(wake_time=starts.next_look(change))
    if run.pause_reason is None and not starts.begins_later(change):
        endings.enqueue_run(change)
