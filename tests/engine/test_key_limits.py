"""Turns among keys that have tokens, and what a lap over all keys tells."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell_server.engine.fairness import Turn
from stepwell_server.engine.key_limits import Lap, Walks, share
from stepwell_server.engine.rate_limits import later_time, settled, soonest
from stepwell_server.model.queue_settings import RateLimit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = (1, "q", 1)
TOKENS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-2, 9), min_size=1)
WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9))


def test_a_key_without_tokens_is_passed_over() -> None:
    assert share({"a": 0, "b": 2, "c": -1, "d": 1}, {}, Turn(), 9, once=False) == ({"b": 2, "d": 1}, Turn("b", 0))


def test_a_key_gets_no_more_than_it_has_tokens_for() -> None:
    assert share({"a": 2, "b": 9}, {"a": 5}, Turn(), 6, once=False)[0] == {"a": 2, "b": 4}


def test_where_more_keys_may_wait_each_has_one_turn() -> None:
    assert share({"a": 9, "b": 9}, {"b": 3}, Turn(), 20, once=True) == ({"a": 1, "b": 3}, Turn("b", 0))


def test_a_turn_goes_on_where_room_ended_it() -> None:
    shares, turn = share({"a": 9, "b": 9}, {"a": 3}, Turn(), 2, once=True)
    assert (shares, turn) == ({"a": 2}, Turn("a", 1))
    assert share({"a": 7, "b": 9}, {"a": 3}, turn, 2, once=True) == ({"a": 1, "b": 1}, Turn("b", 0))


@settings(max_examples=100, deadline=None)
@given(TOKENS, WEIGHTS, st.integers(1, 30))
def test_all_tokens_are_shared_out_and_no_others(tokens: dict[str, int], weights: dict[str, int], most: int) -> None:
    shares, _ = share(tokens, weights, Turn(), most, once=False)
    there = sum(max(0, count) for count in tokens.values())
    assert sum(shares.values()) == min(most, there)
    assert all(0 < count <= tokens[key] for key, count in shares.items())


@settings(max_examples=50, deadline=None)
@given(WEIGHTS, st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_with_tokens_for_all_shares_differ_by_less_than_a_turn(weights: dict[str, int], claims: list[int]) -> None:
    keys, counts, turn = "abcd", Counter[str](), Turn()
    for most in claims:
        first = [key for key in keys if turn.key is None or key > turn.key or (key == turn.key and turn.left)]
        order = first + [key for key in keys if key not in first]
        shares, turn = share(dict.fromkeys(order, 1000), weights, turn, most, once=False)
        counts.update(shares)
    rounds = [counts[key] / weights.get(key, 1) for key in keys]
    assert max(rounds) - min(rounds) <= 1


def test_a_lap_tells_the_earliest_time_unless_a_key_has_more_now() -> None:
    lap = Lap()
    lap.note(NOW + timedelta(seconds=5))
    lap.note(NOW + timedelta(seconds=2))
    lap.note(NOW + timedelta(seconds=9))
    assert (lap.next_time, lap.counts) == (NOW + timedelta(seconds=2), True)
    lap.note(None)
    assert not lap.counts


def test_what_comes_meanwhile_spoils_the_laps_of_its_queue_and_kind() -> None:
    walks = Walks()
    mine, other = walks.walk(PLACE, ["a"], []), walks.walk(PLACE, ["b"], [])
    elsewhere = walks.walk((1, "r", 1), ["a"], [])
    walks.disturb([PLACE])
    assert [each.lap is not None and each.lap.counts for each in (mine, other, elsewhere)] == [False, False, True]


def test_a_walk_is_that_of_a_sort_of_claims() -> None:
    walks = Walks()
    assert walks.walk(PLACE, ["a", "b"], ["v"]) is walks.walk(PLACE, ["b", "a"], ["v"])
    assert walks.walk(PLACE, ["a"], ["v"]) is not walks.walk(PLACE, ["a"], [])


def test_walks_are_bounded() -> None:
    walks = Walks()
    first = walks.walk(PLACE, ["a"], [])
    for number in range(1_000):
        walks.walk(PLACE, [f"t{number}"], [])
    assert walks.walk(PLACE, ["a"], []) is not first


def test_a_failed_walk_has_seen_nothing() -> None:
    walk = Walks().walk(PLACE, ["a"], [])
    walk.fail()
    assert walk.begin() is None
    assert walk.begin() is not None


def test_what_was_taken_under_a_slower_limit_is_no_debt() -> None:
    """An hour a task was a slip: under the limit that mended it the bucket fills from when that was set."""
    slow, fast = RateLimit(1 / 3600, 100), RateLimit(10.0, 100)
    spent = NOW + timedelta(hours=90)
    until = settled(fast, spent, slow.fill_seconds, NOW)
    assert until == NOW + timedelta(seconds=10)
    assert later_time(fast, until, NOW + timedelta(seconds=0.2)) is None


def test_what_was_taken_under_this_limit_or_a_faster_one_counts() -> None:
    limit, spent = RateLimit(1.0, 10), NOW + timedelta(seconds=9)
    for filled in (10.0, 0.1):
        assert settled(limit, spent, filled, NOW - timedelta(hours=1)) == spent


def test_who_asks_again_does_so_a_hundred_times_a_second() -> None:
    assert soonest(NOW) == NOW + timedelta(milliseconds=10)
