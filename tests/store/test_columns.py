"""Rows to columns: what set-based statements are given."""

from __future__ import annotations

from stepwell_server.store.columns import pairs


def test_a_column_of_nothing_but_nulls_is_empty() -> None:
    """`unnest` fills it up; one with a value keeps its nulls in their places."""
    assert pairs([(1, None, None, "a"), (2, None, "x", None)]) == [(1, 2), (), (None, "x"), ("a", None)]
    assert pairs([]) == []
