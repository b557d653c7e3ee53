"""Processes killed and frozen: nothing acknowledged is lost, nothing recorded twice, every run ends."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from tests.chaos import worker
from tests.chaos.invariants import check
from tests.chaos.kit import Proxy, Stage, connected, free_port, results, stage, start_errands, until

from stepwell.v1 import runs_pb2, runs_pb2_grpc, types_pb2

COUNT, ACTIVITIES = 6, 12
EXPECTED = worker.expected(ACTIVITIES)


async def judged(scene: Stage, handles: Any) -> Counter[str]:
    """All runs ended with the right result, and the record agrees with what was left behind."""
    assert await results(handles) == [EXPECTED] * len(handles)
    return await check(scene.database_url, scene.done(), [handle.run_id for handle in handles])


async def killed_in_mid_step(scene: Stage, kills: int) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    await scene.server(port)
    async with connected(address) as (client,):
        workers = [await scene.worker(address) for _ in range(2)]
        handles = await start_errands(client, COUNT * kills, ACTIVITIES)
        for _ in range(kills):
            victim = workers.pop(0)
            await scene.more(15)
            await until(functools.partial(scene.caught, victim))
            await victim.kill()
            workers.append(await scene.worker(address))
        seen = await judged(scene, handles)
    assert seen["activity interrupted"] + seen["run interrupted"] > 0


async def test_workers_killed_in_mid_step(scene: Stage) -> None:
    await killed_in_mid_step(scene, 1)


@pytest.mark.long
async def test_workers_killed_again_and_again(scene: Stage) -> None:
    await killed_in_mid_step(scene, 4)


async def killed_service(scene: Stage, kills: int) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = await scene.server(port)
    async with connected(address) as (client,):
        for _ in range(2):
            await scene.worker(address)
        handles = await start_errands(client, COUNT * kills, ACTIVITIES)
        for _ in range(kills):
            await scene.more(20)
            await server.kill()
            server = await scene.server(port)
        await judged(scene, handles)


async def test_the_service_killed_under_load(scene: Stage) -> None:
    await killed_service(scene, 1)


@pytest.mark.long
async def test_the_service_killed_again_and_again(scene: Stage) -> None:
    await killed_service(scene, 4)


async def test_the_service_killed_between_a_commit_and_its_answer(scene: Stage) -> None:
    """The client's repeat with the same request id gets the first answer."""
    port = free_port()
    server = await scene.server(port)
    sql = await asyncpg.connect(scene.database_url, server_settings={"search_path": "stepwell"})
    start = runs_pb2.StartRunRequest(
        type="errand", task_queue=worker.QUEUE, request_id="the order", input=types_pb2.Payload(json="3")
    )
    async with connected(f"127.0.0.1:{port}"), Proxy("127.0.0.1", port) as proxy:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            stub: Any = runs_pb2_grpc.RunServiceStub(channel)
            warm = runs_pb2.ListRunsRequest()
            await stub.ListRuns(warm, wait_for_ready=True)
            proxy.keeps_answers = True
            unheard = stub.StartRun(start)
            await until(lambda: sql.fetchval("SELECT count(*) = 1 FROM runs"))
            first = await sql.fetchval("SELECT run_id::text FROM runs")
            signal_ = runs_pb2.SignalRunRequest(run_id=first, signal_name="s", request_id="the word")
            unheard_too = stub.SignalRun(signal_)
            await until(lambda: sql.fetchval("SELECT count(*) = 1 FROM signals"))
            assert not unheard.done()
            assert not unheard_too.done()
            await server.kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await unheard
            with pytest.raises(grpc.aio.AioRpcError):
                await unheard_too
        await scene.server(port)
        async with connected(f"127.0.0.1:{port}") as (client,):
            stub = client.run_stub
            again = await stub.StartRun(start, wait_for_ready=True)
            assert (again.run_id, again.started) == (first, False)
            await stub.SignalRun(signal_)
            assert await sql.fetchval("SELECT count(*) FROM runs") == 1
            assert await sql.fetchval("SELECT count(*) FROM signals") == 1
            await scene.worker(f"127.0.0.1:{port}")
            assert await results([client.run(first)]) == [worker.expected(3)]
            repeat = await stub.StartRun(start)
            assert (repeat.run_id, repeat.started) == (first, False)
    await sql.close()
    await check(scene.database_url, scene.done(), [first])


async def test_a_worker_frozen_beyond_its_session_changes_nothing_when_it_wakes(
    tmp_path: Path, database_url: str
) -> None:
    async with stage(tmp_path, database_url, hold_seconds=2.0) as scene:
        port = free_port()
        address = f"127.0.0.1:{port}"
        await scene.server(port)
        async with connected(address) as (client,):
            frozen = await scene.worker(address)
            handle = await client.start_run(worker.single, "x", task_queue=worker.QUEUE)
            await until(lambda: scene.done("activity"))
            frozen.send(signal.SIGSTOP)
            other = await scene.worker(address)
            # Session 3 s, then the other one does it all.
            assert await results([handle]) == [other.pid]
            before = [event async for event in handle.history()]
            frozen.send(signal.SIGCONT)
            # Awake, it finishes what it was at, and is told that this is nobody's business any more.
            await until(
                lambda: (
                    "refused" in frozen.log.read_text()
                    or "the session is over" in frozen.log.read_text()
                    or any(line["pid"] == frozen.pid and line["kind"] == "end" for line in scene.done())
                )
            )
            second = await client.start_run(worker.single, "y", task_queue=worker.QUEUE)
            await other.kill()
            assert await results([second]) == [frozen.pid]
            assert [event async for event in handle.history()] == before
        seen = await check(database_url, scene.done(), [handle.run_id, second.run_id])
        # Frozen before its acknowledgement had left, it had not begun as far as anybody knows.
        assert seen["activity interrupted"] + seen["activity returned"] >= 1


async def test_the_service_frozen_and_thawed(scene: Stage) -> None:
    """For longer than sessions last: nobody is judged for what it could not hear."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = await scene.server(port)
    async with connected(address) as (client,):
        for _ in range(2):
            await scene.worker(address)
        handles = await start_errands(client, COUNT, ACTIVITIES)
        await until(lambda: len(scene.done()) >= 20)
        server.send(signal.SIGSTOP)
        await asyncio.sleep(6)
        server.send(signal.SIGCONT)
        await judged(scene, handles)
