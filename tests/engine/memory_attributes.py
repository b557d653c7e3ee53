"""Search attributes of the store in memory: the functions of `store.search_attributes` that batches call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell_server.model.search_attributes import AttributeValue, SearchAttribute
from stepwell_server.store.batches import Write


class MemoryAttributes:
    """See the module. `busy` are the ended runs whose rows somebody else has locked."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], SearchAttribute] = {}
        self.busy: set[int] = set()
        self.looks = 0

    async def hold_closed(self, connection: Any, keys: Sequence[int]) -> set[int]:
        return set(keys) - self.busy

    async def read(self, connection: Any, keys: Sequence[int]) -> list[SearchAttribute]:
        self.looks += 1
        return [row for _, row in sorted(self.rows.items()) if row.run_key in keys]

    def apply(self, write: Write) -> None:
        for row in write.search_attributes:
            self.rows[row.run_key, row.name] = row
        for place in write.search_attributes_gone:
            self.rows.pop(place, None)

    def of(self, run_key: int) -> dict[str, AttributeValue]:
        """What a run has."""
        return {name: row.value for (key, name), row in self.rows.items() if key == run_key}
