"""Runs as the last batch left them, so that the next need neither read nor lock them.

Kept are open runs whose workers are connected here, with their open steps: their next commands come here too. A batch
that decides on a kept run writes it only over the version that it was decided on: every write of a run or of its steps
raises that. If another replica was first, nothing of the batch is written, and it is decided again on what is read
under locks. So whatever is kept, and however old it is, it can cost time and never a wrong decision:

- Only commands that make up nearly all that happens to a run are decided on it, and only from the run and its open
  steps. Who wants to see more has the run locked first, and so has who changed nothing: a refusal must be true, too.
- A run with a task for people is not kept: its step has a row beside it.
- A new connection may lead to another server, after a failover, so it begins with nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stepwell_server.engine.activities import CompleteActivity
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.model.steps import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell_server.engine.change import Change
    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.engine.committer.protocols import Capacity
    from stepwell_server.engine.committer.waiting import Entry
    from stepwell_server.model.runs import Run
    from stepwell_server.model.steps import Step
    from stepwell_server.store.connection import Connection

_DECIDED: tuple[type[Order], ...] = (ProgressRun, CompleteActivity)
_MOST_RUNS, _MOST_STEPS = 20_000, 32


class Kept(NamedTuple):
    """A run as it is stored, and those of its open steps that are known."""

    run: Run
    steps: tuple[Step, ...]


class Keeping:
    """What one committer keeps; see the module."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._connection: Connection | None = None
        self._runs: dict[int, Kept] = {}  # the one changed last is the last

    def begin(self, connection: Connection) -> None:
        """Forgets everything if the connection is another than before."""
        if connection is not self._connection:
            self._connection = connection
            self._runs.clear()

    def find(self, wanted: set[int], entries: Iterable[Entry]) -> list[Kept]:
        """Those of the runs wanted that are kept, unless one of the batch's commands to it is of another kind."""
        found = wanted & self._runs.keys()
        if found:
            found -= {entry.key for entry in entries if not _is_plain(entry)}
        return [self._runs[key] for key in found]

    def note(self, changes: Iterable[Change]) -> None:
        """Keeps what a batch has left, once it is committed."""
        runs = self._runs
        for change in changes:
            run = change.run
            runs.pop(change.run_key, None)
            if run is None or run.session_id is None or run.driven or not self._capacity.is_here(run.session_id):
                continue
            steps = tuple(change.steps.values())
            if len(steps) <= _MOST_STEPS and not any(step.kind == Kind.USER_TASK for step in steps):
                runs[run.run_key] = Kept(run, steps)
        while len(runs) > _MOST_RUNS:
            del runs[next(iter(runs))]

    def forget(self, keys: Iterable[int | None]) -> bool:
        """Has these runs read anew; answers whether any was kept."""
        forgotten = [self._runs.pop(key) for key in set(keys) if key in self._runs]
        return bool(forgotten)


def _is_plain(entry: Entry) -> bool:
    return isinstance(entry.order, _DECIDED) and entry.asked is None and entry.inbox is None
