"""Plans of the statements about topics: keys are looked up, on an empty database as on one that has grown."""

from __future__ import annotations

from typing import Any

import pytest
from tests.store.filled import Filled
from tests.store.plans import explained, scans

from stepwell_server.store.sides import SIDES
from stepwell_server.store.topics import TOPICS

# A hundred topics of a thousand events and a thousand waits each; of the events a tenth are on their way.
GROW = """
INSERT INTO topic_events
SELECT
    1, 't' || (n % 100), n, now(), CASE WHEN n / 100 % 2 = 0 THEN now() + n * interval '1 s' END, n % 10 <> 0, 1, 'x',
    NULL
FROM generate_series(1, 100000) AS n;
INSERT INTO topic_waits SELECT n, 1, 1, 't' || (n % 100), 0 FROM generate_series(1, 100000) AS n;
INSERT INTO topic_positions
SELECT n, 't' || (n % 100), 1, now() + n * interval '1 s' FROM generate_series(1, 100000) AS n;
ANALYZE;
"""
LATER = "2999-01-01T00:00:00Z"
EVENTS, WAITS, POSITIONS = ("topic_events", "topic_waits", "topic_positions")
# Arguments, and how many rows may be read by which index.
LOOKS: dict[str, tuple[tuple[Any, ...], dict[tuple[str, str], int]]] = {
    "read_topics": (
        ([0, 1], [1, 1], ["t1", "t2"], [1, 2], [0, 0], "2020-01-01T00:00:00Z", 4),
        {(EVENTS, "topic_events_pkey"): 2 * (1 + 2 * 4), (POSITIONS, "topic_positions_pkey"): 2},
    ),
    "read_undelivered": ((1_024, 100), {(EVENTS, "topic_events_number_idx"): 1_024}),
    "read_waiting": (
        ([0, 1], [1, 1], ["t1", "t2"], [200_000, 200_000], [50_000, 0], [128, 64]),
        {(WAITS, "topic_waits_topic_idx"): 192},
    ),
    "prune_topic_events": (
        (LATER, 100),
        {(EVENTS, "topic_events_retain_idx"): 100, (EVENTS, "topic_events_pkey"): 100},
    ),
    "prune_topic_positions": (
        (LATER, 100),
        {(POSITIONS, "topic_positions_expire_idx"): 100, (POSITIONS, "topic_positions_pkey"): 100},
    ),
    "note_delivered": (([1, 1], ["t0", "t0"], [1_000, 2_000]), {(EVENTS, "topic_events_pkey"): 2 * 2}),
    "delete_topic_waits": (([5, 6], [1, 1]), {(WAITS, "topic_waits_pkey"): 2}),
}


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
@pytest.mark.parametrize("name", LOOKS)
async def test_a_look_reads_what_it_brings(filled: Filled, name: str, is_grown: bool) -> None:
    arguments, most = LOOKS[name]
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        plan = await explained(connection.raw, (TOPICS | SIDES)[name], *arguments)
        # What writes names its table, too, but walks nothing.
        writes = {part.scan for part in plan.parts() if part.kind == "ModifyTable"}
        read = {index: rows for index, rows in scans(plan).items() if index not in writes}
        assert set(read) == set(most)
        assert {index: rows for index, rows in read.items() if rows > most[index]} == {}
        assert (sum(read.values()) > 0) is is_grown


async def test_an_event_is_copied_by_its_key(filled: Filled) -> None:
    async with filled.connected(GROW, pinned=True) as connection:
        columns = ([1], [1], [1], [LATER], ["x"], [1], ["t1"], [101])
        read = scans(await explained(connection.raw, TOPICS["copy_topic_events"], *columns, 55, 1))
        assert {place: rows for place, rows in read.items() if place[0] == EVENTS} == {(EVENTS, "topic_events_pkey"): 1}
