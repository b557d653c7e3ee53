"""Hearing of the ends of jobs: long polls, and streams that tell of jobs and of nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tests.api.test_jobs import (
    CANCELLED,
    COMPLETED,
    FAILED,
    ONCE,
    PENDING,
    begin,
    cancel,
    claim,
    complete,
    fail,
)
from tests.api.watching import Watcher
from tests.service import TIMEOUT, Service, serving

from stepwell.v1 import jobs_pb2, runs_pb2
from stepwell_server.engine.activities import CompleteActivity, Outcome
from stepwell_server.model.jobs import JOB_ORDINAL, JobRef
from stepwell_server.model.payloads import DATA, NULL, Failure, Payload


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


class JobWatcher(Watcher):
    """A watch of jobs."""

    @property
    def heard(self) -> list[str]:
        return [end.job_id for end in self.ends]


@asynccontextmanager
async def watching(service: Service, cursor: str = "", namespace: str = "") -> AsyncIterator[JobWatcher]:
    call = service.jobs.WatchJobs(jobs_pb2.WatchJobsRequest(cursor=cursor, namespace=namespace))
    watcher = JobWatcher(call)
    await watcher.read()
    yield watcher
    call.cancel()


async def wait(service: Service, job_id: str, seconds: int = 20) -> Any:
    request = jobs_pb2.WaitJobRequest(job_id=job_id, wait=Duration(seconds=seconds))
    return await service.jobs.WaitJob(request, timeout=TIMEOUT)


async def test_a_wait_ends_with_the_job_on_either_replica(service: Service, replica: Service) -> None:
    job_id = await begin(service)
    grant = await claim(service)
    waits = [asyncio.create_task(wait(each, job_id)) for each in (service, replica)]
    async with asyncio.timeout(TIMEOUT):
        while not (service.watches._waits and replica.watches._waits):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    await complete(service, grant)
    for answer in await asyncio.gather(*waits):
        assert (answer.ended, answer.job.state, answer.job.result.json) == (True, COMPLETED, '"done"')
    assert (await wait(service, job_id)).ended
    assert not service.watches._waits


async def test_a_wait_goes_on_when_what_has_ended_is_open_again(service: Service) -> None:
    """The news of an end may come when the job has been retried already: it is the next end that counts."""
    job_id = await begin(service)
    grant = await claim(service)
    waiting = asyncio.create_task(wait(service, job_id))
    async with asyncio.timeout(TIMEOUT):
        while not service.watches._waits:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
    (events,) = service.watches._waits.values()
    for _ in range(3):
        for event in events:
            event.set()
        await asyncio.sleep(0.05)
    assert not waiting.done()
    await complete(service, grant)
    assert (await waiting).ended


async def test_a_wait_that_is_over_answers_with_the_job_as_it_is(service: Service) -> None:
    job_id = await begin(service)
    answer = await wait(service, job_id, seconds=0)
    assert (answer.ended, answer.job.state) == (False, PENDING)


async def test_a_stream_tells_how_jobs_end_and_nothing_of_runs(service: Service, replica: Service) -> None:
    """From memory, from the table on another replica, and from a cursor: the same ends in the same order."""
    await cancel(service, await begin(service))
    async with watching(service) as here, watching(replica) as there, watching(service, "") as third:
        cursor = third.cursor
        done = await begin(service, unique_key="u")
        await complete(service, await claim(service))
        await service.end(await service.begin())
        broken = await begin(service, retry=ONCE)
        details = Payload(DATA, b"x" * 70_000)
        await fail(service, await claim(service), Failure("no luck", "ValueError", details=details))
        stopped = await begin(service)
        await cancel(service, stopped)
        assert await here.until(3) == [done, broken, stopped]
        assert await there.until(3) == [done, broken, stopped]
        async with watching(replica, cursor) as resumed:
            assert await resumed.until(3) == [done, broken, stopped]
        for watcher in (here, there, resumed):
            first, second, last = watcher.ends
            assert (first.unique_key, first.state, first.result.json) == ("u", COMPLETED, '"done"')
            assert (second.state, second.failure.type, second.HasField("result")) == (FAILED, "ValueError", False)
            assert not second.failure.HasField("details")
            assert (last.state, last.result_omitted) == (CANCELLED, False)
    call = service.runs.WatchRuns(runs_pb2.WatchRunsRequest(cursor=cursor))
    ends: list[Any] = []
    while not ends:
        ends += (await call.read()).ends
    assert len(ends) == 1
    call.cancel()


async def test_a_large_result_is_left_out_and_can_be_read(service: Service, replica: Service) -> None:
    async with watching(service) as here, watching(replica) as there:
        job_id = await begin(service)
        await complete(service, await claim(service), b'"%s"' % (b"x" * 100_000))
        for watcher in (here, there):
            await watcher.until(1)
            (end,) = watcher.ends
            assert (end.job_id, end.result_omitted, end.HasField("result")) == (job_id, True, False)
        assert len((await wait(service, job_id)).job.result.json) == 100_002


async def test_an_absent_result_is_not_one_that_was_left_out(service: Service, replica: Service) -> None:
    async with watching(service) as here, watching(replica) as there:
        await begin(service)
        grant = await claim(service)
        order = CompleteActivity(JobRef(1, "main", grant.job.job_key), JOB_ORDINAL, grant.session_id, 1, NULL)
        await service.committers.do(Outcome, order)
        for watcher in (here, there):
            await watcher.until(1)
            (end,) = watcher.ends
            assert (end.state, end.result_omitted) == (COMPLETED, False)
