"""Jobs under load while workers and the service are killed: each is recorded once, each of its effects explained."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from tests.chaos import worker
from tests.chaos.job_invariants import check_jobs
from tests.chaos.kit import Proxy, Stage, connected, free_port, results, stage, until

from stepwell import Client, JobHandle
from stepwell.v1 import jobs_pb2, jobs_pb2_grpc, types_pb2

JOBS = 60


@pytest_asyncio.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncIterator[Stage]:
    """Its workers take their time, so that a kill interrupts something."""
    async with stage(tmp_path, database_url, hold_seconds=0.2) as made:
        yield made


async def start_chores(client: Client, numbers: Sequence[int]) -> list[JobHandle[int]]:
    started = [client.start_job(worker.chore, number, task_queue=worker.QUEUE) for number in numbers]
    return list(await asyncio.gather(*started))


async def came_to_their_squares(handles: Sequence[JobHandle[int]]) -> None:
    assert await results(handles) == [number * number for number in range(len(handles))]


async def killed_in_mid_work(scene: Stage, kills: int) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    await scene.server(port)
    async with connected(address) as (client,):
        workers = [await scene.worker(address) for _ in range(2)]
        handles = await start_chores(client, range(JOBS * kills))
        for _ in range(kills):
            victim = workers.pop(0)
            await scene.more(10)
            await until(functools.partial(scene.caught, victim))
            await victim.kill()
            workers.append(await scene.worker(address))
        await came_to_their_squares(handles)
        seen = await check_jobs(scene.database_url, scene.done(), [handle.job_id for handle in handles])
    # One for each job, one more for each fifth, and those that the kills cost.
    assert seen["attempts"] > len(handles) * 6 // 5


async def test_workers_killed_in_mid_work(scene: Stage) -> None:
    """What they were at is done again by others, as another attempt."""
    await killed_in_mid_work(scene, 1)


@pytest.mark.long
async def test_workers_killed_in_mid_work_again_and_again(scene: Stage) -> None:
    await killed_in_mid_work(scene, 4)


async def killed_service(scene: Stage, kills: int) -> None:
    """Jobs are started all the while, also when nobody is there to start them."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = await scene.server(port)
    async with connected(address) as (client,):
        for _ in range(2):
            await scene.worker(address)
        handles: list[JobHandle[int]] = []
        done = asyncio.Event()

        async def start_all_the_while() -> None:
            while not done.is_set() or len(handles) < JOBS:
                handles.extend(await start_chores(client, range(len(handles), len(handles) + 5)))
                await asyncio.sleep(0.01 * len(handles) ** 0.5)

        starting = asyncio.create_task(start_all_the_while())
        for _ in range(kills):
            await scene.more(20)
            await server.kill()
            server = await scene.server(port)
        done.set()
        await starting
        await came_to_their_squares(handles)
        await check_jobs(scene.database_url, scene.done(), [handle.job_id for handle in handles])


async def test_the_service_killed_while_jobs_are_started_and_done(scene: Stage) -> None:
    await killed_service(scene, 1)


@pytest.mark.long
async def test_the_service_killed_among_jobs_again_and_again(scene: Stage) -> None:
    await killed_service(scene, 4)


async def test_the_service_killed_between_a_commit_and_its_answer(scene: Stage) -> None:
    """The repeats of a start, of a cancellation and of a retry with the same request ids get the first answers."""
    port = free_port()
    server = await scene.server(port)
    sql = await asyncpg.connect(scene.database_url, server_settings={"search_path": "stepwell"})
    start = jobs_pb2.StartJobRequest(
        type="chore", task_queue=worker.QUEUE, request_id="the order", unique_key="u", input=types_pb2.Payload(json="3")
    )
    async with connected(f"127.0.0.1:{port}"), Proxy("127.0.0.1", port) as proxy:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            stub: Any = jobs_pb2_grpc.JobServiceStub(channel)
            failed = await failed_job(sql, stub)
            stopped = (await stub.StartJob(jobs_pb2.StartJobRequest(type="chore", task_queue="nobody's"))).job_id
            retry = jobs_pb2.RetryJobRequest(job_id=failed, request_id="once more")
            cancel = jobs_pb2.CancelJobRequest(job_id=stopped, request_id="the word")
            proxy.keeps_answers = True
            unheard = [stub.StartJob(start), stub.RetryJob(retry), stub.CancelJob(cancel)]
            await until(lambda: sql.fetchval("SELECT count(*) = 2 FROM jobs"))
            await until(lambda: sql.fetchval("SELECT count(*) = 1 FROM closed_jobs WHERE state = 7"))
            first = await sql.fetchval("SELECT job_id::text FROM jobs WHERE unique_key = 'u'")
            assert not any(call.done() for call in unheard)
            await server.kill()
            for call in unheard:
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
        await scene.server(port)
        async with connected(f"127.0.0.1:{port}") as (client,):
            stub = client.job_stub
            again = await stub.StartJob(start, wait_for_ready=True)
            assert (again.job_id, again.started) == (first, False)
            assert (await stub.RetryJob(retry)).state == jobs_pb2.JOB_STATE_PENDING
            assert (await stub.CancelJob(cancel)).accepted
            assert await sql.fetchval("SELECT count(*) FROM jobs") == 2
            assert await sql.fetchval("SELECT retries FROM jobs WHERE unique_key = ''") == 1
            await scene.worker(f"127.0.0.1:{port}")
            assert await results([client.job(first), client.job(failed)]) == [9, 16]
            # Also when all has ended: nothing is begun again.
            assert (await stub.StartJob(start)).job_id == first
            assert (await stub.RetryJob(retry)).state == jobs_pb2.JOB_STATE_PENDING
            assert await sql.fetchval("SELECT count(*) FROM jobs") == 0
    await sql.close()
    await check_jobs(scene.database_url, scene.done(), [first, failed, stopped], cancelled=[stopped])


async def failed_job(sql: asyncpg.Connection, stub: Any) -> str:
    """A job that nobody came for in time."""
    request = jobs_pb2.StartJobRequest(type="chore", task_queue=worker.QUEUE, input=types_pb2.Payload(json="4"))
    request.schedule_to_start_timeout.FromMilliseconds(1)
    job_id: str = (await stub.StartJob(request, wait_for_ready=True)).job_id
    await until(lambda: sql.fetchval("SELECT count(*) = 1 FROM closed_jobs WHERE state = 5"))
    # It has all the time that it needs when it is retried.
    await sql.execute("UPDATE closed_jobs SET details = NULL WHERE state = 5")
    return job_id
