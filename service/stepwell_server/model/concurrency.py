"""Concurrency limits: how many runs of a key may be at work at once."""

from __future__ import annotations

import zlib
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

import msgspec

_STRIPES = 1 << 16


class Strategy(IntEnum):
    """What becomes of a run for which there is no slot; the proto's ConcurrencyStrategy."""

    QUEUE = 1
    CANCEL_IN_PROGRESS = 2
    CANCEL_NEWEST = 3
    ROUND_ROBIN = 4


class SlotState(IntEnum):
    """How a run stands with its limit; the proto's SlotState."""

    NONE = 0
    AWAITED = 1
    HELD = 2


class Concurrency(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The limit that a run was started under."""

    name: str
    key: str
    maximum_runs: int
    strategy: int


class Line(NamedTuple):
    """Those who share slots: the runs of a limit's key, or with an empty `line` those of all keys in turn."""

    namespace_id: int
    name: str
    line: str

    @property
    def stripe(self) -> int:
        """Which of the locks is the line's; several lines have the same."""
        return zlib.crc32(f"{self.namespace_id}/{self.name}/{self.line}".encode()) % _STRIPES


class ConcurrencySlot(msgspec.Struct, frozen=True, gc=False):
    """A row of `concurrency_slots`: an open run that waits for a slot, or has one. Field order is column order."""

    run_key: int
    namespace_id: int
    name: str
    line: str
    key: str
    maximum_runs: int
    strategy: int
    arrive_time: datetime
    admit_time: datetime | None = None
    gives_way: bool = False


class LineView(msgspec.Struct, frozen=True, gc=False):
    """A line as it is now, as far as it must be known to decide who is next.

    `held`: how many slots are taken, counted up to `maximum_runs`. `waiting`: those who wait, oldest first, and whether
    they were told to give way. `superseded`: those older than the newest `maximum_runs`, oldest first, that were not.
    """

    line: Line
    maximum_runs: int
    strategy: int
    held: int
    waiting: list[tuple[int, bool]] = []
    superseded: list[int] = []

    @property
    def free(self) -> int:
        """How many slots are to be had."""
        return max(0, self.maximum_runs - self.held)
