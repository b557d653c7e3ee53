"""A run while a batch changes it, second part: its steps, open and ended."""

from __future__ import annotations

from typing import ClassVar

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine.closing import close_step, open_step
from stepwell_server.engine.lazily import Kinds
from stepwell_server.engine.run_change import RunChange
from stepwell_server.engine.wishes import Identity, Missing
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.steps import ClosedStep, EndedStep, Step, StepState

AnyStep = Step | ClosedStep


class StepChange(RunChange):
    """See the module, and `change`."""

    __slots__ = (
        "_closed_by_name",
        "_open_by_name",
        "closed",
        "loaded_steps",
        "removed_steps",
        "renamed_steps",
        "steps",
        "touched",
    )

    lazy: ClassVar[Kinds] = {**RunChange.lazy, "removed_steps": dict, "renamed_steps": dict}
    removed_steps: dict[int, ClosedStep]
    renamed_steps: dict[int, None]  # open ones, of whose rows more than what usually changes is another

    def _begin_empty(self) -> None:
        super()._begin_empty()
        self.steps: dict[int, Step] = {}
        self.closed: dict[int, ClosedStep] = {}
        self._open_by_name: dict[Identity, int] = {}
        self._closed_by_name: dict[Identity, int] = {}
        self.loaded_steps: set[int] = set()
        self.touched: dict[int, None] = {}

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
        self.news.end(EndedStep(ended, payload, failure))
        return ended

    def reopen_step(self, ended: ClosedStep) -> Step:
        """Takes an ended step among the open ones again, as it is when it begins anew."""
        run = self.open
        if run.open_steps >= self.limits.open_steps:
            raise errors.LimitExceeded(limit="open_steps", value=run.open_steps + 1, maximum=self.limits.open_steps)
        self.remove_step(ended)
        step = replace(open_step(ended), managed=run.managed)
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

    def replace_steps(self, steps: list[tuple[AnyStep, AnyStep]]) -> None:
        """Records steps under other names: pairs of what each was and is to be. Two may change names."""
        for before, _ in steps:
            if isinstance(before, ClosedStep):
                self.remove_step(before)
            else:
                self._pop(self._open_by_name, before.identity)
        for _, after in steps:
            if isinstance(after, ClosedStep):
                self.put_ended_step(after)
            else:
                self._set(self._open_by_name, after.identity, after.ordinal)
                self._set(self.renamed_steps, after.ordinal, None)
                self.put_step(after)

    def every_open_step(self) -> list[Step]:
        """All open steps of the run. Asks for them if they are not all loaded."""
        if not self.knows_open_steps:
            raise Missing(open_steps=True)
        return list(self.steps.values())

    @property
    def knows_open_steps(self) -> bool:
        """Whether all open steps of the run are at hand."""
        return self.known.open_steps or self.run is None or len(self.steps) == self.run.open_steps

    def every_step(self) -> list[Step | ClosedStep]:
        """All steps of the run, open and ended, by ordinal. Asks for those that are not loaded."""
        if not self.known.closed_steps or not self.knows_open_steps:
            raise Missing(open_steps=True, closed_steps=True)
        steps: list[Step | ClosedStep] = [*self.steps.values(), *self.closed.values()]
        return sorted(steps, key=lambda step: step.ordinal)
