"""Plans of the statements about concurrency limits, on an empty table and on one that has grown; and their locks."""

from __future__ import annotations

from typing import Any

import pytest
from tests.store.filled import Filled
from tests.store.plans import explained, scans

from stepwell_server.engine.concurrency import plan
from stepwell_server.model.concurrency import Line
from stepwell_server.store import concurrency
from stepwell_server.store.concurrency import CONCURRENCY
from stepwell_server.store.sides import SIDES

# A hundred lines of a thousand runs each: every other has a slot.
GROW = """
INSERT INTO concurrency_slots
SELECT
    n, 1, 'limit', 'k' || (n % 100), 'k' || (n % 100), 10, 1, '2020-01-01'::timestamptz + n * interval '1 s',
    CASE WHEN n / 100 % 2 = 0 THEN now() END, FALSE
FROM generate_series(1, 100000) AS n;
ANALYZE;
"""
DEBOUNCED = """
INSERT INTO run_debounces SELECT n, 1, 't', 'k' || n FROM generate_series(1, 10000) AS n;
ANALYZE;
"""
# Ten thousand runs of a thousand keys that go in turn.
RING = """
INSERT INTO concurrency_slots
SELECT n, 1, 'ring', '', 'k' || (n % 1000), 10, 4, '2020-01-01'::timestamptz + n * interval '1 s', NULL, FALSE
FROM generate_series(200001, 210000) AS n;
INSERT INTO concurrency_rounds SELECT 1, 'ring' || n, 'k' FROM generate_series(1, 1000) AS n;
INSERT INTO concurrency_rounds VALUES (1, 'ring', 'k5');
ANALYZE;
"""
BY_KEY, ROUNDS = "concurrency_slots_key_idx", "concurrency_rounds_pkey"
WAITING, HELD, KEY = "concurrency_slots_waiting_idx", "concurrency_slots_held_idx", "concurrency_slots_pkey"
TWO = ([0, 1], [1, 1], ["limit", "limit"], ["k1", "k2"])
# Arguments, and how many rows may be read by which index.
LOOKS: dict[str, tuple[tuple[Any, ...], dict[str, int]]] = {
    "read_lines": (TWO, {WAITING: 2, HELD: 20}),
    "read_line_heads": ((*TWO, [5, 5]), {WAITING: 10}),
    "read_superseded": ((*TWO, [10, 10], [20, 20]), {WAITING: 60, HELD: 60}),
    "find_waiting_lines": ((1, "limit", "k5", 10), {WAITING: 10}),
    "read_keys_in_turn": (([0], [1], ["ring"], [5]), {BY_KEY: 6, ROUNDS: 1}),
    "read_key_heads": (([0, 1], [1, 1], ["ring", "ring"], ["k1", "k2"], [3, 3]), {BY_KEY: 6}),
    "find_run_debounces": (([0, 1], [1, 1], ["t", "t"], ["k1", "k2"]), {"run_debounces_namespace_id_type_key_key": 2}),
    "read_concurrency_slots": (([5, 6],), {KEY: 2}),
    "delete_concurrency_slots": (([5, 6], [0, 0]), {KEY: 2}),
}


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
@pytest.mark.parametrize("name", LOOKS)
async def test_a_look_reads_what_it_brings(filled: Filled, name: str, is_grown: bool) -> None:
    arguments, most = LOOKS[name]
    async with filled.connected(*[GROW, RING, DEBOUNCED] * is_grown, pinned=True) as connection:
        plan = await explained(connection.raw, (CONCURRENCY | SIDES)[name], *arguments)
        writes = {part.scan for part in plan.parts() if part.kind == "ModifyTable"}
        read = {index: rows for (table, index), rows in scans(plan).items() if (table, index) not in writes}
        assert set(read) == set(most)
        assert {index: rows for index, rows in read.items() if rows > most[index]} == {}
        assert (sum(read.values()) > 0) is is_grown


async def test_a_line_is_held_by_one_batch_at_a_time(filled: Filled) -> None:
    """Who comes second gets nothing, and does not wait; once the first has ended, it does."""
    line, other = Line(1, "limit", "k1"), Line(1, "limit", "k2")
    async with filled.connected(pinned=True) as one, filled.connected(pinned=True) as two:
        async with one.transaction():
            assert await concurrency.hold(one, [line]) == [line]
            async with two.transaction():
                assert await concurrency.hold(two, [line, other]) == [other]
        async with two.transaction():
            assert await concurrency.hold(two, [line]) == [line]


async def test_the_heads_of_lines(filled: Filled) -> None:
    """Oldest first, as many as there are slots for; of the superseded, those that were not asked to give way."""
    rows = """
    INSERT INTO concurrency_slots
    SELECT n, 1, 'limit', line, line, 2, strategy, '2020-01-01'::timestamptz - n * interval '1 s',
        CASE WHEN n % 10 > 3 THEN now() END, n % 10 = 5
    FROM (
        SELECT n, 'q' AS line, 1 AS strategy FROM generate_series(1, 4) AS n
        UNION ALL SELECT n, 'c', 2 FROM generate_series(11, 15) AS n
    ) AS t
    """
    async with filled.connected(rows, pinned=True) as connection:
        queue, cancel = await concurrency.read_heads(
            connection, [Line(1, "limit", "q"), Line(1, "limit", "c"), Line(1, "limit", "none")], 10
        )
    assert (queue.held, queue.waiting, queue.superseded) == (1, [(3, False)], [])
    assert (cancel.held, cancel.waiting) == (2, [(13, False), (12, False), (11, False)])
    assert cancel.superseded == [14, 13]


async def test_keys_go_in_turn(filled: Filled) -> None:
    """From the one after the last on, round and round, within a key the oldest first, as many as there are slots."""
    rows = """
    INSERT INTO concurrency_slots
    SELECT n, 1, 'ring', '', key, 5, 4, '2020-01-01'::timestamptz + n * interval '1 s', NULL, FALSE
    FROM unnest(ARRAY[1, 2, 3, 4, 5, 6, 7], ARRAY['a', 'a', 'a', 'b', 'c', 'c', 'd']) AS t (n, key)
    """
    line = Line(1, "ring", "")
    async with filled.connected(rows, pinned=True) as connection:
        (fresh,) = await concurrency.read_heads(connection, [line], 10)
        await concurrency.write_rounds(connection, [(line, "b")])
        (later,) = await concurrency.read_heads(connection, [line], 10)
        assert await concurrency.prune_rounds(connection, 10) == 0
        await concurrency.write_rounds(connection, [(Line(1, "gone", ""), "b")])
        assert await concurrency.prune_rounds(connection, 10) == 1
    assert [key for key, _ in fresh.waiting] == [1, 4, 5, 7, 2, 6]
    assert [key for key, _ in later.waiting] == [5, 7, 1, 4, 6, 2]
    assert plan(fresh).admit == [1, 4, 5, 7, 2]
