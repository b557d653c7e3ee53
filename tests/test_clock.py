"""Time follows the database, steadily, and moves for tests without moving what is measured."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from stepwell_server.clock import Clock, SystemClock, TestClock

MILLISECOND = timedelta(milliseconds=1)


def near(left: datetime, right: datetime, within: timedelta = 50 * MILLISECOND) -> bool:
    return abs(left - right) <= within


def test_follows_the_database() -> None:
    """After an alignment now() is the database's time, half the round trip later than it said."""
    clock = SystemClock()
    assert near(clock.now(), datetime.now(UTC))
    ahead = datetime.now(UTC) + timedelta(seconds=100)
    clock.align(ahead, 0.2)
    assert near(clock.now(), ahead + 100 * MILLISECOND)
    assert clock.offset == pytest.approx(100.1, abs=0.05)
    assert clock.now().utcoffset() == timedelta()


def test_ignores_the_machines_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is set back changes nothing."""
    clock = SystemClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= clock.now()


def test_a_slow_answer_that_agrees_changes_nothing() -> None:
    """Time does not jump about with the network's weather; a real difference is followed all the same."""
    clock = SystemClock()
    clock.align(clock.now(), 0.001)
    offset = clock.offset
    clock.align(clock.now() - 200 * MILLISECOND, 1.0)
    assert clock.offset == pytest.approx(offset, abs=0.02)
    clock.align(clock.now() + timedelta(seconds=5), 0.1)
    assert clock.offset == pytest.approx(offset + 5, abs=0.1)


def test_moves_forward_for_tests() -> None:
    """A month passes in now() and not at all in monotonic(), so that no session expires by it."""
    clock = TestClock()
    now, steady = clock.now(), clock.monotonic()
    assert clock.advance(timedelta(days=30)) - now >= timedelta(days=30)
    assert clock.monotonic() - steady < 3_600
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-MILLISECOND)


def test_both_are_clocks() -> None:
    """Whoever asks for a Clock may be given either."""
    clocks: list[Clock] = [SystemClock(), TestClock()]
    assert all(clock.now().tzinfo is UTC for clock in clocks)
