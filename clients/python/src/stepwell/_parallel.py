"""What a workflow's code does in parallel: branches that it waits for together, and those of which one counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from stepwell import _steps
from stepwell._groups import Group
from stepwell._races import Race, Winner
from stepwell.definitions import definition_of
from stepwell.errors import WaitTimeout

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell.policies import Seconds

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
I = TypeVar("I")  # noqa: E741 - an item


class Parallel:
    """The part of a `Context` that opens branches."""

    __slots__ = ()
    _run: RunExecution

    @overload
    async def gather(self, *awaitables: Awaitable[T], return_exceptions: Literal[False] = ...) -> list[T]: ...
    @overload
    async def gather(self, *awaitables: Awaitable[T], return_exceptions: bool) -> list[T | Exception]: ...
    async def gather(self, *awaitables: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Does several things in parallel, each in a branch of its own, and gives their results in order.

        Waits for all of them, also when one has failed: the others are not cancelled. Then raises the failure of the
        first in order that failed, whichever was faster; with `return_exceptions` failures stand among the results. A
        cancellation of the run is raised either way.
        """
        group = Group(self._run, self._run.present_scope(), len(awaitables), awaitables.__getitem__)
        return await group.join(None, return_exceptions=return_exceptions)

    @overload
    async def map(
        self,
        fn: Callable[[I], Awaitable[T]],
        items: Iterable[I],
        *,
        limit: int | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[[I], T],
        items: Iterable[I],
        *,
        limit: int | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> list[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[[I], Awaitable[T]],
        items: Iterable[I],
        *,
        limit: int | None = ...,
        return_exceptions: bool,
    ) -> list[T | Exception]: ...
    @overload
    async def map(
        self, fn: Callable[[I], T], items: Iterable[I], *, limit: int | None = ..., return_exceptions: bool
    ) -> list[T | Exception]: ...
    async def map(
        self,
        fn: Callable[[I], Any],
        items: Iterable[I],
        *,
        limit: int | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Does one thing for each item, each in a branch of its own, at most `limit` at a time (default: all).

        `fn` is a function with `@activity`, or gives something to await: `lambda item: ctx.activity(...)`, or an async
        function. Gives the results in order; fails as `gather` does, when all items are done.
        """
        if limit is not None and limit < 1:
            raise ValueError("limit must be at least 1")
        run = self._run
        found = definition_of(fn)
        inputs = list(items)
        if found is not None and not found.is_workflow:
            group = Group(
                run, run.present_scope(), len(inputs), lambda index: _steps.activity(run, fn, inputs[index], {})
            )
        else:
            group = Group(run, run.present_scope(), len(inputs), lambda index: fn(inputs[index]))
        return await group.join(limit, return_exceptions=return_exceptions)

    @overload
    async def race(self, first: Awaitable[A], second: Awaitable[B], /) -> Winner[A | B]: ...
    @overload
    async def race(self, first: Awaitable[A], second: Awaitable[B], third: Awaitable[C], /) -> Winner[A | B | C]: ...
    @overload
    async def race(self, *awaitables: Awaitable[T]) -> Winner[T]: ...
    async def race(self, *awaitables: Awaitable[Any]) -> Winner[Any]:
        """Does several things in parallel, each in a branch of its own, until the first has finished.

        Gives its place, from 0, and its result: `place, value = await ctx.race(a, b)`. Failing is finishing too: what
        the first one failed with is raised. Who won is recorded, and is the same in each replay. The others are
        cancelled: what they wait for is given up, and `RaceLost` is raised in them once. The race waits until their
        clean-up is done, and until the function of a `step` that they are at has returned; what they come to does not
        matter.

        A branch that a cancellation of the run ends has not finished. Raises `ValueError` when there are no branches.
        """
        if not awaitables:
            raise ValueError("a race needs branches")
        return await Race(self._run, self._run.present_scope(), len(awaitables), awaitables.__getitem__).first()

    async def timeout(self, awaitable: Awaitable[T], seconds: Seconds, *, name: str = "timeout") -> T:
        """Does something, in a branch of its own, for at most this long: a race against a timer of that name.

        Raises `WaitTimeout` when the time is over first.
        """
        first = await self.race(awaitable, _steps.sleep(self._run, seconds, name, ""))
        if first.place:
            raise WaitTimeout(name)
        # The timer has no value, and did not win.
        return first.value  # type: ignore[return-value]

    async def shield(self, awaitable: Awaitable[T]) -> T:
        """Does something, in a branch of its own, that a request to cancel the run or a lost race leaves alone.

        The service does not ask its activities to stop, and `RunCancelled` is raised after it has ended.
        """
        group = Group(self._run, self._run.present_scope(), 1, lambda _: awaitable, is_shielded=True)
        results: list[T] = await group.join(None)
        return results[0]
