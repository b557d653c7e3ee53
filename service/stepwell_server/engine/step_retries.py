"""A step of a driven run is done again, and with it what was skipped because of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine import reopening
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import go_on, held
from stepwell_server.engine.driven_steps import identity_of
from stepwell_server.engine.removing import AnyStep
from stepwell_server.engine.step_holders import unclaimed, with_details
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.steps import ClosedStep, Kind, SkipCause, Step, StepState, unpack_step_details

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_TO_RETRY = frozenset({StepState.FAILED, StepState.CANCELLED, StepState.RUNNING, StepState.WAITING})


class Retried(msgspec.Struct, frozen=True, gc=False):
    """The answer: the step and the run's phase as they are now, and which steps are as if never begun."""

    step: Step
    phase: int
    reset: tuple[str, ...]


class RetryStep(msgspec.Struct, frozen=True, gc=False):
    """Has a step done again that failed, was cancelled or has not ended; its run goes on, whatever it came to."""

    ref: RunRef
    step_name: str
    dependents: frozenset[str]
    follow: bool
    token: int

    def wants(self) -> Missing:
        return Missing(open_steps=True, closed_steps=True)

    def decide(self, change: Change) -> Retried:
        steps = change.every_step()
        step = next((each for each in steps if each.identity == identity_of(self.step_name)), None)
        self._go_on(change, step)
        if step is None:
            raise errors.StepNotFound(run_id=change.run_id, step=self.step_name)
        if step.state not in _TO_RETRY or step.kind != Kind.LOCAL:
            raise errors.StepStateConflict(step=self.step_name, state=StepState(step.state).name)
        begun = change.reopen_step(step) if isinstance(step, ClosedStep) else step
        facts = {"attempt": str(step.attempt), "state": StepState(step.state).name}
        change.event(EventType.STEP_RETRIED, ordinal=step.ordinal, facts=facts)
        # A higher token: whoever had it has it no more.
        begun = replace(unclaimed(begun), state=StepState.RUNNING, start_time=change.now, grants=begun.grants + 1)
        change.put_step(begun)
        change.release_dispatch(self.step_name)
        reset = cascade(steps, self.step_name, self.dependents, follow=self.follow)
        for each in reset:
            _reset(change, each)
        return Retried(begun, change.phase, tuple(each.key or each.name for each in reset))

    def _go_on(self, change: Change, step: AnyStep | None) -> None:
        """The run is RUNNING, also if it had ended."""
        if change.run is not None:
            held(change, self.token)
        elif change.closed_run is not None:
            closed = change.closed_run
            if not closed.driven:
                raise errors.RunNotDriven(run_id=closed.run_id)
            reopening.reopen(change, closed, self.ref.namespace)
            facts = {"phase": Phase(closed.phase).name, "step": self.step_name}
            event = change.event(EventType.RUN_RETRIED, ordinal=step.ordinal if step is not None else 0, facts=facts)
            change.news.notice(event)
        go_on(change)


def _reset(change: Change, step: ClosedStep) -> None:
    """A step is as if never begun; its attempts stay in history, and count."""
    opened = with_details(change.reopen_step(step), skip_cause=0, skip_reason="", blocked_by=())
    change.event(EventType.STEP_RESET, ordinal=step.ordinal)
    change.put_step(replace(unclaimed(opened), start_time=None))
    change.release_dispatch(step.key or step.name)


def cascade(steps: Iterable[AnyStep], step_name: str, dependents: Collection[str], *, follow: bool) -> list[ClosedStep]:
    """The steps that were not done because of one that is done again, by ordinal.

    Of those that were skipped for PREREQUISITES, or cut short, the named ones, and with `follow` those that say that
    they were blocked by it or by one of these, and so on.
    """
    held_up = {each.key or each.name: each for each in steps if isinstance(each, ClosedStep) and _was_held_up(each)}
    chosen = {name: held_up[name] for name in dependents if name in held_up}
    found = {step_name, *chosen} if follow else set[str]()
    while found:
        left = [(name, each) for name, each in held_up.items() if name not in chosen]
        new = {name: each for name, each in left if found & set(unpack_step_details(each.details).blocked_by)}
        chosen |= new
        found = set(new)
    chosen.pop(step_name, None)
    return sorted(chosen.values(), key=lambda each: each.ordinal)


def _was_held_up(step: ClosedStep) -> bool:
    if step.kind != Kind.LOCAL:
        return False
    if step.state == StepState.CANCELLED:
        return True
    return step.state == StepState.SKIPPED and unpack_step_details(step.details).skip_cause == SkipCause.PREREQUISITES
