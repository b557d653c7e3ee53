"""The service's time: near the database's, never stepped by the machine's, and movable for tests."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "SystemClock", "TestClock"]


class Clock(Protocol):
    """What the time is, and how much of it passes."""

    def now(self) -> datetime:
        """The time to record and to decide by, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump, for waits, leases of our own and lateness."""
        ...


class SystemClock:
    """The database's time as far as it is known, carried on by the machine's steady counter.

    A machine's wall clock may be set back or forth at any time; only the first guess is taken from it.
    """

    __slots__ = ("_base", "_uncertainty")

    def __init__(self) -> None:
        self._base = time.time() - time.monotonic()
        self._uncertainty = float("inf")

    @property
    def offset(self) -> float:
        """Seconds by which this clock is ahead of the machine's."""
        return self._base + time.monotonic() - time.time()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._base + time.monotonic(), UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def align(self, db_now: datetime, round_trip: float) -> None:
        """Takes in what the database's clock said `round_trip` seconds after it was asked, which is now.

        The answer is right within half the round trip. While it agrees with a better one from before, that one stays,
        so that a slow answer does not make the time jump.
        """
        uncertainty = round_trip / 2
        base = db_now.timestamp() + uncertainty - time.monotonic()
        if uncertainty >= self._uncertainty and abs(base - self._base) <= uncertainty:
            return
        self._base, self._uncertainty = base, uncertainty


class TestClock:
    """A clock that is moved forward at will; what is measured by `monotonic`, sessions above all, does not notice."""

    __slots__ = ("_clock", "_shift")
    __test__ = False

    def __init__(self, clock: SystemClock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._shift = timedelta()

    @property
    def shift(self) -> timedelta:
        """How far it has been moved altogether."""
        return self._shift

    def now(self) -> datetime:
        return self._clock.now() + self._shift

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def align(self, db_now: datetime, round_trip: float) -> None:
        """Aligns what lies below the shift."""
        self._clock.align(db_now, round_trip)

    def advance(self, by: timedelta) -> datetime:
        """Moves forward and answers the new time."""
        if by < timedelta():
            raise ValueError("time moves forward only")
        self._shift += by
        return self.now()
