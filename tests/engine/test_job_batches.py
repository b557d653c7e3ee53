"""Jobs through the committer on a real Postgres: poison, locks, names and ids on two replicas, lost connections."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.engine.proxy import Lose, proxy
from tests.engine.replica import MAIN, Look, Replica, look, new_run, replica

from stepwell_server import errors, refusals
from stepwell_server.engine.activities import CompleteActivity, FailActivity, Outcome
from stepwell_server.engine.committer import Claim
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.jobs import CancelJob, NewJob, RetryJob, StartedJob, StartJob, SteeredJob
from stepwell_server.engine.starts import Conflict, Started, StartRun
from stepwell_server.model.jobs import JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import JSON, Failure, Payload
from stepwell_server.model.steps import RetryPolicy, StepDetails
from stepwell_server.model.tasks import JobGrant, TaskKind
from stepwell_server.store import job_batches

FIRST_KEY = 1_000
CAME = Payload(JSON, b'"out"')
ONCE = StepDetails(retry=RetryPolicy(maximum_attempts=1))


def new_job(**fields: Any) -> NewJob:
    return NewJob(**{"namespace_id": MAIN, "namespace": "main", "type": "act", "task_queue": "q", **fields})


async def start(server: Replica, **fields: Any) -> StartedJob:
    started = await server.do(StartJob(new_job(**fields)))
    assert isinstance(started, StartedJob)
    return started


def ref(started: StartedJob) -> JobRef:
    return JobRef(MAIN, "main", started.job_key)


async def claim(server: Replica, most: int = 1) -> list[JobGrant]:
    order = Claim(MAIN, "main", "q", TaskKind.ACTIVITY, ("act",), server.session, "worker", (), most)
    grants: list[JobGrant] = await server.do(order)
    return grants


def completed(started: StartedJob, session: UUID, token: int = 1) -> CompleteActivity:
    return CompleteActivity(ref(started), JOB_ORDINAL, session, token, CAME)


async def check(database: Look) -> None:
    """What must hold of every job, whatever was cut."""
    assert not await database.rows("SELECT job_key FROM jobs INNER JOIN closed_jobs USING (job_key)")
    assert not await database.rows("SELECT 1 FROM jobs WHERE (session_id IS NOT NULL) <> (state = 2)")
    assert not await database.rows(
        """SELECT 1 FROM tasks AS t WHERE ordinal = -1 AND NOT EXISTS (
            SELECT FROM jobs AS j WHERE j.job_key = t.run_key AND j.state = 1
        )"""
    )
    assert await database.value("SELECT count(*) FROM job_ids") == await database.value(
        "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM closed_jobs)"
    )


# --- cost -------------------------------------------------------------------------------------------------------------


async def test_a_job_in_residence_costs_an_insert_a_move_and_no_history(database_url: str) -> None:
    """Two commits, each of a fixed set of statements: its id and its row; then its row's move."""
    async with replica(database_url) as server, look(database_url) as database:
        await start(server)
        server.ears.session = server.session
        counters = server.database.counters
        before = (counters.statements, counters.commits)
        job = await start(server)
        started = (counters.statements, counters.commits)
        await server.do(completed(job, server.session))
        ended = (counters.statements, counters.commits)
        # All rows; BEGIN, the lock, the batch's row, the move, COMMIT.
        assert (started[0] - before[0], started[1] - before[1]) == (1, 1)
        assert (ended[0] - started[0], ended[1] - started[1]) == (5, 1)
        assert await database.value("SELECT count(*) FROM events") == 0
        assert await database.value("SELECT count(*) FROM closed_jobs") == 1
        await check(database)


# --- poison and locks -------------------------------------------------------------------------------------------------

POISON: dict[str, Any] = {
    "a lone surrogate": StartJob(new_job(type="\ud800")),
    "a NUL": StartJob(new_job(task_queue="\0")),
    "a unique key that cannot be looked up": StartJob(new_job(unique_key="\ud800")),
    "a number out of range": StartJob(new_job(priority=2**20)),
    "a delay beyond the calendar": StartJob(new_job(delay_seconds=1e12)),
    "a reason of a lone surrogate": CancelJob(JobRef(MAIN, "main", FIRST_KEY), "\ud800"),
}


@pytest.mark.parametrize("poison", POISON)
async def test_a_poisoned_command_hurts_only_its_caller(database_url: str, poison: str) -> None:
    """In a batch of hundreds, of jobs and of runs, one is refused: it hears INTERNAL, the others are recorded once."""
    async with replica(database_url) as server, look(database_url) as database:
        first = await start(server)
        assert first.job_key == FIRST_KEY
        (grant,) = await claim(server)
        futures = [server.submit(StartJob(new_job(unique_key=f"{n}"))) for n in range(100)]
        futures += [server.submit(StartRun(new_run())) for _ in range(50)]
        futures.append(server.submit(POISON[poison]))
        futures += [server.submit(StartJob(new_job())) for _ in range(100)]
        futures.append(server.submit(completed(first, grant.session_id)))
        answers = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)
        refused = [place for place, answer in enumerate(answers) if isinstance(answer, refusals.Internal)]
        assert refused == [150]
        assert len({answer.job_key for answer in answers if isinstance(answer, StartedJob)}) == 200
        assert len({answer.run_key for answer in answers if isinstance(answer, Started)}) == 50
        assert isinstance(answers[-1], Outcome)
        assert await database.value("SELECT count(*) FROM closed_jobs") == 1
        await check(database)


async def test_commands_of_a_locked_job_wait_aside_and_others_go_on(database_url: str) -> None:
    """The first of them wins once the lock is gone; one whose time is over hears that the job is busy."""
    async with replica(database_url) as server, look(database_url) as other:
        job, free = await start(server), await start(server)
        lock = other.raw.transaction()
        await lock.start()
        await other.raw.execute("SELECT * FROM jobs WHERE job_key = $1 FOR UPDATE", job.job_key)
        futures = [server.submit(CancelJob(ref(job), f"{n}")) for n in range(20)]
        assert (await asyncio.wait_for(server.do(CancelJob(ref(free), "")), 1.0)).accepted
        with pytest.raises(errors.JobBusy) as told:
            await server.do(CancelJob(JobRef(MAIN, "main", job_id=job.job_id), ""), seconds=0.2)
        assert told.value.job_id == str(job.job_id)
        assert not any(future.done() for future in futures)
        await lock.rollback()
        answers = [await future for future in futures]
        assert [isinstance(each, SteeredJob) and each.accepted for each in answers] == [True] + [False] * 19
        assert await other.value("SELECT cancel_reason FROM closed_jobs WHERE job_key = $1", job.job_key) == "0"
        await check(other)


# --- two replicas -----------------------------------------------------------------------------------------------------


async def test_two_replicas_start_one_job_for_one_id_and_for_one_key(database_url: str) -> None:
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        for n in range(20):
            repeated = StartJob(new_job(job_id=uuid4()), request_id="r", request_hash=b"h")
            named = StartJob(new_job(unique_key=f"{n}"), conflict=Conflict.USE_EXISTING)
            for order in (repeated, named):
                answers = await asyncio.gather(one.do(order), two.do(order))
                assert len({answer.job_key for answer in answers}) == 1
                assert sorted(answer.started for answer in answers) == [False, True]
        assert await database.value("SELECT count(*) FROM jobs") == 40
        await check(database)


async def test_two_replicas_give_the_key_of_an_ended_job_once(database_url: str) -> None:
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        for _ in range(10):
            orders = [StartJob(new_job(unique_key="u")) for _ in range(4)]
            futures = [(one if n % 2 else two).submit(order) for n, order in enumerate(orders)]
            answers = await asyncio.gather(*futures, return_exceptions=True)
            (started,) = [answer for answer in answers if isinstance(answer, StartedJob)]
            await one.do(CancelJob(ref(started), ""))
        assert await database.value("SELECT count(*) FROM closed_jobs") == 10
        await check(database)


async def test_two_replicas_retry_a_job_once(database_url: str) -> None:
    """Of many who ask at the same moment one is the first; the others find it open."""
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        job = await start(one, details=ONCE)
        for token in range(1, 11):
            (grant,) = await claim(one)
            assert grant.token == token
            await one.do(FailActivity(ref(job), JOB_ORDINAL, one.session, token, Failure("no")))
            futures = [(one if n % 2 else two).submit(RetryJob(ref(job))) for n in range(6)]
            answers = await asyncio.gather(*futures, return_exceptions=True)
            assert sum(isinstance(answer, SteeredJob) for answer in answers) == 1
            assert sum(isinstance(answer, errors.JobNotFailed) for answer in answers) == 5
        assert await database.value("SELECT retries FROM jobs") == 10
        await check(database)


async def test_a_retry_decided_before_another_has_come_and_gone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between the job is retried elsewhere and fails again: that is not undone, and no token is given twice."""
    write, first = job_batches.write, True
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        job = await start(one, details=ONCE)

        async def fail(token: int) -> None:
            (grant,) = await claim(one)
            assert grant.token == token
            await one.do(FailActivity(ref(job), JOB_ORDINAL, one.session, token, Failure("no")))

        async def late(*arguments: Any) -> None:
            nonlocal first
            if first:
                first = False
                await one.do(RetryJob(ref(job)))
                await fail(2)
            await write(*arguments)

        await fail(1)
        monkeypatch.setattr(job_batches, "write", late)
        assert (await two.do(RetryJob(ref(job)))).accepted
        assert not first
        assert [tuple(row) for row in await database.rows("SELECT retries, grants FROM jobs")] == [(2, 2)]
        await check(database)


async def test_a_stale_holder_is_refused_on_every_replica(database_url: str) -> None:
    async with replica(database_url) as one, replica(database_url) as two, look(database_url) as database:
        job = await start(one)
        await claim(one)
        assert await two.do(ReturnTask(ref(job), JOB_ORDINAL, 1, one.session, counts=True, reason="lost")) is True
        await claim(two)
        for server in (one, two):
            with pytest.raises(errors.LeaseLost):
                await server.do(completed(job, one.session))
        answers = await asyncio.gather(*(each.do(completed(job, two.session, 2)) for each in (one, two)))
        assert sorted(answer.duplicate for answer in answers) == [False, True]
        assert await database.value("SELECT count(*) FROM closed_jobs") == 1
        await check(database)


# --- lost connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lose", [Lose.REPLY, Lose.REQUEST])
async def test_a_connection_lost_in_commit_loses_and_doubles_nothing(database_url: str, lose: Lose) -> None:
    """Starts, ends and cancellations of one batch: each is answered with what is recorded, and recorded once."""
    async with proxy(database_url) as way, replica(way.url) as server, look(database_url) as database:
        running = [await start(server) for _ in range(10)]
        waiting = [await start(server, task_queue="other") for _ in range(10)]
        assert len(await claim(server, 10)) == 10
        orders = [StartJob(new_job()) for _ in range(30)]
        futures = [server.submit(order) for order in orders]
        futures += [server.submit(completed(job, server.session)) for job in running]
        futures += [server.submit(CancelJob(ref(job), "")) for job in waiting]
        way.lose = lose
        answers = await asyncio.wait_for(asyncio.gather(*futures), 60)
        assert way.lost == 1
        assert len({answer.job_key for answer in answers if isinstance(answer, StartedJob) and answer.started}) == 30
        assert answers.count(Outcome(duplicate=False)) == 10
        assert sum(isinstance(answer, SteeredJob) and answer.accepted for answer in answers) == 10
        assert await database.value("SELECT count(*) FROM jobs") == 30
        assert await database.value("SELECT count(*) FROM closed_jobs WHERE state = 4") == 10
        assert await database.value("SELECT count(*) FROM closed_jobs WHERE state = 7") == 10
        await check(database)
