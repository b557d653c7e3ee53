"""Where a run's code and its record differ, as people are shown it: a few calls of both sides around the place."""

from __future__ import annotations

import msgspec

from stepwell_server.model.payloads import JSON, Payload


class RecordedCall(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A recorded step, as a call of its branch."""

    ordinal: int
    kind: int
    name: str
    occurrence: int = 0
    key: str = ""


class MadeCall(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A call that the code made."""

    kind: int
    name: str


class Difference(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One branch in which the code made other calls than were recorded.

    `place` is how many calls agree before the first that does not, None where that is not known. `recorded` holds the
    record's calls from the place `first` on, `made` the code's from `place` on, or what is known of them.
    """

    scope: str
    place: int | None
    first: int
    recorded_count: int
    recorded: tuple[RecordedCall, ...] = ()
    made: tuple[MadeCall, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[Difference, ...])


def pack_differences(differences: tuple[Difference, ...]) -> Payload:
    """Differences as the payload of an event."""
    return Payload(JSON, _encoder.encode(differences))


def unpack_differences(payload: Payload) -> tuple[Difference, ...]:
    """The inverse of `pack_differences`."""
    return _decoder.decode(payload.body) if payload.kind == JSON else ()
