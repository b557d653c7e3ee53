"""Changes that others ask of a run: accepted where its code waits, recorded, and begun again there in a replay.

All acceptances and outcomes stand in scope `0`; what the n-th accepted update does is in branch `0/n`. An acceptance
notes in which wait of the run's own line it was made, counted from 1. A replay holds that line at the beginning of the
same wait until the update has done what it can do there.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from stepwell._calls import ContinueRun, RunCancelled, current
from stepwell._failures import failure_of
from stepwell._scopes import UPDATES, Scope
from stepwell.definitions import NO_DEFAULTS, Definition
from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import AcceptanceStep, OutcomeStep, UpdateRejection

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell.v1.types_pb2 import Payload
    from stepwell.v1.workers_pb2 import StepRecord, Update

log = logging.getLogger("stepwell.worker")

ACCEPTANCE, OUTCOME = "__update", "__outcome"
_MARKER = types_pb2.STEP_KIND_MARKER
Handler = tuple[Definition, "Callable[..., object] | None"]


class Condition:
    """Code that waits until something holds of its run's state."""

    __slots__ = ("future", "holds", "run", "scope")

    def __init__(self, run: RunExecution, scope: Scope, holds: Callable[[], object]) -> None:
        """Lets a branch wait."""
        self.run = run
        self.scope = scope
        self.holds = holds
        self.future: asyncio.Future[None] = run.loop.create_future()

    def look(self) -> bool:
        """Lets the code go on if it may."""
        try:
            if not self.holds():
                return False
        except Exception as error:  # noqa: BLE001 - it is the waiting code's own
            self.interrupt(error)
            return True
        self.run.active += 1
        self.future.set_result(None)
        return True

    def interrupt(self, error: BaseException) -> None:
        """Raises in the code that waits."""
        if not self.future.done():
            self.run.active += 1
            self.future.set_exception(error)


class Updates:
    """The updates of one run."""

    __slots__ = (
        "_conditions",
        "_ended",
        "_gate",
        "_handlers",
        "_known",
        "_offered",
        "_recorded",
        "_run",
        "_scope",
    )

    def __init__(self, run: RunExecution) -> None:
        """Begins with none."""
        self._run = run
        self._scope = Scope(UPDATES, None)
        self._handlers: dict[str, Handler] = {}
        self._recorded: collections.deque[StepRecord] = collections.deque()
        self._known: set[str] = set()
        self._ended: set[str] = set()
        self._offered: dict[str, Update] = {}
        self._conditions: list[Condition] = []
        self._gate: asyncio.Future[None] | None = None

    def part(self) -> None:
        """Forgets the run, of which nothing is under way any more."""
        del self._run

    def register(self, name: str, handler: Callable[..., Any], validator: Callable[..., object] | None) -> None:
        """Lets a function make a change, after another one has found it right."""
        self._handlers[name] = (Definition(handler, name, is_workflow=False, defaults=NO_DEFAULTS), validator)

    def load(self, records: Iterable[StepRecord]) -> None:
        """Takes in what is recorded of updates, by ordinal."""
        for record in records:
            self._run.out.replay(self._scope, _MARKER, record.name, record.key)
            if record.name == ACCEPTANCE:
                self._known.add(record.key)
                self._recorded.append(record)
            else:
                self._ended.add(record.key)

    def offer(self, updates: Iterable[Update]) -> None:
        """Takes in updates that the service tells of."""
        for update in updates:
            self._offered[update.update_id] = update
            self._run.wake()

    @property
    def are_open(self) -> bool:
        """Tells whether one that is accepted has not come to its outcome."""
        return bool(self._scope.children)

    # Where the run's own line stands

    def hold(self) -> asyncio.Future[None] | None:
        """Holds the run's own line up, in a replay, at the beginning of a wait in which updates were accepted."""
        run = self._run
        if not self._recorded or self._recorded[0].place > run.waits:
            return None
        self._gate = run.loop.create_future()
        run.block()
        return self._gate

    async def until(self, scope: Scope, holds: Callable[[], object]) -> None:
        """Waits until something holds."""
        gate = self._run.arrive(scope)
        if gate is not None:
            await gate
        run = self._run
        if run.is_dropped:
            raise asyncio.CancelledError
        if scope.waiting is not None or scope.group is not None:
            raise RuntimeError("another call of this branch is under way; use ctx.gather for both")
        scope.untils += 1
        if scope.marks:
            run.cancellation.meet_until(scope)
        if holds():
            return
        condition = Condition(run, scope, holds)
        scope.waiting = condition
        self._conditions.append(condition)
        run.block()
        try:
            await condition.future
        finally:
            if condition.future.cancelled():
                run.active += 1
            scope.waiting = None
            self._conditions.remove(condition)

    def move(self) -> bool:
        """Lets code go on that waits for other code of the run. True if any does."""
        if self._recorded and self._begin_recorded():
            return True
        if self._gate is not None:
            gate, self._gate = self._gate, None
            self._run.active += 1
            gate.set_result(None)
            return True
        # Each in turn, as if the others were not there: one may undo what the next one waits for.
        return bool(self._conditions) and any(condition.look() for condition in self._conditions)

    def accept(self) -> bool:
        """Looks at the updates that are offered. True if any of them is begun."""
        if not self._offered:
            return False
        may_accept = self._run.end is None and not self._recorded and not self._run.is_leaving
        return may_accept and self._begin_offered()

    def _begin_recorded(self) -> bool:
        is_begun = False
        while self._recorded and self._recorded[0].place <= self._run.waits:
            record = self._recorded.popleft()
            self._begin(record.key, record.update_name, record.result)
            is_begun = True
        return is_begun

    def _begin_offered(self) -> bool:
        offered, self._offered = self._offered, {}
        is_begun = False
        for update in offered.values():
            if update.update_id in self._known:
                # It came once more: its record answers for it.
                continue
            error = self._refusal(update)
            if error is not None:
                failure = failure_of(error, self._run.converter)
                self._run.out.rejections.append(UpdateRejection(update_id=update.update_id, failure=failure))
                continue
            acceptance = AcceptanceStep(update_name=update.name, input=update.input, place=self._run.waits)
            body = {"acceptance": acceptance}
            self._run.add_step(self._scope, _MARKER, ACCEPTANCE, update.update_id, body=body)
            self._known.add(update.update_id)
            self._begin(update.update_id, update.name, update.input)
            is_begun = True
        return is_begun

    def _refusal(self, update: Update) -> Exception | None:
        """Why an update is not accepted, `None` if it is."""
        found = self._handlers.get(update.name)
        if found is None:
            known = ", ".join(sorted(self._handlers)) or "none"
            return UnknownUpdate(f"the code has no update {update.name}; it has {known}")
        handler, validator = found
        try:
            given = self._given(handler, update.input)
            if validator is not None:
                contextvars.Context().run(validator, *given)
        except Exception as error:  # noqa: BLE001 - whatever it raises is the reason
            return error
        return None

    def _given(self, handler: Definition, payload: Payload) -> tuple[object, ...]:
        return (self._run.converter.from_payload(payload, handler.input_hint),) if handler.takes_input else ()

    # Doing

    def _begin(self, update_id: str, name: str, payload: Payload) -> None:
        run = self._run
        self._scope.last_branch += 1
        self._scope.cancel_seen = run.root.cancel_seen
        scope = run.open_scope(self._scope, self._scope.last_branch)
        run.active += 1
        run.spawn(self._follow(scope, update_id, name, payload))

    async def _follow(self, scope: Scope, update_id: str, name: str, payload: Payload) -> None:
        run = self._run
        current.set((run, scope))
        outcome = await self._outcome(name, payload)
        if run.is_dropped:
            return
        if update_id not in self._ended:
            run.add_step(self._scope, _MARKER, OUTCOME, update_id, body={"outcome": outcome})
        run.close_scope(scope)
        run.active -= 1
        run.wake()

    async def _outcome(self, name: str, payload: Payload) -> OutcomeStep:
        converter = self._run.converter
        found = self._handlers.get(name)
        try:
            if found is None:
                raise UnknownUpdate(f"the code has no update {name} any more")
            value = found[0].fn(*self._given(found[0], payload))
            result = await value if found[0].is_async else value
            return OutcomeStep(result=converter.to_payload(result))
        except ContinueRun:
            error: BaseException = RuntimeError(
                "an update cannot continue its run as new; let the run's own line do so"
            )
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - it is the update's outcome
            error = raised
        if not isinstance(error, RunCancelled):
            log.info("run %s: update %s failed: %r", self._run.task.run_id, name, error)
        return OutcomeStep(failure=failure_of(error, converter))


class UnknownUpdate(Exception):  # noqa: N818 - its name is the failure's type
    """The code has no update of that name."""
