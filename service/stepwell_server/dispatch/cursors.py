"""The cursors of watches: how far each committer's batches were seen, as an opaque token."""

from __future__ import annotations

import base64
import re
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from stepwell_server import errors

if TYPE_CHECKING:
    from stepwell_server.store.namespaces import NamespaceRow

CURSOR_AGE = timedelta(minutes=55)
"""Batches are kept for longer than this; whoever comes with an older cursor begins again."""
_SEAL_BYTES = 8
_CHARACTERS = 256 * 1024
_BASE64 = re.compile(r"[A-Za-z0-9_-]+")
_AGAIN = "begin again without one"


class Cursor(msgspec.Struct):
    """The last batch seen of each committer, and of the one after it how many ends, where that was cut."""

    positions: dict[int, int]
    partial: dict[int, int]

    def pass_batch(self, committer: int, position: int) -> None:
        """Notes that a batch was seen whole."""
        self.positions[committer] = position
        self.partial.pop(committer, None)


class _Token(msgspec.Struct, array_like=True):
    namespace: bytes
    time: datetime
    positions: dict[int, int]
    partial: dict[int, int]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Token)


def pack_cursor(cursor: Cursor, namespace: NamespaceRow, now: datetime) -> str:
    """A cursor as text."""
    text = _encoder.encode(_Token(_identity(namespace), now, cursor.positions, cursor.partial))
    return base64.urlsafe_b64encode(text + _seal(text)).decode().rstrip("=")


def unpack_cursor(token: str, namespace: NamespaceRow, now: datetime) -> Cursor:
    """The inverse of `pack_cursor`. Refuses with WATCH_CURSOR_INVALID what is foreign, changed or too old."""
    if len(token) > _CHARACTERS or not _BASE64.fullmatch(token) or len(token) % 4 == 1:
        raise errors.WatchCursorInvalid(problem=_AGAIN)
    sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    text, seal = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
    if seal != _seal(text):
        raise errors.WatchCursorInvalid(problem=_AGAIN)
    said = _decoder.decode(text)
    if said.namespace != _identity(namespace):
        raise errors.WatchCursorInvalid(problem=f"it belongs to another namespace; {_AGAIN}")
    if said.time < now - CURSOR_AGE:
        raise errors.WatchCursorInvalid(problem=f"it is older than what is kept; {_AGAIN}")
    return Cursor(said.positions, said.partial)


def _identity(namespace: NamespaceRow) -> bytes:
    """Tells apart namespaces also of other databases, and one that was deleted and made again."""
    text = f"{namespace.namespace_id}\0{namespace.name}\0{namespace.create_time.timestamp()}"
    return blake2b(text.encode(), digest_size=8, person=b"stepwell-ns").digest()


def _seal(text: bytes) -> bytes:
    return blake2b(text, digest_size=_SEAL_BYTES, person=b"stepwell-watch").digest()
