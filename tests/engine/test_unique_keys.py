"""Unique keys on a real database: of one key one job is open, whoever asks where at the same moment."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from tests.engine.replica import MAIN, Look, Replica, look, replica
from tests.engine.test_job_batches import ONCE, check, claim, new_job, ref, start

from stepwell_server import errors
from stepwell_server.engine.activities import FailActivity
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.jobs import CancelJob, RetryJob, StartedJob, StartJob, SteeredJob
from stepwell_server.engine.starts import Conflict
from stepwell_server.model.jobs import JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import Failure
from stepwell_server.store import leftovers

JOBS = 24
# How many statements wait for somebody else's lock.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def failed(server: Replica, unique_key: str, **fields: float) -> StartedJob:
    """A job that has failed for good."""
    started = await start(server, unique_key=unique_key, details=ONCE, **fields)
    (grant,) = await claim(server)
    await server.do(FailActivity(ref(started), JOB_ORDINAL, server.session, grant.token, Failure("no")))
    return started


async def bearer(database: Look, unique_key: str) -> int | None:
    """Which job the key leads to."""
    found: int | None = await database.value("SELECT job_key FROM unique_jobs WHERE unique_key = $1", unique_key)
    return found


@pytest.mark.parametrize("borne_by", ["itself", "a later one"])
async def test_a_retry_and_a_start_of_one_key_at_once(database_url: str, borne_by: str) -> None:
    """On two replicas: whichever comes first, whether the old job bears the key or a later one."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        for place in range(30):
            key = f"u{place}"
            old = await failed(one, key)
            if borne_by == "a later one":
                await failed(one, key)
            start_anew = StartJob(new_job(unique_key=key))
            answers = await asyncio.gather(
                one.submit(RetryJob(ref(old))), two.submit(start_anew), return_exceptions=True
            )
            assert [isinstance(answer, errors.UniqueKeyInUse) for answer in answers].count(True) == 1, answers
            (open_job,) = await database.rows("SELECT job_key FROM jobs WHERE unique_key = $1", key)
            assert await bearer(database, key) == open_job[0]
            await one.do(CancelJob(JobRef(MAIN, "main", open_job[0]), ""))
        await check(database)


async def test_a_retried_job_has_its_key_again_when_nobody_is_left_who_bears_it(database_url: str) -> None:
    """A later job of the key was forgotten, and with it whom the key led to."""
    async with replica(database_url) as one, look(database_url) as database:
        old = await failed(one, "u", retention_seconds=1e6)
        await failed(one, "u")
        connection = await one.database.connect()
        assert await leftovers.prune_jobs(connection, datetime.now(UTC) + timedelta(seconds=1), 100) == 1
        await connection.close()
        assert await bearer(database, "u") is None
        answer = await one.do(RetryJob(ref(old)))
        assert isinstance(answer, SteeredJob)
        with pytest.raises(errors.UniqueKeyInUse):
            await start(one, unique_key="u")
        assert await bearer(database, "u") == old.job_key
        await check(database)


async def test_a_key_that_leads_nowhere_is_free(database_url: str) -> None:
    """Nothing should leave one behind. If something did, its name would not be lost for ever."""
    async with replica(database_url) as one, look(database_url) as database:
        await database.raw.execute("INSERT INTO unique_jobs VALUES ('u', 1, 999)")
        started = await start(one, unique_key="u")
        assert await bearer(database, "u") == started.job_key


@pytest.mark.parametrize("forgets_first", [True, False])
async def test_a_job_forgotten_while_it_is_retried(database_url: str, forgets_first: bool) -> None:
    """Either it is open, or it is gone with its key: never half of both."""
    async with replica(database_url) as one, look(database_url) as database:
        connection = await one.database.connect()
        for place in range(20):
            old = await failed(one, f"u{place}")
            retried = one.submit(RetryJob(ref(old))) if not forgets_first else None
            later = datetime.now(UTC) + timedelta(seconds=1)
            pruning = asyncio.ensure_future(leftovers.prune_jobs(connection, later, 100))
            retried = retried or one.submit(RetryJob(ref(old)))
            _, answer = await asyncio.gather(pruning, retried, return_exceptions=True)
            known = await database.value("SELECT count(*) FROM job_ids WHERE job_key = $1", old.job_key)
            assert known == isinstance(answer, SteeredJob)
            if isinstance(answer, SteeredJob):
                assert await bearer(database, f"u{place}") == old.job_key
                await one.do(CancelJob(ref(old), ""))
            else:
                assert isinstance(answer, errors.JobNotFound)
                assert await bearer(database, f"u{place}") is None
        await check(database)
        await connection.close()


async def test_a_retry_that_comes_behind_retention_finds_nothing(database_url: str) -> None:
    """It has read the job, and waits for its row, when that goes. A job without a key has nothing else to meet at."""
    async with replica(database_url) as one, look(database_url) as database, look(database_url) as other:
        old = await failed(one, "")
        async with database.raw.transaction():
            for table in ("closed_jobs", "job_ids"):
                await database.raw.execute(f"DELETE FROM {table}")  # noqa: S608 - ours
            retried = one.submit(RetryJob(ref(old)))
            async with asyncio.timeout(60):
                while not await other.value(WAITING):  # noqa: ASYNC110 - another process does it
                    await asyncio.sleep(0.01)
        with pytest.raises(errors.JobNotFound):
            await retried
        assert await database.value("SELECT count(*) FROM jobs") == 0
        await check(database)


# --- several committers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("committers", [1, 2, 3])
@pytest.mark.parametrize("keyed", [True, False])
async def test_what_follows_a_start_finds_its_job(database_url: str, committers: int, keyed: bool) -> None:
    """A caller that waits for no answer: a start by unique key or by id, and a cancellation by id right after it."""
    async with replica(database_url, committers=committers) as server, look(database_url) as database:
        futures: list[asyncio.Future[object]] = []
        for place in range(JOBS):
            job_id = uuid4()
            unique_key = f"u{place}" if keyed else ""
            futures.append(server.submit(StartJob(new_job(job_id=job_id, unique_key=unique_key))))
            futures.append(server.submit(CancelJob(JobRef(MAIN, "main", job_id=job_id), "enough")))
        answers = await asyncio.gather(*futures)
        assert all(isinstance(answer, StartedJob) and answer.started for answer in answers[::2])
        assert all(isinstance(answer, SteeredJob) and answer.accepted for answer in answers[1::2])
        assert await database.value("SELECT count(*) FROM closed_jobs WHERE state = 7") == JOBS
        await check(database)


@pytest.mark.parametrize("named", ["by id", "by key"])
async def test_a_key_is_free_for_a_start_given_after_the_end(database_url: str, named: str) -> None:
    """The end goes by the job and the start by its unique key: both come to one committer, in their order."""
    async with replica(database_url, committers=3) as server, look(database_url) as database:
        jobs = [(await start(server, unique_key=f"u{place}"), f"u{place}") for place in range(JOBS)]
        again: list[asyncio.Future[object]] = []
        for started, key in jobs:
            ended = server.submit(CancelJob(_named(started, named), ""))
            if named == "by id":
                await ended  # an id without a start under way must be looked up, and may come later
            again.append(server.submit(StartJob(new_job(unique_key=key))))
        answers = await asyncio.gather(*again)
        assert all(isinstance(answer, StartedJob) and answer.started for answer in answers)
        await check(database)


async def test_each_job_has_one_committer_of_a_replica(database_url: str) -> None:
    """Its start, its grant's report by key, its cancellation by id and its retry."""
    async with replica(database_url, committers=3) as server, look(database_url) as database:
        jobs = [await start(server, unique_key=f"u{place}", details=ONCE) for place in range(JOBS)]
        for grant in await claim(server, JOBS):
            report = FailActivity(
                JobRef(MAIN, "main", grant.job.job_key), JOB_ORDINAL, server.session, 1, Failure("no")
            )
            await server.do(report)
        for started in jobs:
            await server.do(RetryJob(_named(started, "by id")))
            await server.do(CancelJob(_named(started, "by id"), ""))
        # A claim goes by its queue, under the job's lock.
        claimer = {number for number, _, changes in server.ears.batches if any(each.news.claims for each in changes)}
        deciders: dict[int, set[int]] = {}
        for number, _, changes in server.ears.batches:
            for change in changes:
                if isinstance(change, JobChange) and change.has_changed and not change.news.claims:
                    deciders.setdefault(change.key, set()).add(number)
        assert len(claimer) == 1
        assert {len(deciders[started.job_key]) for started in jobs} == {1}
        assert len(set().union(*deciders.values())) == 3
        await check(database)


async def test_starts_of_one_key_on_three_committers_make_one_job(database_url: str) -> None:
    async with replica(database_url, committers=3) as server, look(database_url) as database:
        orders = [StartJob(new_job(unique_key="u", job_id=uuid4()), conflict=Conflict.USE_EXISTING) for _ in range(50)]
        answers = await asyncio.gather(*(server.do(order) for order in orders))
        assert len({answer.job_id for answer in answers}) == 1
        assert sum(answer.started for answer in answers) == 1
        await check(database)


def _named(started: StartedJob, named: str) -> JobRef:
    job_id: UUID | None = started.job_id if named == "by id" else None
    return JobRef(MAIN, "main", None if job_id else started.job_key, job_id)
