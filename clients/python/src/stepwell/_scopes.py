"""Scopes: the branches of a run, what was recorded in each, and the hash over the order of its calls."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import ScopeState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell._calls import Call
    from stepwell._groups import Group
    from stepwell.v1.workers_pb2 import StepRecord

MAX_DEPTH = 8
CANCEL_MARK = "__cancelled"
EMPTY_HASH = bytes(8)
_MARKER = types_pb2.STEP_KIND_MARKER

StepKey = tuple[str, str, int | str]


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
    """

    __slots__ = (
        "cancel_seen",
        "children",
        "closed",
        "count",
        "group",
        "last_branch",
        "marks",
        "occurrences",
        "order",
        "parent",
        "patches",
        "path",
        "recorded",
        "told_count",
        "told_order",
        "waiting",
    )

    def __init__(self, path: str, parent: Scope | None, *, cancel_seen: bool = False) -> None:
        """Opens the branch."""
        self.path = path
        self.parent = parent
        self.count = self.told_count = 0
        self.order = self.told_order = EMPTY_HASH
        self.recorded = 0
        self.marks: dict[int, StepRecord] = {}
        self.occurrences: dict[str, int] = {}
        self.last_branch = 0
        self.children: set[Scope] = set()
        self.waiting: Call[object] | bool | None = None
        self.group: Group | None = None
        self.patches: dict[str, bool] = {}
        self.cancel_seen = cancel_seen
        self.closed = False

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
        self.count += 1
        self.order = chained(self.order, kind, name)

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
        return ScopeState(scope=self.path, count=self.told_count, hash=self.told_order, closed=closed)


class Record:
    """What the service has recorded of a run, by key; each step is taken out as the code calls it."""

    __slots__ = ("_scopes", "steps")

    def __init__(self) -> None:
        """Begins with nothing."""
        self.steps: dict[StepKey, StepRecord] = {}
        self._scopes: dict[str, tuple[int, dict[int, StepRecord]]] = {}

    def extend(self, records: Iterable[StepRecord]) -> None:
        """Takes in recorded steps, by ordinal."""
        scopes = self._scopes
        for record in records:
            path = record.scope
            count, marks = scopes.get(path) or (0, {})
            if record.kind == _MARKER:
                marks[count] = record
            scopes[path] = (count + 1, marks)
            self.steps[key_of(record)] = record

    def open(self, scope: Scope) -> Scope:
        """Tells a new scope what was recorded in it."""
        scope.recorded, scope.marks = self._scopes.pop(scope.path, (0, {}))
        return scope
