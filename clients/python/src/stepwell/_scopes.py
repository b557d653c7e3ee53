"""Scopes: the branches of a run, what was recorded in each, and the hash over the order of its calls."""

from __future__ import annotations

import functools
import hashlib
import math
from typing import TYPE_CHECKING

from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import CallDifference, MadeCall, ScopeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell._calls import Call
    from stepwell._groups import Group
    from stepwell._updates import Condition
    from stepwell.v1.workers_pb2 import StepRecord

MAX_DEPTH = 8
CANCEL_MARK = "__cancelled"
WINNER, LOST_MARK = "__race", "__lost"
UPDATES = "0"
"""The scope of acceptances and outcomes of updates; what the n-th one does is in `0/n`."""
EMPTY_HASH = bytes(8)
_NO_MARKS: dict[int, StepRecord] = {}
_MARKER = types_pb2.STEP_KIND_MARKER

StepKey = tuple[str, str, int | str]
CallKind = tuple[int, str]
# How many calls from the first that differs from the record are told.
_TOLD_CALLS = 6


@functools.lru_cache(maxsize=8192)
def _spelled(kind: int, name: str) -> bytes:
    encoded = name.encode()
    return bytes((kind,)) + len(encoded).to_bytes(4, "big") + encoded


def chained(previous: bytes, kind: int, name: str, fingerprint: bytes = b"") -> bytes:
    """Gives the order hash after one more call; proto/order_hash.json holds examples."""
    return hashlib.sha256(previous + _spelled(kind, name) + fingerprint).digest()[:8]


def key_of(record: StepRecord) -> StepKey:
    """Gives the key of a recorded step, as a call of the code has it."""
    return record.scope, record.name, record.key or record.occurrence


class Scope:
    """One branch: how many calls its code made, which of them the service was told of, and what it waits for.

    `count` and `order` cover all calls, `told_count` and `told_order` those before the steps that are not sent yet.
    `lost_since` is the `completion` of the winner that is on record; one that is not comes after all that is.
    `recorded` are the branch's calls as the record has them; `strayed` the code's from the first other one on.
    """

    __slots__ = (
        "cancel_seen",
        "children",
        "closed",
        "completed",
        "count",
        "group",
        "has_lost",
        "is_shielded",
        "last_branch",
        "lost",
        "lost_since",
        "marks",
        "occurrences",
        "order",
        "parent",
        "patches",
        "path",
        "recorded",
        "strayed",
        "told_count",
        "told_order",
        "untils",
        "waiting",
    )

    def __init__(self, path: str, parent: Scope | None) -> None:
        """Opens the branch. It knows of a cancellation what its parent knows, and is shielded if that one is.

        What its parent has yet to hear, that a race is lost, it has to hear too.
        """
        self.path = path
        self.parent = parent
        self.count = self.told_count = 0
        self.order = self.told_order = EMPTY_HASH
        self.recorded: Sequence[CallKind] = ()
        self.strayed: tuple[int, list[CallKind]] | None = None
        self.marks = _NO_MARKS
        self.occurrences: dict[str, int] = {}
        self.last_branch = 0
        self.children: set[Scope] | None = None
        self.waiting: Call[object] | Condition | bool | None = None
        self.group: Group | None = None
        self.patches: dict[str, bool] = {}
        self.cancel_seen: bool = parent is not None and parent.cancel_seen
        self.is_shielded: bool = parent is not None and parent.is_shielded
        self.lost: str | None = parent.lost if parent is not None else None  # the branch that lost, until it hears so
        self.lost_since: float = parent.lost_since if parent is not None else math.inf
        self.has_lost = False
        self.completed = 0  # the latest of the ends that it was answered
        self.closed = False
        self.untils = 0  # how often it waited until something holds

    def shield(self) -> None:
        """Keeps a request to cancel the run, and a lost race, from this branch and from those below it."""
        self.cancel_seen = self.is_shielded = True
        self.lost = None

    def hear_loss(self) -> None:
        """Takes note that the branch has heard that it lost."""
        self.lost = None
        self.has_lost = True

    def branch_path(self, number: int) -> str:
        """Gives the path of a branch of this one. Raises `RuntimeError` when they nest too deep."""
        if self.path.count("/") >= MAX_DEPTH - 1:
            raise RuntimeError(f"branches nest deeper than {MAX_DEPTH}")
        return f"{self.path}/{number}" if self.path else str(number)

    def key_for(self, name: str, key: str) -> StepKey:
        """Gives the key of the next call of that name."""
        return self.path, name, key or self.occurrences.get(name, 0)

    def advance(self, kind: int, name: str, key: str) -> None:
        """Counts a call."""
        if not key:
            self.occurrences[name] = self.occurrences.get(name, 0) + 1
        if self.count < len(self.recorded) or self.strayed is not None:
            self._compare(kind, name)
        self.count += 1
        self.order = chained(self.order, kind, name)

    def _compare(self, kind: int, name: str) -> None:
        """Keeps a few calls from the first one on that the record does not have, to show to people."""
        if self.strayed is None and self.recorded[self.count] != (kind, name):
            self.strayed = (self.count, [])
        if self.strayed is not None and len(self.strayed[1]) < _TOLD_CALLS:
            self.strayed[1].append((kind, name))

    def replay(self, kind: int, name: str, key: str) -> None:
        """Counts a call that is recorded; calls after an unsent one stay out of what is told, and so are noticed."""
        is_told = self.told_count == self.count
        self.advance(kind, name, key)
        if is_told:
            self.told_count = self.count
            self.told_order = self.order

    def state(self) -> ScopeState:
        """Spells what the service must agree with."""
        closed = self.closed and self.told_count == self.count
        state = ScopeState(scope=self.path, count=self.told_count, hash=self.told_order, closed=closed)
        if self.strayed is not None:
            agreeing, calls = self.strayed
            told = [MadeCall(kind=types_pb2.StepKind.ValueType(kind), name=name) for kind, name in calls]
            state.difference.CopyFrom(CallDifference(agreeing=agreeing, calls=told))
        return state


class Record:
    """What the service has recorded of a run, by key; each step is taken out as the code calls it."""

    __slots__ = ("_scopes", "steps", "updates")

    def __init__(self) -> None:
        """Begins with nothing."""
        self.steps: dict[StepKey, StepRecord] = {}
        self.updates: list[StepRecord] = []
        self._scopes: dict[str, tuple[list[CallKind], dict[int, StepRecord]]] = {}

    def extend(self, records: Iterable[StepRecord]) -> None:
        """Takes in recorded steps, by ordinal."""
        scopes = self._scopes
        for record in records:
            path = record.scope
            if path == UPDATES:
                self.updates.append(record)
                continue
            found = scopes.get(path)
            if found is None:
                scopes[path] = found = ([], {})
            calls, marks = found
            if record.kind == _MARKER:
                marks[len(calls)] = record
            calls.append((record.kind, record.name))
            self.steps[key_of(record)] = record

    def open(self, scope: Scope) -> Scope:
        """Tells a new scope what was recorded in it."""
        found = self._scopes.pop(scope.path, None)
        if found is not None:
            scope.recorded, scope.marks = found
        return scope

    def unopened(self) -> list[str]:
        """Gives the recorded branches that the code has not entered."""
        return list(self._scopes)
