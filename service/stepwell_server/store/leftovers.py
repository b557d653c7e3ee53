"""Rows that have done their service."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.store.connection import Connection

BATCHES, LEFTOVERS, JOBS = load("batches"), load("leftovers"), load("jobs")
_MILLISECONDS_AT = 80


class Place(NamedTuple):
    """Where a walk over heartbeats stands."""

    run_key: int = -1
    ordinal: int = 0


async def prune_batches(connection: Connection, made_before: datetime, committed_before: datetime, most: int) -> int:
    """Forgets batches that were made (by the machines' clocks) and committed (by ours) before these times."""
    bound = UUID(int=int(made_before.timestamp() * 1000) << _MILLISECONDS_AT)
    return len(await connection.fetch(BATCHES["prune_batches"], bound, committed_before, most))


async def prune_heartbeats(connection: Connection, after: Place, most: int) -> tuple[int, Place | None]:
    """Forgets those of a slice that belong to no open activity; answers how many, and where the next slice begins."""
    ends = await connection.fetch(LEFTOVERS["next_heartbeats"], *after, most)
    if not ends:
        return 0, None
    end = Place(*ends[0])
    return len(await connection.fetch(LEFTOVERS["prune_heartbeats"], *after, *end)), end


class Value(NamedTuple):
    """Where a walk over published values stands."""

    run_key: int = -1
    name: str = ""


async def prune_published(connection: Connection, after: Value, most: int) -> tuple[int, Value | None]:
    """Forgets those of a slice whose run is gone; answers how many, and where the next slice begins."""
    ends = await connection.fetch(LEFTOVERS["next_published"], *after, most)
    if not ends:
        return 0, None
    end = Value(*ends[0])
    return len(await connection.fetch(LEFTOVERS["prune_published"], *after, *end)), end


async def prune_run_calls(connection: Connection, expired_before: datetime, most: int) -> int:
    """Forgets calls for which nobody waits any more, and whose caller did not do so; answers how many."""
    return len(await connection.fetch(LEFTOVERS["prune_run_calls"], expired_before, most))


async def prune_signals(connection: Connection, received_before: datetime, most: int) -> int:
    """Forgets signals of ended runs that were received before this time; answers how many."""
    return len(await connection.fetch(LEFTOVERS["prune_signals"], received_before, most))


async def prune_jobs(connection: Connection, now: datetime, most: int) -> int:
    """Forgets jobs whose retention is over; answers how many."""
    return len(await connection.fetch(JOBS["prune_jobs"], now, most))


async def prune_requests(connection: Connection, asked_before: datetime, most: int) -> int:
    """Forgets what requests were answered before this time; answers how many."""
    return len(await connection.fetch(LEFTOVERS["prune_requests"], asked_before, most))


class Dispatched(NamedTuple):
    """Where a walk over dispatches stands."""

    run_id: UUID = UUID(int=0)
    namespace_id: int = -1
    step_name: str = ""


async def prune_dispatches(
    connection: Connection, after: Dispatched | None, now: datetime, most: int
) -> tuple[int, Dispatched | None]:
    """Forgets those of a slice whose run is not there; answers how many, and where the next slice begins."""
    place = after or Dispatched()
    ends = await connection.fetch(LEFTOVERS["next_dispatches"], *place, most)
    if not ends:
        return 0, None
    end = Dispatched(*ends[0])
    return len(await connection.fetch(LEFTOVERS["prune_dispatches"], *place, *end, now)), end


class Registered(NamedTuple):
    """Where a walk over idempotency keys stands."""

    idempotency_key: str = ""
    namespace_id: int = -1
    type: str = ""
    trigger_key: str = ""


async def prune_idempotency_keys(
    connection: Connection, after: Registered | None, now: datetime, most: int
) -> tuple[int, Registered | None]:
    """Forgets those of a slice whose run is not there; answers how many, and where the next slice begins."""
    place = after or Registered()
    ends = await connection.fetch(LEFTOVERS["next_idempotency_keys"], *place, most)
    if not ends:
        return 0, None
    end = Registered(*ends[0])
    return len(await connection.fetch(LEFTOVERS["prune_idempotency_keys"], *place, *end, now)), end
