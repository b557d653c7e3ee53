"""A run while a batch changes it, third part: what stands in small tables of its own, beside its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stepwell_server.engine.lazily import Kinds
from stepwell_server.engine.step_change import StepChange
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.payloads import Payload
from stepwell_server.model.steps import Scope

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from stepwell_server.model.driven import Side, SideKey
    from stepwell_server.model.events import Event
    from stepwell_server.model.run_calls import Published
    from stepwell_server.model.search_attributes import AttributeValue


class SideChange(StepChange):
    """See the module, and `change`."""

    __slots__ = (
        "dispatches",
        "heartbeats",
        "published",
        "scopes",
        "search_attributes",
        "seen_events",
        "sides",
        "touched_attributes",
        "touched_scopes",
        "touched_sides",
    )

    lazy: ClassVar[Kinds] = {
        **StepChange.lazy,
        "sides": dict,
        "touched_sides": dict,
        "dispatches": dict,
        "scopes": dict,
        "touched_scopes": dict,
        "heartbeats": dict,
        "published": dict,
        "search_attributes": dict,
        "touched_attributes": dict,
        "seen_events": dict,
    }
    sides: dict[SideKey, Side | None]
    touched_sides: dict[SideKey, None]
    dispatches: dict[str, bool]  # by the step's name: True if it is released, else it is claimed
    scopes: dict[str, Scope]
    touched_scopes: dict[str, None]
    heartbeats: dict[int, tuple[datetime, Payload]]
    published: dict[str, Published]
    search_attributes: dict[str, AttributeValue]
    touched_attributes: dict[str, None]
    seen_events: dict[int, Event]

    def side(self, key: SideKey) -> Side | None:
        """A small row of the run in a table of its own, or None. Asks for it if it is not loaded."""
        self.need_sides([key])
        return self.sides.get(key)

    def need_sides(self, keys: Iterable[SideKey]) -> None:
        """Asks for those of these rows that are not loaded, all at once."""
        missing = [key for key in keys if key not in self.sides and key not in self.known.sides]
        if missing and not self.fresh:
            raise Missing(sides=missing)

    def put_side(self, key: SideKey, row: Side | None) -> None:
        """Changes such a row, or with None takes it away."""
        self._set(self.sides, key, row)
        self._set(self.touched_sides, key, None)

    def load_side(self, key: SideKey, row: Side) -> None:
        """Takes in such a row as stored, unless this batch has already changed it."""
        if key not in self.touched_sides:
            self.sides[key] = row

    def scope(self, path: str) -> Scope:
        """How many calls are recorded in a branch, and their hash."""
        if not path:
            return Scope(self.open.run_key, "", self.open.order_count, self.open.order_hash)
        found = self.scopes.get(path)
        if found is not None:
            return found
        if path not in self.known.scopes and not self.fresh:
            raise Missing(scopes=[path])
        return Scope(self.open.run_key, path, 0, bytes(8))

    def set_scope(self, scope: Scope) -> None:
        """Notes how many calls are recorded in a branch now."""
        if not scope.scope:
            self.update(order_count=scope.order_count, order_hash=scope.order_hash)
            return
        self._set(self.touched_scopes, scope.scope, None)
        self._set(self.scopes, scope.scope, scope)

    def heartbeat(self, ordinal: int) -> tuple[datetime, Payload] | None:
        """When an activity last sent details, and which."""
        if ordinal not in self.known.heartbeats and not self.fresh:
            raise Missing(heartbeats=[ordinal])
        return self.heartbeats.get(ordinal)

    def event_at(self, number: int) -> Event | None:
        """An event of its history, or None. Asks for it if it is neither loaded nor of this batch."""
        found = self.seen_events.get(number) or next((each for each in self.events if each.number == number), None)
        if found is None and number not in self.known.events:
            raise Missing(events=[number])
        return found

    def publish(self, value: Published) -> None:
        """Puts a value in the place of the one of its name."""
        self._set(self.published, value.name, value)

    def every_search_attribute(self) -> dict[str, AttributeValue]:
        """All search attributes of the run, open or ended. Asks for them if they are not loaded."""
        if not self.known.search_attributes:
            raise Missing(search_attributes=True)
        return self.search_attributes

    def set_search_attribute(self, name: str, value: AttributeValue | None) -> None:
        """Puts a search attribute in the place of the one of its name, or with None takes it away."""
        if value is None:
            self._pop(self.search_attributes, name)
        else:
            self._set(self.search_attributes, name, value)
        self._set(self.touched_attributes, name, None)

    def load_search_attributes(self, stored: dict[str, AttributeValue]) -> None:
        """Takes in the search attributes of the run as stored."""
        if not self.known.search_attributes:
            self.search_attributes = stored
            self.known.search_attributes = True

    def claim_dispatch(self, step_name: str) -> None:
        """Somebody is at a step: if it was dispatched, that has arrived."""
        self._set(self.dispatches, step_name, False)  # noqa: FBT003 - a value of the map

    def release_dispatch(self, step_name: str) -> None:
        """A step is to be done again: it may be dispatched again."""
        self._set(self.dispatches, step_name, True)  # noqa: FBT003
