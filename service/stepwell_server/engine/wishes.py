"""What a decision wants to see of a run before it can be made, and what was loaded for it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

    from stepwell_server.model.concurrency import Line
    from stepwell_server.model.driven import SideKey

Identity = tuple[str, str, int, str]
# The ordinal up to which signals are known when all of them are.
EVERY_SIGNAL = 1 << 31


class Wanted(TypedDict, total=False):
    """The parts of a run that a decision may want to see."""

    ordinals: Iterable[int]
    identities: Iterable[Identity]
    scopes: Iterable[str]
    signals: Iterable[str]
    signal_ids: Iterable[str]
    waits: Iterable[str]
    heartbeats: Iterable[int]
    names: Iterable[tuple[int, str]]
    sides: Iterable[SideKey]
    others: Iterable[int]
    carried: Iterable[int]
    events: Iterable[int]
    topics: Iterable[str]
    user_tasks: Iterable[tuple[int, UUID]]
    lines: Iterable[Line]
    open_steps: bool
    closed_steps: bool
    received: bool
    search_attributes: bool


class Missing(Exception):  # noqa: N818 - a wish, not an error
    """Raised by a decision that needs more of the run: the committer loads it and decides again."""

    # What is not asked for is not set: there is one of these for most commands.
    ordinals: frozenset[int] = frozenset()
    identities: frozenset[Identity] = frozenset()
    scopes: frozenset[str] = frozenset()
    signals: frozenset[str] = frozenset()
    signal_ids: frozenset[str] = frozenset()
    waits: frozenset[str] = frozenset()
    heartbeats: frozenset[int] = frozenset()
    names: frozenset[tuple[int, str]] = frozenset()
    sides: frozenset[SideKey] = frozenset()
    carried: frozenset[int] = frozenset()  # runs of whose signals that nobody took a slice is wanted
    events: frozenset[int] = frozenset()  # single ones of its history
    topics: frozenset[str] = frozenset()  # how they look to a wait that begins
    user_tasks: frozenset[tuple[int, UUID]] = frozenset()  # whether these ids are given, each in its namespace
    lines: frozenset[Line] = frozenset()  # of runs that wait for slots: locked, with how many slots are free
    others: frozenset[int] = frozenset()  # further runs that the decision ends: locked, with their open steps
    open_steps = False
    closed_steps = False
    received = False
    search_attributes = False

    def __init__(self, **wanted: Unpack[Wanted]) -> None:
        for part, value in wanted.items():
            if value:
                setattr(self, part, True if value is True else frozenset(cast("Iterable[Any]", value)))

    def __str__(self) -> str:
        return f"more of the run is needed: {', '.join(self.parts)}"

    @property
    def parts(self) -> Iterable[str]:
        """The names of the parts that are asked for."""
        return vars(self)


class Known:
    """Which parts of a run were loaded, so that absence can be told from ignorance."""

    # As with Missing: what was not loaded is not set.
    ordinals: frozenset[int] = frozenset()
    identities: frozenset[Identity] = frozenset()
    scopes: frozenset[str] = frozenset()
    signal_ids: frozenset[str] = frozenset()
    waits: frozenset[str] = frozenset()
    heartbeats: frozenset[int] = frozenset()
    events: frozenset[int] = frozenset()
    sides: frozenset[SideKey] = frozenset()
    signals: Mapping[str, int] = MappingProxyType({})  # by name, up to which ordinal
    open_steps = False
    closed_steps = False
    received = False
    search_attributes = False  # noted by who loads them

    def __init__(self, *, everything: bool = False) -> None:
        if everything:
            self.open_steps = self.closed_steps = self.received = self.search_attributes = True

    def add(self, loaded: Missing) -> None:
        """Notes what was loaded."""
        for part in loaded.parts:
            if part in _SETS:
                known, wanted = getattr(self, part), getattr(loaded, part)
                setattr(self, part, known.union(wanted) if known else wanted)
            elif part in _FLAGS:
                setattr(self, part, True)

    def add_signals(self, name: str, through: int) -> None:
        """Notes up to which ordinal the signals of a name were loaded."""
        self.signals = {**self.signals, name: through}


_SETS = frozenset({"ordinals", "identities", "scopes", "signal_ids", "waits", "heartbeats", "events", "sides"})
_FLAGS = frozenset({"open_steps", "closed_steps", "received"})
