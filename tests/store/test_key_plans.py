"""Where each key has a limit, claims cost what they look at, with 10,000 keys that are out of tokens as with none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.store.filled import Filled
from tests.store.plans import explained, scans
from tests.store.test_task_plans import connected

from stepwell_server.engine.committer import limited_claiming
from stepwell_server.engine.committer.key_rationing import KeyRationing
from stepwell_server.engine.committer.protocols import Claim
from stepwell_server.engine.key_limits import Walk
from stepwell_server.model.queue_settings import QueueSettings, RateLimit
from stepwell_server.store.connection import Connection
from stepwell_server.store.key_buckets import STATEMENTS

FAIR, ROWS, BUCKETS = ("tasks", "tasks_fairness_idx"), ("tasks", "tasks_pkey"), ("key_buckets", "key_buckets_pkey")
GROW = """
INSERT INTO tasks
SELECT n, 0, 1, 'q', 2, 't' || (n % 2), n % 7, now(), '', 'k' || lpad((n % 10000)::text, 4, '0')
FROM generate_series(1, 100000) AS n;
INSERT INTO key_buckets
SELECT 1, 'q', 'k' || lpad(n::text, 4, '0'), now() + (5000 + n / 4) * interval '1 s', 10000
FROM generate_series(0, 9999) AS n;
INSERT INTO key_buckets SELECT 1, 'r', 'k' || n, now(), 10 FROM generate_series(0, 9999) AS n;
ANALYZE tasks, key_buckets;
"""
WITH_ONE = (
    "UPDATE key_buckets SET spent_until = now() - interval '1 h' WHERE fairness_key = 'k7777' AND task_queue = 'q';"
)
TYPES = ["t0", "t1"]
NOW = datetime.now(UTC)
LATER, SOON = NOW + timedelta(days=1), NOW + timedelta(milliseconds=10)


def ration(now: datetime = NOW) -> KeyRationing:
    limit = RateLimit(0.0001, 1)
    row = QueueSettings(1, "q", 1, NOW, fairness_weights="{}")
    return KeyRationing(row, limit, now)


async def claimed(connection: Connection, walk: Walk, most: int = 64) -> tuple[list[Any], datetime | None]:
    claim = Claim(1, "main", "q", 2, tuple(TYPES), uuid4(), "worker", (), most)
    return await limited_claiming.find(connection, claim, walk, ration(), most, [], SOON)


@pytest.mark.parametrize(("most", "until"), [(64, LATER), (200, LATER), (200, NOW)], ids=["room", "keys", "spent"])
async def test_keys_are_found_by_two_looks_each(filled: Filled, most: int, until: datetime) -> None:
    """At a task and at a bucket, up to so many that have a token or so many in all, whatever waits."""
    looked = 128
    async with filled.connected(GROW, pinned=True) as connection:
        wanted = (1, "q", 2, TYPES, [""], "k0005", 32767, most, looked, [1], [0], until, 10_000.0, NOW)
        plan = await explained(connection.raw, STATEMENTS["find_limited_keys"], *wanted)
        read = scans(plan)
        seen = min(most, looked)
        assert read == {FAIR: len(TYPES) * seen, BUCKETS: seen}


async def test_the_same_on_empty_tables(filled: Filled) -> None:
    async with filled.connected(pinned=True) as connection:
        wanted = (1, "q", 2, TYPES, [""], "", -1, 64, 128, [1], [0], LATER, 10_000.0, NOW)
        plan = await explained(connection.raw, STATEMENTS["find_limited_keys"], *wanted)
        assert scans(plan) == {FAIR: 0, BUCKETS: 0}


async def test_ten_thousand_keys_without_tokens_are_looked_at_a_part_at_a_time(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim makes four looks at 64 keys. When all were seen it hears when the first has a token, and not before."""
    statements: list[tuple[str, int]] = []
    async with connected(await filled.url(GROW), pinned=True) as (_, connection):
        fetch = connection.fetch

        async def noted(statement: Any, *arguments: object) -> Any:
            rows = await fetch(statement, *arguments)
            statements.append((statement.name, len(rows)))
            return rows

        monkeypatch.setattr(connection, "fetch", noted)
        walk, claims = Walk(), 0
        while True:
            statements.clear()
            found, later = await claimed(connection, walk)
            claims += 1
            assert found == []
            assert len(statements) <= 4
            assert all(name == "find_limited_keys" and rows <= 64 for name, rows in statements)
            assert later is not None
            if later != SOON:
                break
            assert claims <= 40
        assert claims == 40
        first = await connection.raw.fetchval("SELECT min(spent_until) FROM key_buckets WHERE task_queue = 'q'")
        assert later - first == pytest.approx(timedelta(0), abs=timedelta(microseconds=2))


async def test_the_one_of_ten_thousand_that_has_a_token_is_found(filled: Filled) -> None:
    async with connected(await filled.url(GROW, WITH_ONE), pinned=True) as (_, connection):
        walk, found = Walk(), list[Any]()
        for _ in range(40):
            more, _ = await claimed(connection, walk)
            found += more
        assert [task[0] % 10_000 for task in found] == [7777]


async def test_what_comes_during_a_lap_is_found_by_the_next(filled: Filled) -> None:
    """Even if it is of a key that was passed already: the lap tells no time to wait for."""
    async with connected(await filled.url(GROW), pinned=True) as (_, connection):
        walk = Walk()
        for claims in range(1, 80):
            if claims == 10:
                assert walk.lap is not None
                walk.lap.counts = False
            _, later = await claimed(connection, walk)
            if later != SOON:
                break
        assert claims == 79


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_buckets_are_written_by_their_key(filled: Filled, is_grown: bool) -> None:
    async with filled.connected(*[GROW] * is_grown, pinned=True) as connection:
        spent: Mapping[str, list[Any]] = {"keys": [f"k000{n}" for n in range(5)], "until": [NOW] * 5}
        wanted = ([1] * 5, ["q"] * 5, spent["keys"], spent["until"], [1] * 5)
        plan = await explained(connection.raw, STATEMENTS["write_key_buckets"], *wanted)
        # Nothing is read; what is written has no index.
        assert set(scans(plan)) == {("key_buckets", "")}
        found = await connection.raw.fetchval("SELECT count(*) FROM key_buckets WHERE spent_until = $1", NOW)
        assert found == 5


async def test_pruning_reads_a_slice(filled: Filled) -> None:
    async with filled.connected(GROW, pinned=True) as connection:
        wanted = (1, "r", "", 1, "r", "k2", NOW + timedelta(days=2))
        plan = await explained(connection.raw, STATEMENTS["prune_key_buckets"], *wanted)
        assert set(scans(plan)) <= {BUCKETS, ("queue_settings", "queue_settings_pkey"), ("key_buckets", "")}
        assert scans(plan)[BUCKETS] <= 2 * 1112
