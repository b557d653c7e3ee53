"""Data of driven runs: named payloads under a version, which grows with each change.

They are no history: a run says what they are, not what they were. Nobody here looks into them, but for a merge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.model.driven import RunDatum
from stepwell_server.model.payloads import JSON, NULL, Payload, encode_payload, unpack_payload
from stepwell_server.model.runs import pack_details, unpack_details

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change

MOST_NAMES, MOST_BYTES = 1_000, 16 * 1024 * 1024
"""Of one run."""

Object = dict[str, msgspec.Raw]
_objects = msgspec.json.Decoder(Object)
_NULL = b"null"


class How(IntEnum):
    """What a change does with what there was."""

    SET = 1
    MERGE = 2
    REMOVE = 3


class DataChange(msgspec.Struct, frozen=True, gc=False):
    """One change of a named payload. `place` is where it stands in its request."""

    name: str
    how: int
    payload: Payload = NULL
    place: int = 0


def begin(change: Change, data: Mapping[str, Payload]) -> None:
    """Gives a new run its first data."""
    apply(change, [DataChange(name, How.SET, payload) for name, payload in data.items()], None)


def apply(change: Change, changes: Sequence[DataChange], expected: int | None) -> int:
    """Changes the open run's data, and answers its new version.

    Refuses with RUN_DATA_CHANGED, LIMIT_EXCEEDED, and INVALID_FIELD where there is no object to merge with.
    """
    details = unpack_details(change.open.details)
    if expected is not None and expected != details.data_version:
        raise errors.RunDataChanged(run_id=change.run_id, version=details.data_version, expected=expected)
    count, size = details.data_names, details.data_bytes
    for each in changes:
        before = change.side((RunDatum, each.name))
        had = before.payload if isinstance(before, RunDatum) else None
        has = None if each.how == How.REMOVE else encode_payload(_payload(each, had))
        count += (has is not None) - (had is not None)
        size += len(has or b"") - len(had or b"")
        if has is not None or had is not None:
            row = None if has is None else RunDatum(change.run_key, each.name, has)
            change.put_side((RunDatum, each.name), row)
    _check("run_data_names", count, MOST_NAMES)
    _check("run_data_bytes", size, MOST_BYTES)
    version = details.data_version + 1
    details = replace(details, data_version=version, data_names=count, data_bytes=size)
    change.update(details=pack_details(details), update_time=change.now)
    change.bump()
    return version


def parse_object(payload: Payload) -> Object | None:
    """The members of a JSON object, each to the letter; None if it is none."""
    if payload.kind != JSON or payload.metadata:
        return None
    try:
        return _objects.decode(payload.body)
    except (msgspec.DecodeError, RecursionError):
        return None


def _payload(each: DataChange, had: bytes | None) -> Payload:
    if each.how == How.SET:
        return each.payload
    given, before = parse_object(each.payload), {} if had is None else parse_object(unpack_payload(had))
    if given is None or before is None:
        problem = f"can't be merged: what run data {each.name!r} is, is no plain JSON object"
        raise errors.InvalidField(field=f"changes[{each.place}].merge", problem=problem)
    members = {name: value for name, value in {**before, **given}.items() if bytes(value) != _NULL}
    return Payload(JSON, msgspec.json.encode(members))


def _check(limit: str, value: int, at_most: int) -> None:
    if value > at_most:
        raise errors.LimitExceeded(limit=limit, value=value, maximum=at_most)
