"""The lock and the epoch of the leader."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from stepwell_server.store.connection import Connection

LEADERS = load("leaders")


class Vote(NamedTuple):
    """Whether the lock was had, and by which backend."""

    taken: bool
    backend: int


def lock_key(schema: str) -> int:
    """The advisory lock of a deployment: two in one database do not block each other."""
    return int.from_bytes(hashlib.blake2b(f"stepwell leader {schema}".encode(), digest_size=8).digest(), signed=True)


async def try_lock(connection: Connection, schema: str) -> Vote:
    """Takes the lock, if nobody has it, for as long as the connection lives."""
    (row,) = await connection.fetch(LEADERS["try_leader_lock"], lock_key(schema))
    return Vote(row["taken"], row["backend"])


class Proof(NamedTuple):
    """Which backend serves the connection, and whether the database takes writes."""

    backend: int
    writable: bool


async def probe(connection: Connection) -> Proof:
    """What the session says of itself."""
    (row,) = await connection.fetch(LEADERS["probe_leader"])
    return Proof(row["backend"], row["writable"])


async def raise_epoch(connection: Connection, holder: str) -> int:
    """Counts an election."""
    epoch: int = await connection.fetchval(LEADERS["raise_epoch"], holder)
    return epoch
