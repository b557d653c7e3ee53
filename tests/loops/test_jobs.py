"""What time does to jobs: they begin, expire with their worker's session, and are forgotten."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any
from uuid import UUID

from tests.loops.rig import Rig, job_timers, rigged, until
from tests.loops.test_duties import expiry, timers

from stepwell_server.engine.activities import CompleteActivity, Outcome
from stepwell_server.engine.committer import Claim
from stepwell_server.engine.jobs import NewJob, RetryJob, StartedJob, StartJob, SteeredJob
from stepwell_server.engine.starts import Reuse
from stepwell_server.loops.deadlines import Deadlines
from stepwell_server.loops.partitions import Partitions
from stepwell_server.loops.pruner import Pruner
from stepwell_server.loops.retention import JobRetention
from stepwell_server.loops.timers import Alarms
from stepwell_server.model.jobs import JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import JSON, NULL, Payload
from stepwell_server.model.steps import RetryPolicy, StepDetails, Timeouts
from stepwell_server.model.tasks import JobGrant, TaskKind
from stepwell_server.store import leftovers

ONCE = RetryPolicy(maximum_attempts=1)


async def start(rig: Rig, **fields: Any) -> int:
    new = NewJob(**{"namespace_id": 1, "namespace": "main", "type": "act", "task_queue": "q", **fields})
    return (await rig.committers.do(StartedJob, StartJob(new))).job_key


async def claim(rig: Rig, session_id: UUID) -> JobGrant:
    order = Claim(1, "main", "q", TaskKind.ACTIVITY, ("act",), session_id, "worker", (), 1)
    (grant,) = await rig.committers.do(list, order)
    assert isinstance(grant, JobGrant)
    return grant


async def finish(rig: Rig, **fields: Any) -> int:
    """A job that has been done."""
    key = await start(rig, **fields)
    grant = await claim(rig, await rig.open_session())
    order = CompleteActivity(JobRef(1, "main", key), JOB_ORDINAL, grant.session_id, grant.token, NULL)
    await rig.committers.do(Outcome, order)
    return key


async def state(rig: Rig, key: int) -> int | None:
    found = "SELECT state FROM jobs WHERE job_key = $1 UNION ALL SELECT state FROM closed_jobs WHERE job_key = $1"
    value: int | None = await rig.sql.fetchval(found, key)
    return value


async def count(rig: Rig, table: str) -> int:
    value: int = await rig.sql.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608 - ours
    return value


# --- begins and timeouts ----------------------------------------------------------------------------------------------


async def test_a_delayed_job_begins_and_one_without_heartbeats_fails(database_url: str) -> None:
    async with rigged(database_url) as rig:
        delayed = await start(rig, delay_seconds=60.0)
        silent = await start(rig, details=StepDetails(retry=ONCE, timeouts=Timeouts(heartbeat=60.0)))
        await claim(rig, await rig.open_session())
        loop = job_timers(rig)
        assert await loop.run_once() == 0
        past = rig.clock.now() - timedelta(seconds=5)
        await rig.sql.execute(
            "UPDATE jobs SET wake_time = $1, schedule_time = $1, start_time = start_time - '1 h'::interval", past
        )
        assert await loop.run_once() == 2
        assert (await state(rig, delayed), await state(rig, silent)) == (1, 5)
        assert await rig.sql.fetchval("SELECT run_key FROM tasks") == delayed
        assert await loop.run_once() == 0


async def test_a_job_is_not_late_by_a_poll(database_url: str) -> None:
    """What any replica commits nudges the leader's timers, though they would look again in a minute only."""
    async with rigged(database_url) as rig:
        leading = job_timers(rig)
        deadlines = Deadlines(rig.connection, rig.committers, rig.clock, 60.0)
        here = Alarms(timers(rig), deadlines, leading, lambda: True, lambda *_: None)
        there = Alarms(timers(rig), deadlines, leading, lambda: False, here.hinted)
        leading.start()
        for place, listener in enumerate((here, there), 1):
            for member in rig.committers.members:
                member._listener = listener
            await start(rig, delay_seconds=0.2)
            await until(functools.partial(_has_tasks, rig, place))
        await leading.stop()


async def _has_tasks(rig: Rig, number: int) -> bool:
    return await count(rig, "tasks") == number


# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_a_job_of_an_expired_session_returns_its_attempt_spent(database_url: str) -> None:
    async with rigged(database_url) as rig:
        await start(rig)
        await claim(rig, await rig.open_session(-1.0))
        last = await start(rig, details=StepDetails(retry=ONCE), task_queue="q")
        await claim(rig, await rig.open_session(-1.0))
        assert await expiry(rig).run_once() == 4
        (row,) = await rig.sql.fetch("SELECT state, attempt, session_id FROM jobs")
        assert tuple(row) == (1, 1, None)
        assert await state(rig, last) == 5
        assert await count(rig, "tasks") == 1


async def test_a_grant_that_overtook_the_expiry_returns(database_url: str) -> None:
    async with rigged(database_url) as rig:
        key = await start(rig)
        session_id = await rig.open_session()
        await claim(rig, session_id)
        await rig.sql.execute("DELETE FROM sessions")
        assert await expiry(rig).run_once() == 1
        assert await state(rig, key) == 1


# --- retention --------------------------------------------------------------------------------------------------------


async def test_a_job_is_forgotten_when_its_own_retention_is_over(database_url: str) -> None:
    """With its input, its id and its unique key; others stay, and the key may be used again."""
    async with rigged(database_url) as rig:
        given = Payload(JSON, b"1")
        gone = await finish(rig, unique_key="gone", input=given)
        kept = await finish(rig, unique_key="kept", input=given, retention_seconds=3600.0)
        open_ = await start(rig, input=given)
        loop = JobRetention(rig.connection, rig.clock, 60.0)
        assert await loop.run_once() == 1
        assert await loop.run_once() == 0
        assert (await state(rig, gone), await state(rig, kept), await state(rig, open_)) == (None, 4, 1)
        assert [await count(rig, table) for table in ("job_inputs", "job_ids", "unique_jobs")] == [2, 2, 1]
        new = NewJob(1, "main", "act", "q", unique_key="gone")
        assert (await rig.committers.do(StartedJob, StartJob(new, reuse=Reuse.REJECT))).started


async def test_a_key_that_went_on_to_another_job_stays_with_it(database_url: str) -> None:
    async with rigged(database_url) as rig:
        await finish(rig, unique_key="u")
        later = await start(rig, unique_key="u")
        assert await JobRetention(rig.connection, rig.clock, 60.0).run_once() == 1
        assert await rig.sql.fetchval("SELECT job_key FROM unique_jobs") == later


async def test_a_job_that_is_just_being_retried_is_not_forgotten(database_url: str) -> None:
    """Retention passes by a row that somebody holds; and a retry of one that was forgotten finds nothing."""
    async with rigged(database_url) as rig:
        key = await finish(rig)
        loop = JobRetention(rig.connection, rig.clock, 60.0)
        async with rig.sql.transaction():
            await rig.sql.execute("SELECT * FROM closed_jobs FOR UPDATE")
            assert await loop.run_once() == 0
        await rig.sql.execute("UPDATE closed_jobs SET state = 5")
        assert (await rig.committers.do(SteeredJob, RetryJob(JobRef(1, "main", key)))).accepted
        assert await loop.run_once() == 0
        assert await state(rig, key) == 1


async def test_retention_takes_more_than_a_slice_in_a_round(database_url: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("stepwell_server.loops.retention._ROWS", 2)
    async with rigged(database_url) as rig:
        for _ in range(5):
            await finish(rig)
        assert await JobRetention(rig.connection, rig.clock, 60.0).run_once() == 5


async def test_the_emptied_partition_of_an_old_range_is_dropped(database_url: str) -> None:
    """One that still holds something stays, and so does the range in use and the one before it."""
    async with rigged(database_url) as rig:
        key = await start(rig, input=Payload(JSON, b"1"))
        await rig.sql.execute("SELECT setval('run_key_blocks', 25000)")
        await Partitions(rig.connection, 60.0).run_once()
        loop = JobRetention(rig.connection, rig.clock, 60.0)
        await loop.run_once()
        assert await partitions_of(rig, "closed_jobs") == ["closed_jobs_p3", "closed_jobs_p4", "closed_jobs_rest"]
        assert "job_inputs_p1" in await partitions_of(rig, "job_inputs")
        grant = await claim(rig, await rig.open_session())
        order = CompleteActivity(JobRef(1, "main", key), JOB_ORDINAL, grant.session_id, grant.token, NULL)
        await rig.committers.do(Outcome, order)
        assert await rig.sql.fetchval("SELECT tableoid::regclass::text FROM closed_jobs") == "closed_jobs_rest"
        await loop.run_once()
        assert await state(rig, key) is None
        assert "job_inputs_p1" not in await partitions_of(rig, "job_inputs")


async def test_a_partition_is_not_dropped_under_who_reads_it(database_url: str) -> None:
    """It is tried again later, and nobody queues behind the try for long."""
    async with rigged(database_url) as rig:
        await rig.sql.execute("SELECT setval('run_key_blocks', 25000)")
        loop = JobRetention(rig.connection, rig.clock, 60.0)
        async with rig.sql.transaction():
            await rig.sql.execute("SELECT count(*) FROM closed_jobs")
            await loop.run_once()
            assert "closed_jobs_p1" in await partitions_of(rig, "closed_jobs")
        await loop.run_once()
        assert "closed_jobs_p1" not in await partitions_of(rig, "closed_jobs")


async def partitions_of(rig: Rig, table: str) -> list[str]:
    names = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::regclass ORDER BY 1"
    return [row[0] for row in await rig.sql.fetch(names, table)]


async def test_the_heartbeat_of_an_open_job_is_not_pruned(database_url: str) -> None:
    """That of an ended one is."""
    async with rigged(database_url) as rig:
        open_, ended = await start(rig), await start(rig)
        await rig.sql.executemany("INSERT INTO heartbeats VALUES ($1, -1, now(), NULL)", [(open_,), (ended,)])
        await rig.sql.execute("DELETE FROM jobs WHERE job_key = $1", ended)
        assert await Pruner(rig.connection, rig.clock, 60.0).run_once() == 1
        assert await rig.sql.fetchval("SELECT run_key FROM heartbeats") == open_
        async with rig.connection.use() as connection:
            assert await leftovers.prune_jobs(connection, rig.clock.now(), 1) == 0
