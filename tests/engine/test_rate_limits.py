"""A bucket of tokens: what it gives in any span, when it gives again, and that it loses and makes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell_server.engine.rate_limits import later_time, next_time, spend, tokens, worth_asking
from stepwell_server.model.queue_settings import RateLimit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATES = st.sampled_from([0.0001, 0.3, 1.0, 3.0, 7.0, 99.9, 1000.0, 33_333.0, 100_000.0])


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_bucket_of_which_nothing_was_taken_is_full() -> None:
    limit = RateLimit(2.0, 5)
    assert tokens(limit, None, NOW) == 5
    assert tokens(limit, after(-100), NOW) == 5
    assert later_time(limit, None, NOW) is None


def test_it_fills_at_its_rate_up_to_its_burst() -> None:
    limit = RateLimit(2.0, 5)
    spent = spend(limit, None, NOW, 5)
    assert spent == after(2.5)
    assert [tokens(limit, spent, after(seconds)) for seconds in (0, 0.49, 0.5, 1.0, 2.4, 2.5, 60)] == [
        0,
        0,
        1,
        2,
        4,
        5,
        5,
    ]


def test_the_next_token_comes_when_it_is_told() -> None:
    limit = RateLimit(3.0, 2)
    spent = spend(limit, None, NOW, 2)
    told = next_time(limit, spent, NOW)
    assert after(0.3333) < told < after(0.3334)
    assert tokens(limit, spent, told) == 1
    assert tokens(limit, spent, told - timedelta(milliseconds=1)) == 0


def test_a_slower_limit_is_no_debt_of_the_faster_one_after_it() -> None:
    """Whoever made a mistake of an hour a task is not punished for it after mending it."""
    spent = spend(RateLimit(0.0001, 100), None, NOW, 100)
    assert next_time(RateLimit(10.0, 100), spent, NOW) < after(0.11)


@pytest.mark.parametrize(("per_second", "burst", "asked"), [(1.0, 1, 1), (1000.0, 1000, 10), (1000.0, 3, 3)])
def test_a_fast_bucket_is_not_asked_for_each_token(per_second: float, burst: int, asked: int) -> None:
    assert worth_asking(RateLimit(per_second, burst)) == asked


@given(RATES, st.integers(1, 50), st.lists(st.tuples(st.floats(0, 3), st.integers(0, 60)), min_size=1, max_size=40))
def test_in_any_span_no_more_is_taken_than_rate_and_burst_allow(
    per_second: float, burst: int, asked: list[tuple[float, int]]
) -> None:
    limit, now, spent = RateLimit(per_second, burst), NOW, None
    taken: list[tuple[datetime, int]] = []
    for pause, most in asked:
        now += timedelta(seconds=pause / per_second)
        count = min(most, tokens(limit, spent, now))
        if count:
            spent = spend(limit, spent, now, count)
            taken.append((now, count))
    for first, (start, _) in enumerate(taken):
        for last in range(first, len(taken)):
            span = (taken[last][0] - start).total_seconds()
            assert sum(count for _, count in taken[first : last + 1]) <= per_second * span + burst + 1e-3


@given(RATES, st.integers(1, 1000), st.integers(1, 1000), st.floats(0, 10))
def test_who_waits_as_told_gets_what_was_told(per_second: float, burst: int, taken: int, pause: float) -> None:
    """Else he would ask again and again at the same moment."""
    limit = RateLimit(per_second, burst)
    spent = spend(limit, None, NOW, min(taken, burst))
    now = after(pause / per_second)
    wanted = worth_asking(limit)
    assert tokens(limit, spent, next_time(limit, spent, now, wanted)) >= wanted
