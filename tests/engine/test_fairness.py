"""Whose turn it is: shares by weight, whatever the sizes of claims; nobody is passed over for more than a round."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell_server.engine.fairness import Rounds, Turn, share

KEYS = st.lists(st.sampled_from(["", *"abcdefgh"]), min_size=1, unique=True).map(sorted)
WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9))


def in_turn(keys: list[str], turn: Turn) -> list[str]:
    """As they are found: from the one whose turn it is, round to the one before it."""
    first = [key for key in keys if turn.key is None or key > turn.key or (key == turn.key and turn.left)]
    return first + [key for key in keys if key not in first]


def test_each_key_has_its_turn() -> None:
    shares, turn = share(["a", "b", "c"], {}, Turn(), 2)
    assert (shares, turn) == ({"a": 1, "b": 1}, Turn("b", 0))
    assert share(["c", "a", "b"], {}, turn, 2) == ({"c": 1, "a": 1}, Turn("a", 0))


def test_a_key_gets_what_it_weighs_before_the_next_one() -> None:
    shares, turn = share(["a", "b"], {"b": 3}, Turn(), 2)
    assert (shares, turn) == ({"a": 1, "b": 1}, Turn("b", 2))
    assert share(["b", "a"], {"b": 3}, turn, 4) == ({"b": 2, "a": 1} | {"b": 3}, Turn("b", 2))


def test_few_keys_share_several_rounds() -> None:
    assert share(["a", "b"], {"a": 2}, Turn(), 7)[0] == {"a": 5, "b": 2}


def test_where_nobody_waits_nothing_is_shared() -> None:
    assert share([], {}, Turn("a", 1), 5) == ({}, Turn("a", 1))


@settings(max_examples=50, deadline=None)
@given(KEYS, WEIGHTS, st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_shares_differ_by_less_than_a_turn(keys: list[str], weights: dict[str, int], claims: list[int]) -> None:
    """Of keys that never run dry, after claims of any sizes."""
    given_: Counter[str] = Counter()
    turn = Turn()
    for most in claims:
        shares, turn = share(in_turn(keys, turn), weights, turn, most)
        assert sum(shares.values()) == most
        given_.update(shares)
    rounds = [given_[key] / weights.get(key, 1) for key in keys]
    assert max(rounds) - min(rounds) <= 1


def test_turns_are_of_a_queue_and_a_kind() -> None:
    rounds = Rounds()
    rounds.note(1, "q", 1, Turn("a", 2))
    assert rounds.turn(1, "q", 1) == Turn("a", 2)
    assert rounds.turn(1, "q", 2) == rounds.turn(2, "q", 1) == Turn()
    rounds.keep({(1, "r")})
    assert rounds.turn(1, "q", 1) == Turn()
