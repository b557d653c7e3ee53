"""Removing ended runs: all that is theirs goes, nothing of others does, and whoever opens one again wins wholly."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.engine.replica import MAIN, Look, Replica, look, ref, replica
from tests.loops.rig import until

from stepwell_server import errors
from stepwell_server.engine.driven_events import AppendEvent
from stepwell_server.engine.mending import Mended, RetryRun
from stepwell_server.engine.runs import TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import Started
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import JSON, NULL, Payload
from stepwell_server.model.runs import ClosedRun, RunDetails, pack_details
from stepwell_server.store import batches, removal, schema
from stepwell_server.store.removal import Candidate, Wanted

KEYED = {table.name for table in schema.METADATA.tables.values() if "run_key" in table.columns}
LATER = Wanted(MAIN, datetime(2100, 1, 1, tzinfo=UTC))


async def failed(one: Replica, **fields: Any) -> Started:
    """A run that has ended badly, with some of everything."""
    started = await one.start(**fields)
    for signal_id in (None, f"id-{started.run_key}"):
        await one.do(SignalRun(ref(started), "go", NULL, signal_id))
    await one.do(AppendEvent(ref(started), "note", Payload(JSON, b"1"), 7, 0))
    await one.do(TerminateRun(ref(started), ""))
    return started


async def left_of(database: Look, keys: Collection[int]) -> dict[str, int]:
    """In which tables there is something of runs, and how much."""
    counts = {
        name: await database.value(f"SELECT count(*) FROM {name} WHERE run_key = ANY($1::bigint[])", list(keys))  # noqa: S608
        for name in sorted(KEYED)
    }
    return {name: count for name, count in counts.items() if count}


async def clean(one: Replica, wanted: Wanted = LATER, most: int = 1_000) -> int:
    return (await removal.clean_up(one.database, wanted, 0, most)).runs


@asynccontextmanager
async def removing(one: Replica, *keys: int) -> AsyncIterator[tuple[AsyncConnection, list[Any]]]:
    """A removal that has its locks and has not begun; it takes what it has when the block ends."""
    async with one.database.pool.begin() as connection:
        ended = await removal.lock(connection, keys)
        yield connection, ended
        await removal.take(connection, ended)


def test_every_table_of_runs_is_emptied_or_left_for_a_reason() -> None:
    """Whoever adds a table with a run_key says here what becomes of it."""
    emptied = [table.name for table in removal.TABLES]
    assert sorted([*emptied, *removal.LEFT]) == sorted(KEYED)
    assert all(removal.LEFT.values())


def test_portions_are_bounded_by_runs_and_by_events() -> None:
    small = [Candidate(key, 1) for key in range(250)]
    assert [len(portion) for portion in removal.portions(small)] == [100, 100, 50]
    large = [Candidate(1, 15_000), Candidate(2, 15_000), Candidate(3, 90_000), Candidate(4, 1), Candidate(5, 1)]
    assert list(removal.portions(large)) == [[1], [2], [3], [4, 5]]
    assert list(removal.portions([])) == []


async def test_an_ended_run_goes_whole_and_an_open_one_stays_whole(database_url: str) -> None:
    async with replica(database_url) as one, look(database_url) as database:
        gone = await failed(one, workflow_id="gone")
        stays = await one.start(workflow_id="stays")
        await one.do(SignalRun(ref(stays), "go", NULL))
        await database.rows(
            "INSERT INTO published (run_key, name, payload, publish_time) VALUES ($1, 'n', NULL, now())", gone.run_key
        )
        before = await left_of(database, [stays.run_key])
        assert set(await left_of(database, [gone.run_key])) > {
            "events",
            "run_ids",
            "signals",
            "caller_seqs",
            "published",
        }
        assert await clean(one) == 1
        assert await left_of(database, [gone.run_key]) == {}
        assert await left_of(database, [stays.run_key]) == before
        # Its name and its id may be used again.
        await one.start(workflow_id="gone", run_id=gone.run_id)
        await database.check()


async def test_the_cutoff_is_strict_and_the_namespace_is_kept_to(database_url: str) -> None:
    async with replica(database_url) as one, look(database_url) as database:
        started = await failed(one)
        end = await database.value("SELECT end_time FROM closed_runs")
        assert await clean(one, Wanted(MAIN, end)) == 0
        assert await clean(one, Wanted(MAIN + 1, end + timedelta(days=1))) == 0
        assert await clean(one, Wanted(MAIN, end + timedelta(microseconds=1))) == 1
        assert await left_of(database, [started.run_key]) == {}


async def test_a_name_that_another_run_bears_stays(database_url: str) -> None:
    async with replica(database_url) as one, look(database_url) as database:
        old = await failed(one, workflow_id="w")
        new = await one.start(workflow_id="w")
        assert await clean(one) == 1
        assert await left_of(database, [old.run_key]) == {}
        assert await database.value("SELECT run_key FROM workflow_ids WHERE workflow_id = 'w'") == new.run_key


async def test_a_retry_that_comes_second_finds_no_run(database_url: str) -> None:
    """It waits for the removal, and then does not go on with half a record."""
    async with replica(database_url) as one, look(database_url) as database:
        started = await failed(one)
        async with removing(one, started.run_key) as (_, ended):
            assert len(ended) == 1
            retried = one.submit(RetryRun(ref(started), (), ""))
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            await until(lambda: database.value(waiting))
        with pytest.raises(errors.RunNotFound):
            await retried
        assert await left_of(database, [started.run_key]) == {}
        await database.check()


async def test_a_removal_that_comes_second_leaves_the_run(database_url: str) -> None:
    """Somebody has taken its row out of the ended ones and has not committed yet."""
    async with replica(database_url) as one, look(database_url) as database, look(database_url) as other:
        started = await failed(one)
        before = await left_of(database, [started.run_key])
        reopening = other.raw.transaction()
        await reopening.start()
        await other.rows("DELETE FROM closed_runs WHERE run_key = $1", started.run_key)
        assert await clean(one) == 0
        assert await removal.remove_one(one.database, started.run_key, None, datetime.now(UTC)) is None
        await reopening.rollback()
        assert await left_of(database, [started.run_key]) == before


async def test_a_run_that_was_opened_and_ended_meanwhile_is_looked_at_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the decision to open it and the write another replica has done so, and the run has ended again."""
    async with replica(database_url) as one, replica(database_url) as other, look(database_url) as database:
        started = await failed(one)
        write = batches.write
        done: list[bool] = []

        async def late(*args: Any) -> None:
            if not done:
                done.append(True)
                await other.do(RetryRun(ref(started), (), ""))
                await other.do(TerminateRun(ref(started), ""))
            await write(*args)

        monkeypatch.setattr(batches, "write", late)
        await one.do(RetryRun(ref(started), (), ""))
        kinds = [row[0] for row in await database.rows("SELECT type FROM events ORDER BY number")]
        assert kinds.count(EventType.RUN_RETRIED) == 2
        await database.check()


async def test_of_a_retry_and_a_removal_one_wins_wholly(database_url: str) -> None:
    """At the same time, over and over: the run is there and whole, or it is gone and the retry says so."""
    async with replica(database_url) as one, replica(database_url) as other, look(database_url) as database:
        won = set()
        for place in range(25):
            started = await failed(one, workflow_id=f"w{place}")
            before = await left_of(database, [started.run_key])
            retried, count = await asyncio.gather(
                other.submit(RetryRun(ref(started), (), "")), clean(one), return_exceptions=True
            )
            after = await left_of(database, [started.run_key])
            won.add(count)
            if count:
                assert isinstance(retried, errors.RunNotFound)
                assert after == {}
            else:
                assert isinstance(retried, Mended)
                assert after["events"] == before["events"] + 1
                await one.do(TerminateRun(ref(started), ""))
                assert await clean(one) == 1
            await database.check()
        assert won


async def test_a_run_whose_name_is_just_being_given_away_is_left_for_later(database_url: str) -> None:
    """Waiting for it could be waiting for each other: the start holds the name, and wants what the removal holds."""
    async with replica(database_url) as one, look(database_url) as database, look(database_url) as other:
        held, free = await failed(one, workflow_id="held"), await failed(one, workflow_id="free")
        async with other.raw.transaction():
            await other.rows("SELECT FROM workflow_ids WHERE workflow_id = 'held' FOR UPDATE")
            assert await clean(one) == 1
        assert await left_of(database, [free.run_key]) == {}
        assert await clean(one) == 1
        assert await left_of(database, [held.run_key]) == {}


async def test_signals_on_their_way_to_an_open_run_keep_the_run_before_it(database_url: str) -> None:
    async with replica(database_url) as one, look(database_url) as database:
        before, after = await failed(one), await one.start()
        details = pack_details(RunDetails(continued_key=after.run_key, keeps_signals=True))
        await database.rows("UPDATE closed_runs SET details = $1", details)
        await database.rows("UPDATE signals SET consumed = FALSE WHERE run_key = $1", before.run_key)
        assert await clean(one) == 0
        await one.do(TerminateRun(ref(after), ""))
        assert await clean(one) == 2


async def test_a_walk_goes_on_where_it_stopped(database_url: str) -> None:
    async with replica(database_url) as one, look(database_url) as database:
        keys = [(await failed(one)).run_key for _ in range(5)]
        kept = await one.start()
        first = await removal.clean_up(one.database, LATER, 0, 2)
        assert (first.runs, first.after) == (2, keys[1])
        second = await removal.clean_up(one.database, LATER, keys[1], 2)
        assert (second.runs, second.after) == (2, keys[3])
        last = await removal.clean_up(one.database, LATER, keys[3], 2)
        assert (last.runs, last.after) == (1, None)
        assert await database.value("SELECT array_agg(run_key) FROM run_ids") == [kept.run_key]


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_of_open_runs_goes(database_url: str, seed: int) -> None:
    """A random mix of runs that are open, ended, and opened again, of names that several bore; cut at a random time."""
    draw = random.Random(seed)
    async with replica(database_url) as one, look(database_url) as database:
        runs: list[Started] = []
        for place in range(20):
            name = draw.choice(["", f"w{place}", "shared"])
            if await _is_open(database, name):
                name = ""
            runs.append(await (failed(one, workflow_id=name) if draw.random() < 0.6 else one.start(workflow_id=name)))
            await asyncio.gather(one.submit(SignalRun(ref(runs[-1]), "go", NULL)), return_exceptions=True)
            if draw.random() < 0.3:
                await asyncio.gather(one.submit(RetryRun(ref(draw.choice(runs)), (), "")), return_exceptions=True)
        cutoff = await database.value("SELECT percentile_disc(0.6) WITHIN GROUP (ORDER BY end_time) FROM closed_runs")
        keys = {run.run_key for run in runs}
        before = {key: await left_of(database, [key]) for key in keys}
        gone = {row[0] for row in await database.rows("SELECT run_key FROM closed_runs WHERE end_time < $1", cutoff)}
        assert await clean(one, Wanted(MAIN, cutoff), most=1_000) == len(gone)
        for key in keys:
            assert await left_of(database, [key]) == ({} if key in gone else before[key])
        await database.check()


async def _is_open(database: Look, name: str) -> bool:
    return bool(await database.value("SELECT EXISTS (SELECT FROM runs WHERE workflow_id = $1)", name))


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_go_in_small_transactions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, none takes more than a hundred runs, nor long enough to be in anybody's way."""
    count = 100_000
    async with replica(database_url) as one, look(database_url) as database:
        kept, first = await one.start(workflow_id="kept"), await failed(one)
        for table in ("closed_runs", "events", "run_ids"):
            # A UUID of its own for each row of those that have one.
            own = "'run_id', md5(n::text)::uuid" if table != "events" else "'origin', origin"
            await database.raw.execute(
                f"""INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object(
                'run_key', run_key + n, {own}))).* FROM {table} AS t, generate_series(1, $1) AS n
                WHERE run_key = $2""",  # noqa: S608 - ours
                count - 1,
                first.run_key,
                timeout=300,
            )
        take, sizes, longest = removal.take, list[int](), 0.0

        async def measured(connection: AsyncConnection, ended: Sequence[ClosedRun]) -> None:
            nonlocal longest
            began = time.monotonic()
            await take(connection, ended)
            sizes.append(len(ended))
            longest = max(longest, time.monotonic() - began)

        monkeypatch.setattr(removal, "take", measured)
        after: int | None = 0
        while after is not None:
            after = (await removal.clean_up(one.database, LATER, after, 1_000)).after
        assert (sum(sizes), max(sizes)) == (count, 100)
        assert longest < 5
        assert await database.value("SELECT array_agg(run_key) FROM run_ids") == [kept.run_key]
        assert await database.value("SELECT count(DISTINCT run_key) FROM events") == 1
