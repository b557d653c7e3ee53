"""What has done its service goes, and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.loops.rig import rigged
from tests.loops.test_duties import holding
from tests.store.plans import explained, scans

from stepwell_server.engine.runs import Steered, TerminateRun
from stepwell_server.ids import uuid7
from stepwell_server.loops.pruner import Pruner
from stepwell_server.model.runs import RunRef
from stepwell_server.store import batches, leftovers


async def test_old_batches_go(database_url: str) -> None:
    """Not one that was committed just now under an old id, by a machine whose clock is behind."""
    async with rigged(database_url) as rig:
        await rig.start()
        (young,) = [row[0] for row in await rig.sql.fetch("SELECT batch_id FROM batches")]
        old, behind = "01900000-0000-7000-8000-000000000000", "01900000-0000-7000-8000-000000000001"
        long_ago = rig.clock.now() - timedelta(hours=2)
        insert = "INSERT INTO batches VALUES ($1, 77, $2, $3, '{}')"
        await rig.sql.execute(insert, old, 1, long_ago)
        await rig.sql.execute(insert, behind, 2, rig.clock.now())
        loop = Pruner(rig.connection, rig.clock, 60.0)
        assert await loop.run_once() == 1
        left = {str(row[0]) for row in await rig.sql.fetch("SELECT batch_id FROM batches")}
        assert left == {str(young), behind}


async def test_heartbeats_of_ended_activities_go(database_url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("stepwell_server.loops.pruner._ROWS", 3)
    async with rigged(database_url) as rig:
        _, key, ordinal = await holding(rig, 30)
        beats = [(1, number) for number in range(10)] + [(key, ordinal), (key, ordinal + 1)]
        await rig.sql.executemany("INSERT INTO heartbeats VALUES ($1, $2, now(), NULL)", beats)
        assert await Pruner(rig.connection, rig.clock, 60.0).run_once() == 11
        left = await rig.sql.fetch("SELECT run_key, ordinal FROM heartbeats")
        assert [tuple(row) for row in left] == [(key, ordinal)]


async def test_old_signals_of_ended_runs_go(database_url: str) -> None:
    """A day after it came, the repeat of a signal to an ended run need not be recognised; an open run keeps its own.

    What nobody took of an ended run is on its way to the one that continues it.
    """
    async with rigged(database_url) as rig:
        open_run = await rig.start()
        row = "INSERT INTO signals VALUES ($1, 1, 's', 2, 'id', $3, $2, $1)"
        old, young = rig.clock.now() - timedelta(days=2), rig.clock.now()
        await rig.sql.executemany(row, [(open_run, old, True), (1, old, True), (2, young, True), (3, old, False)])
        assert await Pruner(rig.connection, rig.clock, 60.0).run_once() == 1
        left = await rig.sql.fetch("SELECT run_key FROM signals ORDER BY run_key")
        assert [row[0] for row in left] == [2, 3, open_run]


async def test_a_commit_that_nobody_answered_can_still_be_settled(database_url: str) -> None:
    """Pruning must not make a batch look as if it had never been, while its committer may still ask."""
    async with rigged(database_url) as rig:
        await rig.start()
        batch_id = await rig.sql.fetchval("SELECT batch_id FROM batches")
        await Pruner(rig.connection, rig.clock, 60.0).run_once()
        async with rig.connection.use() as connection:
            assert await batches.settle(connection, batch_id, rig.clock.now())


async def test_answers_go_after_a_day(database_url: str, monkeypatch: Any) -> None:
    """However many there are; until then a repeat hears them."""
    monkeypatch.setattr("stepwell_server.loops.pruner._ROWS", 3)
    async with rigged(database_url) as rig:
        row = "INSERT INTO requests VALUES ($1, 1, 'PauseRun', $2, $2, $3)"
        ages = [timedelta(hours=25)] * 10 + [timedelta(hours=23)]
        times = [rig.clock.now() - age for age in ages]
        await rig.sql.executemany(row, [(f"r{place}", b"", time) for place, time in enumerate(times)])
        assert await Pruner(rig.connection, rig.clock, 60.0).run_once() == 10
        assert [each[0] for each in await rig.sql.fetch("SELECT request_id FROM requests")] == ["r10"]


async def test_calls_that_nobody_waits_for_go_after_a_minute(database_url: str, monkeypatch: Any) -> None:
    """Left behind by a replica that was killed. However many there are, they go, some in each round."""
    monkeypatch.setattr("stepwell_server.loops.pruner._ROWS", 3)
    async with rigged(database_url) as rig:
        row = "INSERT INTO run_calls VALUES ($1, 1, 2, 'add', 'u', NULL, $2, NULL)"
        now = datetime.now(UTC)
        left = [uuid7(), uuid7()]
        ends = [now + timedelta(seconds=30), now - timedelta(seconds=30)] + [now - timedelta(seconds=90)] * 5
        await rig.sql.executemany(row, zip([*left, *(uuid7() for _ in range(5))], ends, strict=True))
        loop = Pruner(rig.connection, rig.clock, 60.0)
        assert [await loop.run_once() for _ in range(3)] == [3, 2, 0]
        assert {each[0] for each in await rig.sql.fetch("SELECT call_id FROM run_calls")} == set(left)


async def test_published_values_go_with_their_run(database_url: str, monkeypatch: Any) -> None:
    """Open runs and ended ones keep them; those of a run that was taken away go, a slice a round."""
    monkeypatch.setattr("stepwell_server.loops.pruner._ROWS", 2)
    async with rigged(database_url) as rig:
        opened, ended, gone = [await rig.start() for _ in range(3)]
        for key in (ended, gone):
            await rig.committers.do(Steered, TerminateRun(RunRef(1, "main", key), ""))
        values = [(key, name) for key in (opened, ended, gone) for name in "abc"]
        await rig.sql.executemany("INSERT INTO published VALUES ($1, $2, NULL, now())", values)
        loop = Pruner(rig.connection, rig.clock, 60.0)
        assert [await loop.run_once() for _ in range(6)] == [0] * 6
        await rig.sql.execute("DELETE FROM closed_runs WHERE run_key = $1", gone)
        assert sum([await loop.run_once() for _ in range(6)]) == 3
        kept = await rig.sql.fetch("SELECT run_key, name FROM published ORDER BY run_key, name")
        assert [tuple(row) for row in kept] == values[:6]


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_a_slice_of_published_values_reads_no_more_than_itself(database_url: str, is_grown: bool) -> None:
    async with rigged(database_url) as rig:
        if is_grown:
            await rig.sql.execute(
                "INSERT INTO published SELECT n, 'a', NULL, now() FROM generate_series(1, 50000) AS n"
            )
            await rig.sql.execute("ANALYZE published")
        found = scans(await explained(rig.sql, leftovers.LEFTOVERS["next_published"], 20_000, "", 1_000))
        assert found == {("published", "published_pkey"): 1_000 if is_grown else 0}
        plan = await explained(rig.sql, leftovers.LEFTOVERS["prune_published"], 20_000, "", 21_000, "")
        read = [part for part in plan.parts() if part.node.get("Relation Name") == "published"]
        assert all(part.rows <= 1_000 for part in read)


async def test_buckets_of_keys_go_when_nobody_needs_them(database_url: str, monkeypatch: Any) -> None:
    """Those that are full again, by this limit or a faster one than before, and those of queues without one."""
    monkeypatch.setattr("stepwell_server.loops.pruner._ROWS", 3)
    async with rigged(database_url) as rig:
        now = rig.clock.now()
        setting = "INSERT INTO queue_settings VALUES (1, $1, 1, $2, NULL, NULL, NULL, NULL, '{}', $3, $4)"
        long_ago = now - timedelta(hours=1)
        await rig.sql.executemany(
            setting, [("q", long_ago, 1.0, 600), ("new", now, 1.0, 600), ("off", now, None, None)]
        )
        rows = [
            *(("q", f"full{number}", now - timedelta(seconds=1), 600.0) for number in range(10)),
            *(("q", f"spent{number}", now + timedelta(seconds=60), 600.0) for number in range(4)),
            ("q", "mended", now + timedelta(days=9), 1e6),
            ("new", "mended", now + timedelta(days=9), 1e6),
            ("off", "a", now + timedelta(days=9), 1e6),
            ("never", "a", now + timedelta(days=9), 1e6),
        ]
        await rig.sql.executemany("INSERT INTO key_buckets VALUES (1, $1, $2, $3, $4)", rows)
        loop = Pruner(rig.connection, rig.clock, 60.0)
        assert await loop.run_once() == 13
        left = await rig.sql.fetch("SELECT task_queue, fairness_key FROM key_buckets ORDER BY 1, 2")
        assert [tuple(row) for row in left] == [("new", "mended"), *(("q", f"spent{number}") for number in range(4))]


async def test_what_a_batch_is_writing_is_not_pruned(database_url: str) -> None:
    async with rigged(database_url) as rig, rig.database.pool.begin() as other:
        insert = "INSERT INTO key_buckets VALUES (1, 'q', 'a', now() - interval '1 s', 1)"
        await rig.sql.execute(insert)
        await other.exec_driver_sql("SELECT FROM key_buckets FOR UPDATE")
        loop = Pruner(rig.connection, rig.clock, 60.0)
        assert await loop.run_once() == 0
        await other.rollback()
        assert await loop.run_once() == 1


async def test_what_engines_noted_of_runs_that_are_not_there_goes(database_url: str, monkeypatch: Any) -> None:
    """Once it is older than what their namespace keeps; of a run that is there, or where all is kept, it stays."""
    monkeypatch.setattr("stepwell_server.loops.pruner._ROWS", 3)
    async with rigged(database_url) as rig:
        await rig.sql.execute("UPDATE namespaces SET retention_seconds = 86400 WHERE name = 'main'")
        await rig.sql.execute("INSERT INTO namespaces (name, create_time) VALUES ('keeps all', now())")
        other = await rig.sql.fetchval("SELECT namespace_id FROM namespaces WHERE name = 'keeps all'")
        await rig.start()
        there = await rig.sql.fetchval("SELECT run_id FROM run_ids")
        old, young = rig.clock.now() - timedelta(days=2), rig.clock.now()
        rows = [(1, uuid7(), old) for _ in range(10)]
        kept = [(1, there, old), (1, uuid7(), young), (other, uuid7(), old)]
        dispatch = "INSERT INTO dispatches VALUES ($1, $2, 's', $3, '', NULL)"
        await rig.sql.executemany(dispatch, [*rows, *kept])
        key = "INSERT INTO idempotency_keys VALUES ($1, 't', 'k', $2::uuid::text, $2, $3)"
        await rig.sql.executemany(key, [*rows, *kept])
        assert await Pruner(rig.connection, rig.clock, 60.0).run_once() == 20
        for table in ("dispatches", "idempotency_keys"):
            left = {row[0] for row in await rig.sql.fetch(f"SELECT run_id FROM {table}")}  # noqa: S608
            assert left == {run_id for _, run_id, _ in kept}
