"""API keys: what a caller proves itself with.

A key is 32 random bytes behind `swk_`, shown once and kept as its SHA-256: whoever reads the database can prove
nothing, and guessing is hopeless, however fast the hash is. Its prefix is no secret, and is how people name it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from uuid import UUID

import msgspec

from stepwell_server.ids import uuid7
from stepwell_server.model import filters
from stepwell_server.trust import fits

_MARK = "swk_"
_SECRET = re.compile(r"swk_[0-9a-f]{64}")
_PREFIX_CHARACTERS = len(_MARK) + 8


class Role(IntEnum):
    """What a key is for, by its number on the wire; and of an RPC, which keys may call it."""

    READER = 1
    WORKER = 2
    CLIENT = 3
    ADMIN = 4
    OPERATOR = 5


GRANTS: dict[int, frozenset[Role]] = {
    Role.READER: frozenset({Role.READER}),
    Role.WORKER: frozenset({Role.WORKER}),
    Role.CLIENT: frozenset({Role.READER, Role.CLIENT}),
    Role.OPERATOR: frozenset({Role.READER, Role.CLIENT, Role.OPERATOR}),
    Role.ADMIN: frozenset(Role),
}
"""Of which roles a key of each may make the calls. An imported key has none, and may make no call."""


class ApiKey(msgspec.Struct, frozen=True, gc=False):
    """A row of `api_keys`. `role` is 0 and `is_imported` true for a hash that was made elsewhere.

    `task_queues` are the only ones that a worker's key may take tasks from, as `takes_queue` reads them; None for all.
    """

    key_id: UUID
    prefix: str
    key_hash: str
    label: str
    role: int
    namespace_id: int | None
    is_imported: bool
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    use_time: datetime | None = None
    task_queues: Sequence[str] | None = None


class SeenKey(msgspec.Struct, frozen=True, gc=False):
    """A key as people see it: without its hash, and with its namespace's name, None for all of them."""

    key_id: UUID
    prefix: str
    label: str
    role: int
    namespace: str | None
    is_imported: bool
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    use_time: datetime | None = None
    task_queues: Sequence[str] | None = None


LISTED: filters.Fields = {
    "prefix": filters.SORTED_TEXT,
    "label": filters.SORTED_TEXT,
    "create_time": filters.SORTED_TIME,
}
"""By what keys are filtered and sorted."""


def new_secret() -> str:
    """Makes a key that nobody has, and that nobody can guess."""
    return _MARK + secrets.token_hex(32)


def is_secret(text: str) -> bool:
    """Whether a text looks like a key; it may still be one that nobody has."""
    return _SECRET.fullmatch(text) is not None


def prefix_of(secret: str) -> str:
    """What of a key may be shown: 32 of its 256 random bits."""
    return secret[:_PREFIX_CHARACTERS]


def hash_of(secret: str) -> str:
    """What is kept of a key."""
    return sha256(secret.encode()).hexdigest()


def takes_queue(patterns: Sequence[str], task_queue: str) -> bool:
    """Whether one of the patterns names the queue: as it is, or, if it ends in `*`, by how its name begins."""
    return any(fits(pattern, task_queue) for pattern in patterns)


def make_key(  # noqa: PLR0917 - what a key is made of
    role: int,
    label: str,
    namespace_id: int | None,
    now: datetime,
    expire_time: datetime | None = None,
    task_queues: Sequence[str] = (),
) -> tuple[ApiKey, str]:
    """Makes a key: what is kept of it, and the key itself. `namespace_id` is None for all namespaces.

    Without `task_queues` a worker's key takes from all of them.
    """
    secret = new_secret()
    key = ApiKey(
        uuid7(),
        prefix_of(secret),
        hash_of(secret),
        label,
        role,
        namespace_id,
        is_imported=False,
        create_time=now,
        expire_time=expire_time,
        task_queues=tuple(task_queues) or None,
    )
    return key, secret
