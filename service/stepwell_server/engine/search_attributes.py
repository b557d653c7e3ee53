"""Search attributes of a run: set at its start, patched from outside or by its code, and kept beyond its end.

A patch is merged name by name under the lock of the run, open or ended, so that of two that come together nothing is
lost. What a run has is loaded only where it must be known: for the bound of a patch, and to hand it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import JSON, Payload
from stepwell_server.model.runs import RunRef, pack_details, unpack_details
from stepwell_server.model.search_attributes import AttributeKind, AttributeValue, Values, as_json, size_of

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.limits import Limits


class Attributed(msgspec.Struct, frozen=True, gc=False):
    """The answer to a patch: whether it changed anything, and what the run has now."""

    run_id: UUID
    changed: bool
    attributes: dict[str, AttributeValue]


class UpsertSearchAttributes(msgspec.Struct, frozen=True, gc=False):
    """Merges values into a run's: each takes the place of that of its name.

    One that is ABSENT takes the name away, or with `keeps_absent` stays as it is. Refuses with LIMIT_EXCEEDED.
    """

    ref: RunRef
    patch: dict[str, AttributeValue]
    keeps_absent: bool = False

    def wants(self) -> Missing:
        return Missing(search_attributes=True)

    def decide(self, change: Change) -> Attributed:
        before = dict(change.every_search_attribute())
        merged = merge(before, self.patch, keeps_absent=self.keeps_absent)
        refusal = excess(merged, change.limits)
        if refusal is not None:
            raise refusal
        changed = put(change, before, merged)
        if changed and change.is_open:
            change.event(EventType.SEARCH_ATTRIBUTES_SET, payload=payload_of(self.patch))
        return Attributed(change.run_id, changed, merged)


def merge(before: Values, patch: Values, *, keeps_absent: bool) -> dict[str, AttributeValue]:
    """What a patch makes of values."""
    merged = {**before, **patch}
    gone = set() if keeps_absent else {name for name in patch if patch[name].kind == AttributeKind.ABSENT}
    return {name: value for name, value in merged.items() if name not in gone}


def excess(values: Values, limits: Limits) -> errors.LimitExceeded | None:
    """The refusal of more than one run may have, or None."""
    if len(values) > limits.search_attributes:
        at_most = limits.search_attributes
        return errors.LimitExceeded(limit="search_attributes", value=len(values), maximum=at_most)
    size = size_of(values)
    if size > limits.search_attribute_bytes:
        at_most = limits.search_attribute_bytes
        return errors.LimitExceeded(limit="search_attribute_bytes", value=size, maximum=at_most)
    return None


def put(change: Change, before: Values, after: Values) -> bool:
    """Writes what differs, and answers whether anything does."""
    different = {name: value for name, value in after.items() if before.get(name) != value}
    gone = [name for name in before if name not in after]
    for name, value in different.items():
        change.set_search_attribute(name, value)
    for name in gone:
        change.set_search_attribute(name, None)
    if different and change.is_open:
        _note(change)
    return bool(different or gone)


def give(change: Change, values: Values) -> None:
    """Gives a new run its first values."""
    if values:
        put(change, {}, values)


def handed_on(change: Change) -> dict[str, AttributeValue]:
    """What the run that continues this one takes over. Asks for it only of a run that may have any."""
    details = unpack_details(change.open.details)
    # One that was opened again may have got some while it was closed.
    if not details.attributed and details.reopen_time is None:
        return {}
    return dict(change.every_search_attribute())


def payload_of(patch: Values) -> Payload:
    """A patch as history shows it."""
    return Payload(JSON, as_json(patch))


def _note(change: Change) -> None:
    """Notes in the run's row that there may be some, so that nothing is asked of others."""
    details = unpack_details(change.open.details)
    if not details.attributed:
        change.update(details=pack_details(replace(details, attributed=True)))
