"""What has done its service goes, and nothing else does."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.loops.rig import rigged
from tests.loops.test_duties import holding

from stepwell_server.loops.pruner import Pruner
from stepwell_server.store import batches


async def test_old_batches_go(database_url: str) -> None:
    async with rigged(database_url) as rig:
        await rig.start()
        (young,) = [row[0] for row in await rig.sql.fetch("SELECT batch_id FROM batches")]
        old = "01900000-0000-7000-8000-000000000000"
        long_ago = rig.clock.now() - timedelta(hours=2)
        await rig.sql.execute("INSERT INTO batches VALUES ($1, 77, 1, $2, '{}')", old, long_ago)
        loop = Pruner(rig.connection, rig.clock, 60.0)
        assert await loop.run_once() == 1
        assert [row[0] for row in await rig.sql.fetch("SELECT batch_id FROM batches")] == [young]


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
