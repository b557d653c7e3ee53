"""Who bears which run id and workflow id, and how new runs come to be within a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell_server.engine.change import Change
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.runs import RunId

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from stepwell_server.model.runs import Run, RunRef

Name = tuple[int, str]
Id = tuple[int, "UUID"]


class Latest(msgspec.Struct, frozen=True, gc=False):
    """The latest run of a workflow id."""

    run_key: int
    run_id: UUID
    phase: int


class Births:
    """The names and ids that a batch's commands look at, and the runs that it starts.

    `changes` are the batch's runs by key, so that a run which ends in this very batch frees its name in it.
    """

    def __init__(self, changes: dict[int, Change], next_key: Callable[[], int]) -> None:
        self._take_key = next_key
        self._returned: list[int] = []
        self.changes = changes
        self.ids: dict[Id, RunId | None] = {}
        self.names: dict[Name, Latest | None] = {}
        self.born: list[Change] = []
        self.new_ids: list[RunId] = []
        self.claims: dict[Name, tuple[int | None, int]] = {}  # the key found in the database, the key to write
        self._others: list[Change] = []
        self._mark = (0, 0)
        self._undo: list[tuple[Name, Latest | None, tuple[int | None, int] | None]] = []

    def next_key(self) -> int:
        """A key for a new run; one that was taken back first, so that deciding again costs no more keys."""
        return self._returned.pop() if self._returned else self._take_key()

    def begin(self) -> None:
        """Starts a command: what follows can be undone until the next `begin`."""
        self._mark = (len(self.born), len(self.new_ids))
        self._others.clear()
        self._undo.clear()

    def undo(self) -> None:
        """Takes back all since `begin`."""
        for change in self._others:
            change.undo()
        born, ids = self._mark
        for change in self.born[born:]:
            del self.changes[change.run_key]
            self._returned.append(change.run_key)
        for entry in self.new_ids[ids:]:
            self.ids[entry.namespace_id, entry.run_id] = None
        del self.born[born:]
        del self.new_ids[ids:]
        for name, latest, claim in reversed(self._undo):
            self.names[name] = latest
            if claim is None:
                del self.claims[name]
            else:
                self.claims[name] = claim
        self._undo.clear()

    def is_at_hand(self, run_key: int) -> bool:
        """Whether a run is locked by this batch, and all that is open of it is loaded."""
        change = self.changes.get(run_key)
        return change is not None and change.knows_open_steps

    def other(self, run_key: int) -> Change:
        """A further run, which the command ends. Asks for it if it is not at hand."""
        if not self.is_at_hand(run_key):
            raise Missing(others=[run_key])
        change = self.changes[run_key]
        if change not in self._others:
            change.begin()
            self._others.append(change)
        return change

    def with_id(self, namespace_id: int, run_id: UUID) -> RunId | None:
        """The run of that id, or None. The committer has looked it up for every start that names one."""
        return self.ids.get((namespace_id, run_id))

    def named(self, namespace_id: int, workflow_id: str) -> Latest | None:
        """The latest run of that workflow id, or None. Asks for it if it was not looked up."""
        name = (namespace_id, workflow_id)
        if name not in self.names:
            raise Missing(names=[name])
        latest = self.names[name]
        if latest is not None and (change := self.changes.get(latest.run_key)) is not None:
            return Latest(latest.run_key, latest.run_id, change.phase)
        return latest

    def is_awaited(self, ref: RunRef) -> bool:
        """Whether a start of this batch gives that id or name."""
        if ref.namespace_id is None:
            return False
        if ref.run_id is not None:
            return (ref.namespace_id, ref.run_id) in self.ids
        return (ref.namespace_id, ref.workflow_id) in self.names

    def born_as(self, ref: RunRef) -> int | None:
        """The key of the run that got that id or name in this batch, or None."""
        if ref.namespace_id is None:
            return None
        if ref.run_id is None:
            claim = self.claims.get((ref.namespace_id, ref.workflow_id))
            return claim[1] if claim is not None else None
        entry = self.ids.get((ref.namespace_id, ref.run_id))
        return entry.run_key if entry is not None and entry.run_key in self.changes else None

    def bear(self, change: Change, request_hash: bytes | None = None) -> None:
        """Takes a new run into the batch, with its id and its name."""
        run: Run = change.open
        self.born.append(change)
        self.changes[run.run_key] = change
        entry = RunId(run.run_id, run.namespace_id, run.run_key, request_hash)
        self.new_ids.append(entry)
        self.ids[run.namespace_id, run.run_id] = entry
        if run.workflow_id:
            self._claim((run.namespace_id, run.workflow_id), run)

    def _claim(self, name: Name, run: Run) -> None:
        before, claim = self.names.get(name), self.claims.get(name)
        self._undo.append((name, before, claim))
        stored = claim[0] if claim is not None else before.run_key if before is not None else None
        self.claims[name] = (stored, run.run_key)
        self.names[name] = Latest(run.run_key, run.run_id, run.phase)
