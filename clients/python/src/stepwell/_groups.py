"""Parallel constructs: branches that start together, and the code that waits until all of them have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from stepwell._calls import Call, RaceLost, RunCancelled, current

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell._scopes import Scope
    from stepwell.v1.workers_pb2 import StepRecord


class Group:
    """The branches of one `gather` or `map`.

    They are numbered by their place, whenever they start. Its end waits for all of them, so that what it comes to does
    not depend on which was faster: a cancellation, else the failure of the first in order, else all results.
    """

    __slots__ = (
        "_begin",
        "_errors",
        "_first",
        "_left",
        "_limit",
        "_next",
        "_run",
        "_waiter",
        "is_shielded",
        "results",
        "scope",
        "size",
    )

    def __init__(
        self,
        run: RunExecution,
        scope: Scope,
        size: int,
        begin: Callable[[int], Awaitable[Any]],
        *,
        is_shielded: bool = False,
    ) -> None:
        """Numbers the branches; `begin` gives what the branch at a place does.

        `is_shielded`: neither a request to cancel the run nor a lost race reaches them.
        """
        self.is_shielded = is_shielded
        self._run = run
        self._begin = begin
        self.scope = scope
        self.size = size
        self.results: list[Any] = [None] * size
        self._errors: dict[int, BaseException] = {}
        self._left = size
        self._next = 0
        self._limit = size
        self._waiter: asyncio.Future[None] | None = None
        self._first = scope.last_branch + 1
        scope.last_branch += size

    async def join(self, limit: int | None, *, return_exceptions: bool = False) -> list[Any]:
        """Runs the branches, at most `limit` at a time, and gives their results in order.

        `return_exceptions`: what a branch failed with stands in the place of its result.
        """
        await self._run_all(limit)
        errors = self._errors
        if return_exceptions:
            for index, error in errors.items():
                self.results[index] = error
            errors = {index: error for index, error in errors.items() if not isinstance(error, Exception)}
        if errors:
            raise self._worst(errors)
        return self.results

    async def _run_all(self, limit: int | None) -> None:
        run, scope = self._run, self.scope
        gate = run.arrive(scope)
        if gate is not None:
            await gate
        self._limit = self.size if limit is None else limit
        scope.group = self
        try:
            self._fill()
            if not self._is_over():
                self._waiter = future = run.loop.create_future()
                run.block()
                try:
                    await future
                finally:
                    if future.cancelled():
                        run.active += 1
        finally:
            scope.group = None

    def _worst(self, errors: dict[int, BaseException]) -> BaseException:
        """Gives what all of it fails with: the run's cancellation, else a lost race, else the first in order."""
        error = errors[min(errors, key=lambda index: (_weight(errors[index]), index))]
        if isinstance(error, RaceLost):
            self.scope.hear_loss()
        elif isinstance(error, RunCancelled):
            self.scope.cancel_seen = True
        return error

    def _opened(self, index: int, scope: Scope) -> None:
        """Prepares a branch that is about to begin."""
        del index
        if self.is_shielded:
            scope.shield()

    def _ended(self, index: int, scope: Scope) -> None:
        """Takes in that a branch has ended."""
        del index
        self.scope.completed = max(self.scope.completed, scope.completed)

    def _is_over(self) -> bool:
        """Tells whether the code that waits for the branches may go on."""
        return not self._left

    def _path(self, index: int) -> str:
        return self.scope.branch_path(self._first + index)

    def _fill(self) -> None:
        # A branch that ends at once frees its place while this loop is at it.
        while self._next < self.size and self._next - (self.size - self._left) < self._limit:
            index = self._next
            self._next += 1
            self._start(index)

    def _start(self, index: int) -> None:
        run = self._run
        scope = run.open_scope(self.scope, self._first + index)
        self._opened(index, scope)
        try:
            if run.is_dropped:
                raise asyncio.CancelledError
            awaitable = self._begin(index)
            if not isinstance(awaitable, Call):
                run.active += 1
                run.spawn(self._follow(index, awaitable, scope))
                return
            call = awaitable
            record = run.make(call, scope)
        except BaseException as error:  # noqa: BLE001 - it is the branch's outcome
            self._end(index, scope, error)
            return
        if record is not None:
            self.read_child(index, call, record)
            return
        scope.waiting = call
        call.group = self
        call.index = index

    async def _follow(self, index: int, awaitable: Awaitable[Any], scope: Scope) -> None:
        current.set((self._run, scope))
        error: BaseException | None = None
        try:
            self.results[index] = await awaitable
        except BaseException as raised:  # noqa: BLE001 - it is the branch's outcome
            error = raised
        self._end(index, scope, error)
        self._run.active -= 1
        self._run.wake()
        self._fill()

    def read_child(self, index: int, call: Call[Any], record: StepRecord) -> None:
        """Ends a branch that is a single call."""
        try:
            self.results[index] = call.read(record)
        except BaseException as error:  # noqa: BLE001 - it is the branch's outcome
            self.fail(index, error)
            return
        self._end_single(index, None)

    def fail(self, index: int, error: BaseException) -> None:
        """Ends a branch that is a single call with an error."""
        self._end_single(index, error)

    def _end_single(self, index: int, error: BaseException | None) -> None:
        scope = self._run.scopes[self._path(index)]
        self._end(index, scope, error)
        if self._waiter is not None:
            self._fill()

    def _end(self, index: int, scope: Scope, error: BaseException | None) -> None:
        if error is not None:
            self._errors[index] = error
        scope.waiting = None
        self._run.close_scope(scope)
        self._left -= 1
        self._ended(index, scope)
        self._settle()

    def _settle(self) -> None:
        if self._waiter is not None and not self._waiter.done() and self._is_over():
            self._run.active += 1
            self._waiter.set_result(None)


def _weight(error: BaseException) -> int:
    if isinstance(error, RaceLost):
        return 1
    return 0 if isinstance(error, RunCancelled) else 2
