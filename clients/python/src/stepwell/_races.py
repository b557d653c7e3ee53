"""Races: branches of which the first one to finish counts, and how the others hear that they have lost.

Which branch won is a marker of the branch that races, recorded before or with all that follows from it. Where a loser
heard is a marker in its own branch, as with a cancellation, and in each branch that it waits for.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from stepwell._calls import Call, RaceLost, RunCancelled
from stepwell._cancelling import WAIT, marker_of, place_of
from stepwell._groups import Group
from stepwell._scopes import LOST_MARK, WINNER
from stepwell._updates import Condition
from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import RaceStep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell._runs import RunExecution
    from stepwell._scopes import Scope
    from stepwell.v1.workers_pb2 import StepRecord

log = logging.getLogger("stepwell.worker")
_MARKER = types_pb2.STEP_KIND_MARKER
T = TypeVar("T")


class Winner(NamedTuple, Generic[T]):
    """Who won a race: its place among the branches, from 0, and what it came to."""

    place: int
    value: T


class Race(Group):
    """The branches of one `race`.

    Who ends by a cancellation has not finished. Among those that have by the time that the code can go no further, the
    one whose last answer was recorded first wins, so that it does not matter how late the worker heard of them.
    """

    __slots__ = ("_ranks", "_since", "winner")

    def __init__(self, run: RunExecution, scope: Scope, size: int, begin: Callable[[int], Awaitable[Any]]) -> None:
        """Numbers the branches."""
        super().__init__(run, scope, size, begin)
        self.winner: int | None = None
        self._since = math.inf
        self._ranks: dict[int, int] = {}

    async def first(self) -> Winner[Any]:
        """Runs the branches until one has finished and the others have heard of it and ended."""
        run = self._run
        self._recall()
        run.races.running[self] = None
        try:
            await self._run_all(None)
        finally:
            run.races.running.pop(self, None)
        if self.winner is None:
            raise self._worst(self._errors)
        for index, error in self._errors.items():
            if index != self.winner and not isinstance(error, RunCancelled):
                log.info("run %s: branch %s lost a race, and failed: %r", run.task.run_id, self._path(index), error)
        self.scope.completed = max(self.scope.completed, self._ranks.get(self.winner, 0))
        if self.winner in self._errors:
            raise self._errors[self.winner]
        return Winner(self.winner, self.results[self.winner])

    @property
    def _key(self) -> str:
        """Names the race in its branch: by its own first branch."""
        return str(self._first)

    def _recall(self) -> None:
        record = self._run.record.steps.get(self.scope.key_for(WINNER, self._key))
        if record is not None:
            self._run.recall(self.scope, _MARKER, WINNER, self._key, None)
            self.winner, self._since = record.winner - self._first, record.completion
            if self.winner >= self.size:
                self._run.miss(self.scope, record.winner)

    def _opened(self, index: int, scope: Scope) -> None:
        if self.winner is not None and index != self.winner and scope.lost is None:
            scope.lost, scope.lost_since = scope.path, self._since

    def _ended(self, index: int, scope: Scope) -> None:
        self._ranks[index] = scope.completed

    def _is_over(self) -> bool:
        # The code may have lost the branch that won: then it does not go on.
        return not self._left and (not self._finished() if self.winner is None else self.winner < self.size)

    def _finished(self) -> list[int]:
        return [index for index in self._ranks if not isinstance(self._errors.get(index), RunCancelled)]

    def decide(self) -> bool:
        """Lets one win, if any has finished."""
        finished = self._finished() if self.winner is None else ()
        if not finished:
            return False
        self.winner = winner = min(finished, key=lambda index: (self._ranks[index], index))
        body = {"race": RaceStep(winner=self._first + winner)}
        self._run.add_step(self.scope, _MARKER, WINNER, self._key, body=body)
        for index in range(self.size):
            loser = self._run.scopes.get(self._path(index))
            if index != winner and loser is not None:
                _lose(loser, loser.path)
        self._settle()
        return True


def _lose(scope: Scope, path: str) -> None:
    """Lets a branch hear that `path` has lost, and those that it waits for; not what it shields, nor its clean-up."""
    if scope.has_lost:
        return
    if scope.lost is None:
        scope.lost, scope.lost_since = path, math.inf
    if scope.group is None or not scope.group.is_shielded:
        for child in scope.children or ():
            _lose(child, path)


class Races:
    """The races of one run, and its branches that have lost."""

    __slots__ = ("_run", "running")

    def __init__(self, run: RunExecution) -> None:
        """Begins with none."""
        self._run = run
        self.running: dict[Race, None] = {}

    def part(self) -> None:
        """Forgets the run, of which nothing is under way any more."""
        del self._run

    def move(self, *, is_still: bool) -> bool:
        """Decides what can be decided and tells losers that wait. True if any of them may go on.

        `is_still`: no code of the run is at work.
        """
        decided = [race.decide() for race in list(self.running)]
        return self._raise_where_losers_wait(is_still=is_still) or any(decided)

    def _raise_where_losers_wait(self, *, is_still: bool) -> bool:
        is_raised = False
        if all(race.winner is None for race in self.running):
            return is_raised
        for scope in list(self._run.scopes.values()):
            waiting = scope.waiting
            if scope.lost is None or not isinstance(waiting, Call | Condition):
                continue
            if isinstance(waiting, Call) and waiting.is_patient:
                self._run.out.stop(waiting)
            elif isinstance(waiting, Call) or is_still:
                # What a condition waits for may yet come while other branches are being replayed.
                waiting.interrupt(self.note(scope, place_of(scope)))
                is_raised = True
        return is_raised

    def heard_at_end(self, scope: Scope, record: StepRecord, *, is_new: bool) -> RunCancelled | None:
        """Gives what a branch hears in place of the end of a step that was cancelled, if it has yet to hear of it.

        Of a step that is on record, only if that was cancelled since the race was won: else the code got past it.
        """
        is_news = is_new or record.completion > scope.lost_since
        if scope.lost is not None and is_news and record.state == types_pb2.STEP_STATE_CANCELLED:
            return self.note(scope)
        cancellation = self._run.cancellation
        return cancellation.note(scope, WAIT) if cancellation.ended(scope, record) else None

    def note(self, scope: Scope, place: str = WAIT) -> RaceLost:
        """Records that a branch hears of its loss here, and gives what is to be raised."""
        path = scope.lost or scope.path
        scope.hear_loss()
        self._run.add_step(scope, _MARKER, LOST_MARK, path, body={"marker": marker_of(place)})
        return RaceLost()
