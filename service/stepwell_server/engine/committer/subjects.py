"""What one batch is about: its runs and its jobs, found by their names, locked and loaded.

No run and job have the same key. Still a key is looked for only among those that it was given for: who names a job as a
run, or a run as a job, finds nothing, and hides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell_server import refusals
from stepwell_server.engine.change import Change
from stepwell_server.engine.committer import loading, lookups
from stepwell_server.engine.committer.jobs import Jobs
from stepwell_server.engine.committer.orders import start_of
from stepwell_server.engine.jobs import StartJob
from stepwell_server.engine.names import Births
from stepwell_server.model.jobs import JobRef
from stepwell_server.model.runs import RunRef
from stepwell_server.store import batch_reads
from stepwell_server.store.faults import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from stepwell_server.engine.committer.keeping import Kept
    from stepwell_server.engine.committer.orders import AnyRef, Order
    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.engine.limits import Limits
    from stepwell_server.engine.wishes import Missing
    from stepwell_server.store.connection import Connection

Subject = tuple[bool, int]  # whether it is a job, and its key


class Subjects:
    """See the module."""

    def __init__(self, connection: Connection, now: datetime, limits: Limits, next_key: Callable[[], int]) -> None:
        self._connection = connection
        self._now = now
        self._limits = limits
        self.runs: dict[int, Change] = {}
        self.births = Births(self.runs, next_key)
        self.jobs = Jobs(now, limits, next_key)
        self._unlocked: set[int] = set()  # kept runs, as far as they are not locked

    def get(self, key: int | None, *, is_job: bool) -> AnyChange | None:
        """The run or the job of that key."""
        if key is None:
            return None
        return self.jobs.changes.get(key) if is_job else self.runs.get(key)

    def every(self) -> list[AnyChange]:
        """All of them, runs first."""
        return [*self.runs.values(), *self.jobs.changes.values()]

    async def look_up_starts(self, orders: Sequence[Order]) -> None:
        """Finds out which of the ids and names that starts give are borne already."""
        runs = [start for order in orders if (start := start_of(order)) is not None]
        if runs:
            await lookups.look_up_starts(self._connection, self.births, runs)
        jobs = [order for order in orders if isinstance(order, StartJob)]
        if jobs:
            await self.jobs.look_up_starts(self._connection, jobs)

    async def resolve(self, refs: Mapping[int, AnyRef]) -> dict[int, int | refusals.Refusal]:
        """The keys that references mean, or why there is none, by the places of those who asked."""
        runs = {place: ref for place, ref in refs.items() if isinstance(ref, RunRef)}
        jobs = {place: ref for place, ref in refs.items() if isinstance(ref, JobRef)}
        found = await lookups.resolve(self._connection, list(runs.values())) if runs else []
        if jobs:
            found += await self.jobs.resolve(self._connection, list(jobs.values()))
        return dict(zip([*runs, *jobs], found, strict=True))

    async def open(self, wanted: set[Subject]) -> tuple[set[Subject], set[Subject]]:
        """Locks runs and jobs. Answers those that are locked elsewhere, and those that are nowhere."""
        runs, jobs = ({key for of_job, key in wanted if of_job is kind} for kind in (False, True))
        held, nowhere = await loading.open_changes(
            self._connection, runs, self.runs, self.births, self._now, self._limits
        )
        busy, gone = await self.jobs.open(self._connection, jobs)
        return _marked(held, busy), _marked(nowhere, gone)

    def recall(self, kept: Iterable[Kept]) -> None:
        """Takes runs as they were kept, without a look at the database."""
        for run, steps in kept:
            change = Change(now=self._now, namespace="", limits=self._limits, run=run, births=self.births)
            for step in steps:
                change.load_step(step)
            self.runs[run.run_key] = change
            self._unlocked.add(run.run_key)

    async def hold_unchanged(self) -> None:
        """Locks those kept runs that were not changed: nothing will be written that fails if they are out of date."""
        await self._hold(key for key in self._unlocked if self.runs[key].run is self.runs[key].original)

    async def _hold(self, keys: Iterable[int]) -> None:
        """Locks kept runs. Raises Conflict if one is another by now, or is locked elsewhere."""
        wanted = sorted(self._unlocked.intersection(keys))
        if not wanted:
            return
        versions = {run.run_key: run.version for run in await batch_reads.lock_runs(self._connection, wanted)}
        if versions != {key: self.runs[key].stored_version for key in wanted}:
            raise Conflict("a run that was kept has changed")
        self._unlocked.difference_update(wanted)

    def is_awaited(self, ref: AnyRef) -> bool:
        """Whether a start of this batch gives that id or name."""
        return self.jobs.births.is_awaited(ref) if isinstance(ref, JobRef) else self.births.is_awaited(ref)

    def born_as(self, ref: AnyRef) -> int | None:
        """The key of what got that id or name in this batch, or None."""
        return self.jobs.births.born_as(ref) if isinstance(ref, JobRef) else self.births.born_as(ref)

    async def load(self, wanted: Sequence[tuple[AnyChange, Missing]]) -> None:
        """Loads what decisions want to see."""
        runs = [(change, missing) for change, missing in wanted if isinstance(change, Change)]
        if runs:
            if self._unlocked:
                await self._hold([change.run_key for change, missing in runs if loading.is_read(change, missing)])
            await loading.load_parts(self._connection, runs, self.births)
        jobs = [(change, missing) for change, missing in wanted if not isinstance(change, Change)]
        if jobs:
            await self.jobs.load(self._connection, jobs)

    def part(self) -> None:
        """Once the batch is over: runs and names know of each other, and would stay until a garbage collection."""
        self.births.changes = {}
        self.jobs.births.changes = {}

    def begin(self, change: AnyChange | None) -> None:
        """Starts a command, of that run or job if there is one yet: what follows can be undone."""
        if self.births.is_touched:
            self.births.begin()
        if self.jobs.births.is_touched:
            self.jobs.births.begin()
        if change is not None:
            change.begin()

    def undo(self, change: AnyChange | None) -> None:
        """Takes back all since `begin`."""
        self.births.undo()
        self.jobs.births.undo()
        if change is not None:
            change.undo()


def _marked(runs: Iterable[int], jobs: Iterable[int]) -> set[Subject]:
    return {(False, key) for key in runs} | {(True, key) for key in jobs}
