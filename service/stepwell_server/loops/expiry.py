"""Expiry: a session that gave no sign of life for too long loses what it holds.

1. Its expiry is made final, unless a beat came meanwhile: from here on nothing prolongs it.
2. What it holds returns to the queues, each lease under its token.
3. When nothing is left, the session is forgotten.

A round may end anywhere in between; the next one goes on from there. Nothing expires until this leader has led for a
whole session's time, so that after an outage of the database or of a leader workers get to give their sign of life; nor
until that time has passed since a round last failed or was held up, for what held it up may have held beats up, too. So
it looks in each round, also while it may not judge yet, and by the lock that beats take. Where the clock was set
forward, sessions were prolonged by what it was before; as other replicas follow a little later, twice that time passes.
Sessions live by real time: moving a test's clock expires none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from stepwell_server.engine.grants import ReturnTask, ref_to
from stepwell_server.loops.loop import Loop
from stepwell_server.loops.orders import SLICE, submit_all
from stepwell_server.store import sessions
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer import Committers
    from stepwell_server.loops.connection import SharedConnection
    from stepwell_server.store.sessions import Lease

_log = structlog.get_logger("stepwell.expiry")
_SESSIONS = 64
# Of a session's time: a look that took longer was held up.
_HELD_UP = 1 / 8
# Of the pause between looks, which is not always as long: a look that comes later is late.
_LATE = 1.5
_REASON = "session expired"


class Expiry(Loop):
    """See the module. `led_seconds` tells for how long the present leader has led."""

    name = "expiry"

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        connection: SharedConnection,
        committers: Committers,
        real_clock: Clock,
        seconds: float,
        session_seconds: float,
        led_seconds: Callable[[], float],
        may_run: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(seconds, may_run)
        self._connection = connection
        self._committers = committers
        self._clock = real_clock
        self._session_seconds = session_seconds
        self._led_seconds = led_seconds
        self._lost_holders_time = 0.0
        self._held_up_time = float("-inf")
        self._looked_time = float("inf")
        self._ahead = float("inf")  # the clock, of the steady one
        self._has_more = False

    def pause(self, done: int) -> float:
        """None, if a round could not take all."""
        return 0.0 if self._has_more and done else super().pause(done)

    async def run_once(self) -> int:
        """Expires a slice; answers how many leases returned and how many sessions were forgotten."""
        self._has_more = False
        try:
            expired = await self._look()
            return await self._expire_slice(expired) if self._may_judge() else 0
        except Exception:
            self._held_up_time = self._clock.monotonic()
            raise

    def calm_seconds(self) -> float:
        """For how long nothing has held up beats, as far as this leader has seen."""
        return self._clock.monotonic() - self._held_up_time

    def _may_judge(self) -> bool:
        """Whether every worker has had the time to give a sign of life."""
        return min(self._led_seconds(), self.calm_seconds()) >= self._session_seconds

    async def _look(self) -> Sequence[UUID]:
        """A slice of the sessions whose time is over."""
        # It stood still itself, and so did whoever beats by way of it.
        late = _LATE * self._seconds + self._session_seconds * _HELD_UP
        was_away = self._clock.monotonic() - self._looked_time > late
        async with self._connection.use() as connection:
            began = self._clock.monotonic()
            expired = await sessions.read_expired_sessions(connection, self._clock.now(), _SESSIONS)
        self._looked_time = ended = self._clock.monotonic()
        if was_away or ended - began > self._session_seconds * _HELD_UP:
            self._held_up_time = ended
        if self._was_set_forward():
            self._held_up_time = ended + self._session_seconds
        return expired

    def _was_set_forward(self) -> bool:
        """Whether the clock has gone on by more than the time that has passed since the last look."""
        before, self._ahead = self._ahead, self._clock.now().timestamp() - self._clock.monotonic()
        return self._ahead - before > self._session_seconds * _HELD_UP

    async def _expire_slice(self, expired: Sequence[UUID]) -> int:
        condemned: Sequence[UUID] = ()
        if expired:
            async with self._connection.use() as connection:
                condemned = await sessions.condemn_sessions(connection, expired, self._clock.now())
        self._has_more = len(expired) == _SESSIONS
        done = await self._expire(condemned) if condemned else 0
        return done + await self._return_from_lost_holders()

    async def _expire(self, condemned: Sequence[UUID]) -> int:
        returned = await self._return(condemned)
        if returned is None:
            return 0
        if returned >= SLICE:
            return returned
        async with self._connection.use() as connection:
            deleted = await sessions.delete_condemned_sessions(connection, condemned)
        _log.info("sessions expired", sessions=deleted, leases=returned)
        return returned + deleted

    async def _return_from_lost_holders(self) -> int:
        """Now and then looks for leases of sessions that are not there: a grant may have overtaken the expiry."""
        if self._clock.monotonic() < self._lost_holders_time:
            return 0
        async with self._connection.use() as connection:
            holders = await sessions.read_lost_holders(connection, _SESSIONS)
        if not holders:
            self._lost_holders_time = self._clock.monotonic() + self._session_seconds
            return 0
        return await self._return(holders) or 0

    async def _return(self, session_ids: Sequence[UUID]) -> int | None:
        """Gives a slice of what the sessions hold back to the queues. None: some of it could not be."""
        async with self._connection.use() as connection:
            leases = await sessions.read_leases(connection, session_ids, SLICE)
        if len(leases) >= SLICE:
            self._has_more = True
        answers = await submit_all(self._committers, [_order(lease) for lease in leases])
        metrics.count_lost_lease(_REASON, sum(answer is True for answer in answers))
        # False: it came back by itself.
        if any(not isinstance(answer, bool) for answer in answers):
            _log.warning("leases could not be returned", of=len(leases))
            return None
        return len(leases)


def _order(lease: Lease) -> ReturnTask:
    ref = ref_to(lease.run_key, lease.ordinal, lease.namespace_id)
    return ReturnTask(ref, lease.ordinal, lease.token, lease.session_id, counts=True, reason=_REASON)
