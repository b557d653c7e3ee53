"""What was taken out of a run's record, as history and callers are told it."""

from __future__ import annotations

import msgspec

from stepwell_server.model.payloads import JSON, Payload

MOST_SHOWN = 256
"""Of more steps than so many only the count is told."""


class RemovedStep(msgspec.Struct, frozen=True, gc=False):
    """A step that was taken out."""

    ordinal: int
    scope: str
    name: str


_encoder = msgspec.json.Encoder()


def pack_removed(steps: tuple[RemovedStep, ...]) -> Payload:
    """Removed steps as the payload of an event."""
    return Payload(JSON, _encoder.encode(steps))
