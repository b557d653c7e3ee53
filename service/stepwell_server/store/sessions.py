"""Sessions that expire, and what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.store.connection import Connection

SESSIONS = load("sessions")


class Lease(NamedTuple):
    """What a session holds: an activity, (ordinal 0) a run, or (JOB_ORDINAL) a job."""

    run_key: int
    ordinal: int
    token: int
    session_id: UUID
    namespace_id: int


async def read_expired_sessions(connection: Connection, now: datetime, most: int) -> list[UUID]:
    """Sessions whose time is over, condemned ones among them."""
    return [row[0] for row in await connection.fetch(SESSIONS["read_expired_sessions"], now, most)]


async def condemn_sessions(connection: Connection, session_ids: Sequence[UUID], now: datetime) -> list[UUID]:
    """Makes expiry final; answers the sessions that were not prolonged meanwhile."""
    return [row[0] for row in await connection.fetch(SESSIONS["condemn_sessions"], session_ids, now)]


async def delete_condemned_sessions(connection: Connection, session_ids: Sequence[UUID]) -> int:
    """Forgets sessions whose expiry is final."""
    return len(await connection.fetch(SESSIONS["delete_condemned_sessions"], session_ids))


async def read_lost_holders(connection: Connection, most: int) -> list[UUID]:
    """Sessions that hold something but are not there."""
    return [row[0] for row in await connection.fetch(SESSIONS["read_lost_holders"], most)]


async def read_leases(connection: Connection, session_ids: Sequence[UUID], most: int) -> list[Lease]:
    """What sessions hold: at most so many runs, so many activities, and so many jobs."""
    return [Lease(*row) for row in await connection.fetch(SESSIONS["read_leases"], session_ids, most)]
