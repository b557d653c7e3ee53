"""Pages of a list: how many, from where, and the token that leads to the next.

A token holds the position after which to go on, and the fingerprint of the request that it was given for: its method's
request type and all its fields but those of paging. A token of another list, of another filter, or one that was
changed, is refused. It is a guard against mistakes and no secret: whoever forges one sees no more than a list shows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from stepwell_server.errors import InvalidField, PageTokenInvalid
from stepwell_server.settings import Limits

Position = TypeVar("Position")
Row = TypeVar("Row")

InRun = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""A position that counts within one run: of events, of steps."""

_VERSION = b"\x01"
_FINGERPRINT_BYTES = 8
_SEAL_BYTES = 8
_HEAD = len(_VERSION) + _FINGERPRINT_BYTES
_TOKEN_CHARACTERS = 4_096
_BASE64 = re.compile(r"[A-Za-z0-9_-]+")
_PAGING = ("page_size", "page_token", "skip", "count_total")
_AGAIN = "begin again without one"
_LEAST, _MOST = -(2**63), 2**63 - 1
_UTC = timedelta()


class Page(msgspec.Struct, Generic[Position], frozen=True):
    """What part of a list is asked for."""

    size: int
    skip: int
    after: Position | None
    fingerprint: bytes

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than is shown tells whether there is another page."""
        return self.size + 1

    def token(self, last: Position) -> str:
        """Names the page after the given position."""
        text = _VERSION + self.fingerprint + msgspec.msgpack.encode(last)
        return base64.urlsafe_b64encode(text + _seal(text)).decode().rstrip("=")


def read_page(
    request: Any,  # noqa: ANN401 - any generated message of a list
    position: type[Position],
    limits: Limits,
) -> Page[Position]:
    """Reads the fields of paging. `skip` counts from the list's beginning, so it is over once there is a token."""
    fingerprint = _fingerprint(request)
    token: str = request.page_token
    after = _position(token, fingerprint, position) if token else None
    skip = 0 if token else _skip(request, limits)
    return Page(_size(request.page_size, limits), skip, after, fingerprint)


def _size(asked: int, limits: Limits) -> int:
    if asked < 0:
        raise InvalidField(field="page_size", problem=f"is {asked}: it must be 0 (the default) or more")
    return min(asked or limits.page_items, limits.page_items_maximum)


def _skip(request: Any, limits: Limits) -> int:  # noqa: ANN401 - any generated message of a list
    skip: int = getattr(request, "skip", 0)
    if not 0 <= skip <= limits.page_skip:
        problem = f"is {skip}: it must be 0 to {limits.page_skip}; go further by page_token"
        raise InvalidField(field="skip", problem=problem)
    return skip


def _fingerprint(request: Any) -> bytes:  # noqa: ANN401 - any generated message of a list
    rest = type(request)()
    rest.CopyFrom(request)
    for name in _PAGING:
        if name in request.DESCRIPTOR.fields_by_name:
            rest.ClearField(name)
    text = f"{request.DESCRIPTOR.full_name}\0".encode() + rest.SerializeToString(deterministic=True)
    return blake2b(text, digest_size=_FINGERPRINT_BYTES, person=b"stepwell-list").digest()


def _position(token: str, fingerprint: bytes, position: type[Position]) -> Position:
    if len(token) > _TOKEN_CHARACTERS or not _BASE64.fullmatch(token) or len(token) % 4 == 1:
        raise PageTokenInvalid(problem=_AGAIN)
    text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    text, seal = text[:-_SEAL_BYTES], text[-_SEAL_BYTES:]
    if seal != _seal(text) or not text.startswith(_VERSION):
        raise PageTokenInvalid(problem=_AGAIN)
    if text[len(_VERSION) : _HEAD] != fingerprint:
        raise PageTokenInvalid(problem=f"it belongs to another list or filter; keep the filter, or {_AGAIN}")
    try:
        found = msgspec.msgpack.decode(text[_HEAD:], type=position)
    except msgspec.DecodeError:
        # A server of another version may have gone through the list in another order.
        raise PageTokenInvalid(problem=_AGAIN) from None
    if not _is_storable(found):
        raise PageTokenInvalid(problem=_AGAIN)
    return found


def _is_storable(position: object) -> bool:
    """Whether the database can hold that at all; a forged token may say anything."""
    if isinstance(position, int):
        return _LEAST <= position <= _MOST
    if isinstance(position, str):
        return "\0" not in position
    if isinstance(position, datetime):
        return position.utcoffset() == _UTC
    return not isinstance(position, Iterable) or all(map(_is_storable, position))


def _seal(text: bytes) -> bytes:
    return blake2b(text, digest_size=_SEAL_BYTES, person=b"stepwell-page").digest()
