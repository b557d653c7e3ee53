"""Which history of the database a connection leads to: each promotion of a standby begins a new timeline.

A primary that was believed dead may come back and take writes, while its standby has long been promoted. Whoever wrote
to the newer timeline must not go back to the older one: what is written there is lost or, worse, done twice. A database
of another system, made by an upgrade say, has timelines of its own and is taken as it is.

The database's time is asked for on the way: another server has another clock, and its first connection tells.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import structlog

from stepwell_server.store.faults import Lost, translated

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_log = structlog.get_logger("stepwell.database")
# Nothing but the time where a service that is managed by others keeps the rest to itself.
_TIME = "SELECT clock_timestamp() AS now, NULL::bigint AS system, NULL::text AS segment"
_TIME_AND_PLACE = """
    SELECT clock_timestamp() AS now, (pg_control_system()).system_identifier AS system,
        CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END AS segment
"""
_TIMELINE_DIGITS = 8


class Timeline(NamedTuple):
    """A history of a database system."""

    system: int
    number: int


class Lineage:
    """What one server's connections have seen. `tell_time` hears the database's time and how long the answer took."""

    def __init__(self) -> None:
        self.tell_time: Callable[[datetime, float], None] = lambda _now, _seconds: None
        self._question = _TIME_AND_PLACE
        self._newest: Timeline | None = None

    async def admit(self, raw: asyncpg.Connection) -> Timeline | None:
        """The timeline that a new connection leads to, if that can be known. An old one is closed: raises Lost."""
        asked = time.monotonic()
        try:
            row = await self._ask(raw)
            seconds = time.monotonic() - asked
            timeline = self._compare(row["system"], row["segment"])
        except BaseException as error:
            raw.terminate()
            raise translated(error) if isinstance(error, Exception) else error from error
        self.tell_time(row["now"], seconds)
        return timeline

    async def _ask(self, raw: asyncpg.Connection) -> asyncpg.Record:
        try:
            row = await raw.fetchrow(self._question)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFunctionError):
            if self._question == _TIME:
                raise
            self._question = _TIME
            _log.info("timelines are not told", advice="a primary that was replaced is not known for one")
            return await self._ask(raw)
        assert row is not None  # noqa: S101 - it has one
        return row

    def _compare(self, system: int | None, segment: str | None) -> Timeline | None:
        if system is None or segment is None:
            return None
        found, newest = Timeline(system, int(segment[:_TIMELINE_DIGITS], 16)), self._newest
        if newest is not None and found.system == newest.system and found.number < newest.number:
            raise Lost(
                f"the server is of timeline {found.number}, which was replaced by {newest.number}: take it out of "
                f"service; if it is the one that is meant, restart this server"
            )
        if newest is not None and found != newest:
            _log.warning("another timeline", system=found.system, timeline=found.number, before=newest.number)
        self._newest = found
        return found
