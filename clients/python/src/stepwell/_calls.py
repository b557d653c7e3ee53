"""Durable calls: made when they are awaited, answered from the record or by the service."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from stepwell.v1 import types_pb2

if TYPE_CHECKING:
    from stepwell._groups import Group
    from stepwell._runs import RunExecution
    from stepwell._scopes import Scope
    from stepwell.v1.workers_pb2 import ContinueAsNew, NewStep, StepRecord

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ENDED = frozenset(
    {
        types_pb2.STEP_STATE_COMPLETED,
        types_pb2.STEP_STATE_FAILED,
        types_pb2.STEP_STATE_SKIPPED,
        types_pb2.STEP_STATE_CANCELLED,
    }
)

current: contextvars.ContextVar[tuple[RunExecution, Scope]] = contextvars.ContextVar("stepwell_scope")


class RunCancelled(asyncio.CancelledError):
    """The run was asked to cancel. Raised once in each branch, where it waits or at its next call.

    Code may catch it and clean up, with durable calls too; then it should let it pass. `reason` says why.
    """

    def __init__(self, reason: str = "") -> None:
        """Keeps the reason."""
        super().__init__(reason)
        self.reason = reason


class RaceLost(RunCancelled):
    """Another branch of a race has finished first. Raised once in each branch of a loser, as a cancellation is.

    It is a `RunCancelled` so that the same clean-up code serves; the run itself goes on.
    """

    def __init__(self) -> None:
        """Has nothing to tell."""
        super().__init__("another branch was first")


class ContinueRun(BaseException):
    """Ends a run so that another one goes on with its work. Raised by `continue_as_new`; not an error."""

    def __init__(self, end: ContinueAsNew) -> None:
        """Keeps how it goes on."""
        super().__init__()
        self.end = end


class Call(Generic[T_co]):
    """A durable call, not yet made. Await it, or give it to `ctx.gather`, where it needs no task of its own."""

    __slots__ = (
        "_read",
        "_run",
        "_spell",
        "group",
        "index",
        "is_ended",
        "is_forsaken",
        "is_patient",
        "is_stopping",
        "key",
        "kind",
        "name",
        "ordinal",
        "scope",
        "waiter",
    )

    def __init__(
        self,
        run: RunExecution,
        *,
        kind: types_pb2.StepKind.ValueType,
        name: str,
        key: str,
        spell: Callable[[], dict[str, Any]],
        read: Callable[[StepRecord], T_co],
        is_patient: bool = False,
    ) -> None:
        """Keeps what the step would be; its input is converted only if it is new.

        `is_patient`: a request to cancel the run is not raised here before the step has ended.
        """
        self._run = run
        self.kind = kind
        self.name = name
        self.key = key
        self._spell = spell
        self._read = read
        self.ordinal = 0
        self.is_ended = self.is_forsaken = self.is_stopping = False
        self.is_patient = is_patient
        self.scope: Scope | None = None
        self.waiter: asyncio.Future[StepRecord] | None = None
        self.group: Group | None = None
        self.index = 0

    def __await__(self) -> Generator[Any, None, T_co]:
        """Makes the call and waits until its step has ended."""
        run = self._run
        scope = run.present_scope()
        gate = run.arrive(scope)
        if gate is not None:
            yield from gate
        record = run.make(self, scope)
        if record is None:
            self.waiter = future = run.loop.create_future()
            scope.waiting = cast("Call[object]", self)
            run.block()
            try:
                record = yield from future
            except BaseException:
                if future.cancelled():
                    run.active += 1
                run.forsake(self)
                raise
            finally:
                scope.waiting = None
        return self._read(record)

    def spell(self) -> dict[str, Any]:
        """Spells the part of a `NewStep` that is its kind's own."""
        return self._spell()

    def read(self, record: StepRecord) -> T_co:
        """Turns the ended step into the call's value, or raises what it failed with."""
        return self._read(record)

    def resolve(self, record: StepRecord) -> None:
        """Lets whoever waits go on."""
        if self.group is not None:
            group, self.group = self.group, None
            group.read_child(self.index, self, record)
        elif self.waiter is not None and not self.waiter.done():
            self._run.active += 1
            self.waiter.set_result(record)

    def interrupt(self, error: BaseException) -> None:
        """Raises in whoever waits; the step itself is given up, if it is still open."""
        if self.group is not None:
            group, self.group = self.group, None
            self._run.forsake(self)
            group.fail(self.index, error)
        elif self.waiter is not None and not self.waiter.done():
            self._run.active += 1
            self.waiter.set_exception(error)


class Entry:
    """A new step on its way to the record, and who waits for it to be there."""

    __slots__ = ("acks", "call", "count", "order", "scope", "step")

    def __init__(self, step: NewStep, scope: Scope, call: Call[Any] | None) -> None:
        """Notes where the branch stands after the step."""
        self.step = step
        self.scope = scope
        self.call = call
        self.count = scope.count
        self.order = scope.order
        self.acks: list[asyncio.Future[None]] | None = None
