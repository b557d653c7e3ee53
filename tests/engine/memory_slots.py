"""Concurrency slots of the store in memory: what batches ask of `store.concurrency`, and rows beside runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any
from uuid import UUID

from tests.engine.memory_user_tasks import MemoryUserTasks

from stepwell_server.model.concurrency import ConcurrencySlot, Line, LineView, Strategy
from stepwell_server.model.debounces import DebouncePlace, RunDebounce
from stepwell_server.model.driven import Side, SideKey
from stepwell_server.store.batches import Write


class MemorySlots:
    """See the module. `locked` are lines whose lock somebody else has."""

    def __init__(self) -> None:
        self.rows: dict[int, ConcurrencySlot] = {}
        self.locked: set[Line] = set()
        self.served: dict[Line, str] = {}
        self.debounced: dict[DebouncePlace, int] = {}

    async def hold(self, connection: Any, lines: Sequence[Line]) -> list[Line]:
        return [line for line in lines if line not in self.locked]

    async def read_lines(self, connection: Any, lines: Sequence[Line]) -> list[LineView]:
        return [view for line in lines if (view := self.view(line)) is not None]

    def view(self, line: Line, most: int = 256) -> LineView | None:
        """A line as `store.concurrency.read_heads` has it."""
        rows = sorted(self.of(line), key=lambda row: (row.arrive_time, row.run_key))
        waiting = [row for row in rows if row.admit_time is None]
        if not waiting:
            return None
        maximum, strategy = waiting[-1].maximum_runs, waiting[-1].strategy
        held = min(maximum, sum(row.admit_time is not None for row in rows))
        if strategy == Strategy.ROUND_ROBIN:
            waiting = self._in_turn(line, waiting)
        heads = [(row.run_key, row.gives_way) for row in waiting[:most]]
        older = [row.run_key for row in rows[:-maximum] if not row.gives_way][-most:]
        return LineView(line, maximum, strategy, held, heads, older)

    def _in_turn(self, line: Line, waiting: list[ConcurrencySlot]) -> list[ConcurrencySlot]:
        last, keys = self.served.get(line, ""), sorted({row.key for row in waiting})
        turns = [key for key in keys if key > last] + [key for key in keys if key <= last]
        rounds = zip_longest(*([row for row in waiting if row.key == key] for key in turns))
        return [row for each in rounds for row in each if row is not None]

    def of(self, line: Line) -> list[ConcurrencySlot]:
        return [row for row in self.rows.values() if (row.namespace_id, row.name, row.line) == line]

    def lines(self) -> list[Line]:
        return sorted({Line(row.namespace_id, row.name, row.line) for row in self.rows.values()})

    def apply(self, write: Write) -> None:
        gone = {run_key for run_key, (kind, _), row in write.sides if kind is RunDebounce and row is None}
        self.debounced = {place: key for place, key in self.debounced.items() if key not in gone}
        for run_key, (kind, _), row in write.sides:
            if isinstance(row, RunDebounce):
                place = (row.namespace_id, row.type, row.key)
                assert place not in self.debounced
                self.debounced[place] = run_key
            if isinstance(row, ConcurrencySlot):
                self.rows[run_key] = row
            elif kind is ConcurrencySlot:
                self.rows.pop(run_key, None)
        self.served.update(write.served)


class MemorySides:
    """Stands where `loading` expects the module `store.sides`."""

    def __init__(self, user_tasks: MemoryUserTasks, slots: MemorySlots) -> None:
        self._user_tasks = user_tasks
        self._slots = slots

    async def find_user_tasks(self, connection: Any, wanted: Sequence[tuple[int, UUID]]) -> set[tuple[int, UUID]]:
        return await self._user_tasks.find_user_tasks(connection, wanted)

    async def find_debounces(self, connection: Any, wanted: Sequence[DebouncePlace]) -> dict[DebouncePlace, int]:
        return {place: key for place, key in self._slots.debounced.items() if place in wanted}

    async def read(self, connection: Any, wanted: Sequence[tuple[int, SideKey]]) -> list[tuple[int, SideKey, Side]]:
        slots: list[tuple[int, SideKey, Side]] = [
            (run_key, (ConcurrencySlot, 0), self._slots.rows[run_key])
            for run_key, (kind, _) in wanted
            if kind is ConcurrencySlot and run_key in self._slots.rows
        ]
        others = [(run_key, key) for run_key, key in wanted if key[0] is not ConcurrencySlot]
        return slots + (await self._user_tasks.read(connection, others) if others else [])
