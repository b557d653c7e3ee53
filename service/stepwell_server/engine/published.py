"""What a run's code publishes for those who ask while nobody holds the run: the latest value of each name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.model.payloads import Payload, pack_payload
from stepwell_server.model.run_calls import Published
from stepwell_server.model.runs import pack_details, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change

MOST_NAMES = 16
"""How many names one run may publish values under."""


def publish(change: Change, values: dict[str, Payload]) -> None:
    """Puts values in the place of those of their names. Refuses with LIMIT_EXCEEDED what would be a name too many."""
    if not values:
        return
    details = unpack_details(change.open.details)
    names = tuple(sorted({*details.published, *values}))
    if len(names) > MOST_NAMES:
        raise errors.LimitExceeded(limit="published_names", value=len(names), maximum=MOST_NAMES)
    if names != details.published:
        change.update(details=pack_details(replace(details, published=names)))
    for name, payload in values.items():
        change.publish(Published(change.run_key, name, pack_payload(payload), change.now))
