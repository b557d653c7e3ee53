"""Claims where keys take turns cost what they bring, with 100,000 tasks of 10,000 keys as with none."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import pytest
from tests.store.filled import Filled
from tests.store.plans import explained, scans
from tests.store.test_task_plans import connected

from stepwell_server.engine.committer import fair_claiming
from stepwell_server.engine.committer.protocols import Claim
from stepwell_server.engine.fairness import Rounds
from stepwell_server.store.fair_tasks import STATEMENTS

FAIR, ROWS = ("tasks", "tasks_fairness_idx"), ("tasks", "tasks_pkey")
GROW = """
INSERT INTO tasks
SELECT n, 0, 1, 'q', 2, 't' || (n % 2), n % 7, now() + n * interval '1 ms', '', 'k' || (n % 10000)
FROM generate_series(1, 100000) AS n;
ANALYZE tasks;
"""
TYPES = ["t0", "t1"]


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_keys_are_found_by_a_look_each(filled: Filled, is_grown: bool) -> None:
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        wanted = (1, "q", 2, TYPES, [""], "k5", 32767, 64, [1], [0])
        plan = await explained(connection.raw, STATEMENTS["find_fairness_keys"], *wanted)
        assert set(scans(plan)) == {FAIR}
        assert scans(plan)[FAIR] == (2 * 64 if is_grown else 0)


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_tasks_of_keys_are_found_and_locked_alone(filled: Filled, is_grown: bool) -> None:
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        wanted = (1, "q", 2, TYPES, [""], ["k1", "k2", "k3"], [2, 1, 3], [1], [0])
        plan = await explained(connection.raw, STATEMENTS["claim_fair_tasks"], *wanted)
        read = scans(plan)
        assert set(read) == {FAIR, ROWS}
        assert read[FAIR] <= 3 * 10
        assert read[ROWS] == (6 if is_grown else 0)
        assert sum(part.rows for part in plan.parts() if part.kind == "LockRows") <= (6 if is_grown else 0)


async def test_ten_thousand_keys_have_their_turns(filled: Filled) -> None:
    """None twice before the round is over. Two claims of a transaction that serve the same keys share no task."""
    async with connected(await filled.url(GROW), pinned=True) as (_, connection):
        claim = Claim(1, "main", "q", 2, tuple(TYPES), uuid4(), "worker", (), 256)
        async with connection.transaction():
            first = await fair_claiming.find(connection, claim, Rounds(), {"k10": 3}, 256, [])
            second = await fair_claiming.find(connection, claim, Rounds(), {"k10": 3}, 256, first)
        assert (len(first), len(second)) == (256, 256)
        assert not set(first) & set(second)
        counts = Counter(task[0] % 10_000 for task in first + second)
        assert counts.pop(10) == 6
        assert set(counts.values()) == {2}
