"""What a decision wants to see of a run before it can be made, and what was loaded for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from stepwell_server.model.concurrency import Line
    from stepwell_server.model.driven import SideKey

Identity = tuple[str, str, int, str]
# The ordinal up to which signals are known when all of them are.
EVERY_SIGNAL = 1 << 31


class Missing(Exception):  # noqa: N818 - a wish, not an error
    """Raised by a decision that needs more of the run: the committer loads it and decides again."""

    def __init__(
        self,
        *,
        ordinals: Iterable[int] = (),
        identities: Iterable[Identity] = (),
        scopes: Iterable[str] = (),
        signals: Iterable[str] = (),
        signal_ids: Iterable[str] = (),
        waits: Iterable[str] = (),
        heartbeats: Iterable[int] = (),
        names: Iterable[tuple[int, str]] = (),
        sides: Iterable[SideKey] = (),
        others: Iterable[int] = (),
        carried: Iterable[int] = (),
        events: Iterable[int] = (),
        topics: Iterable[str] = (),
        user_tasks: Iterable[tuple[int, UUID]] = (),
        lines: Iterable[Line] = (),
        open_steps: bool = False,
        closed_steps: bool = False,
        received: bool = False,
        search_attributes: bool = False,
    ) -> None:
        super().__init__("more of the run is needed")
        self.ordinals = frozenset(ordinals)
        self.identities = frozenset(identities)
        self.scopes = frozenset(scopes)
        self.signals = frozenset(signals)
        self.signal_ids = frozenset(signal_ids)
        self.waits = frozenset(waits)
        self.heartbeats = frozenset(heartbeats)
        self.names = frozenset(names)
        self.sides = frozenset(sides)
        self.carried = frozenset(carried)  # runs of whose signals that nobody took a slice is wanted
        self.events = frozenset(events)  # single ones of its history
        self.topics = frozenset(topics)  # how they look to a wait that begins
        self.user_tasks = frozenset(user_tasks)  # whether these ids are given, each in its namespace
        self.lines = frozenset(lines)  # of runs that wait for slots: locked, with how many slots are free
        self.others = frozenset(others)  # further runs that the decision ends: locked, with their open steps
        self.open_steps = open_steps
        self.closed_steps = closed_steps
        self.received = received
        self.search_attributes = search_attributes


class Known:
    """Which parts of a run were loaded, so that absence can be told from ignorance."""

    __slots__ = (
        "closed_steps",
        "events",
        "heartbeats",
        "identities",
        "open_steps",
        "ordinals",
        "received",
        "scopes",
        "search_attributes",
        "sides",
        "signal_ids",
        "signals",
        "waits",
    )

    def __init__(self, *, everything: bool = False) -> None:
        self.ordinals: set[int] = set()
        self.identities: set[Identity] = set()
        self.scopes: set[str] = set()
        self.signals: dict[str, int] = {}  # by name, up to which ordinal; noted by who loads them
        self.signal_ids: set[str] = set()
        self.waits: set[str] = set()
        self.heartbeats: set[int] = set()
        self.events: set[int] = set()
        self.sides: set[SideKey] = set()
        self.open_steps = everything
        self.closed_steps = everything
        self.received = everything
        self.search_attributes = everything  # noted by who loads them

    def add(self, loaded: Missing) -> None:
        """Notes what was loaded."""
        self.ordinals |= loaded.ordinals
        self.identities |= loaded.identities
        self.scopes |= loaded.scopes
        self.signal_ids |= loaded.signal_ids
        self.waits |= loaded.waits
        self.heartbeats |= loaded.heartbeats
        self.events |= loaded.events
        self.sides |= loaded.sides
        self.open_steps = self.open_steps or loaded.open_steps
        self.closed_steps = self.closed_steps or loaded.closed_steps
        self.received = self.received or loaded.received
