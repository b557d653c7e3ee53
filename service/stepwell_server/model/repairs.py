"""What a repair changed of a run's record, as history and callers are told it."""

from __future__ import annotations

import msgspec

from stepwell_server.model.payloads import JSON, Payload

MOST_SHOWN = 256
"""Of more steps than so many only the count is told."""


class RepairedStep(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A step that was renamed, or set aside (`skipped`); `occurrence` and `key` as they were."""

    ordinal: int
    scope: str
    kind: int
    name: str
    occurrence: int = 0
    key: str = ""
    skipped: bool = False
    new_name: str = ""
    new_occurrence: int = 0


_encoder = msgspec.json.Encoder()


def pack_repaired(steps: tuple[RepairedStep, ...]) -> Payload:
    """Repaired steps as the payload of an event."""
    return Payload(JSON, _encoder.encode(steps))
