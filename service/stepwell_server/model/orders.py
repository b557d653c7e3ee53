"""In which order a list is asked for."""

from __future__ import annotations

import msgspec


class SortKey(msgspec.Struct, frozen=True):
    """One field to sort by."""

    field: str
    descending: bool = False


Order = tuple[SortKey, ...]
"""The keys, the first of which counts most; what is equal in all of them stays in the list's own order."""
