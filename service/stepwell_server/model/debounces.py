"""Debounced starts: of several in quick succession comes one run."""

from __future__ import annotations

import msgspec

DebouncePlace = tuple[int, str, str]
"""A namespace, a type and a key: what a start is held against."""


class Debounce(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """For how many seconds no start of the key must come, and how long after the first the run begins at the latest."""

    key: str
    period_seconds: float
    maximum_seconds: float | None


class RunDebounce(msgspec.Struct, frozen=True, gc=False):
    """A row of `run_debounces`: a run that waits until no start of its key comes. Field order is column order."""

    run_key: int
    namespace_id: int
    type: str
    key: str
