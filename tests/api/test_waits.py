"""Long polls for a run's end, on whichever replica it comes about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tests.service import TIMEOUT, Holder, Service, refusal, serving
from tests.stream.kit import BLOCKED, until

from stepwell.v1 import namespaces_pb2, runs_pb2, types_pb2
from stepwell_server.engine.reported import Successor
from stepwell_server.model.payloads import JSON, Payload
from stepwell_server.model.runs import Phase

TERMINATED = types_pb2.RUN_PHASE_TERMINATED


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def wait(service: Service, run_id: str, seconds: int = 20, **fields: Any) -> Any:
    request = runs_pb2.WaitRunRequest(run_id=run_id, wait=Duration(seconds=seconds), **fields)
    return await service.runs.WaitRun(request, timeout=TIMEOUT)


async def waited_for(service: Service, *, some: bool) -> None:
    """Returns when somebody waits for a run, or nobody does any more."""
    async with asyncio.timeout(TIMEOUT):
        while bool(service.watches._waits) is not some:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_wait_ends_with_its_run(service: Service, replica: Service, elsewhere: bool) -> None:
    """Also where another replica ends it."""
    run_id = await service.begin()
    waiting = [asyncio.create_task(wait(service, run_id)) for _ in range(3)]
    await waited_for(service, some=True)
    await (replica if elsewhere else service).end(run_id)
    service.watches.hint()
    for answer in await asyncio.gather(*waiting):
        assert (answer.ended, answer.run.run_id, answer.run.phase) == (True, run_id, TERMINATED)
        assert answer.run.failure.message == "test"
    assert service.watches._waits == {}


async def test_a_wait_may_find_its_run_ended_or_go_on_beyond_its_time(service: Service) -> None:
    run_id = await service.begin()
    answer = await wait(service, run_id, seconds=0)
    assert (answer.ended, answer.run.phase) == (False, types_pb2.RUN_PHASE_PENDING)
    await service.end(run_id)
    assert (await wait(service, run_id)).ended
    assert (await refusal(wait(service, "0b6d54b0-8c1c-4c57-9b0e-0d5a1b7d9f11")))[1] == "RUN_NOT_FOUND"


async def test_however_many_wait_others_find_a_connection(database_url: str) -> None:
    """Waits that can't read take half of the pool, and the others of them stand in a queue of their own."""
    locker = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    async with serving(database_url, pool_connections=4) as service:
        run_id = await service.begin()
        request = namespaces_pb2.ListNamespacesRequest()
        async with locker.transaction():
            await locker.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")
            waits = [asyncio.create_task(wait(service, run_id)) for _ in range(40)]
            await until(lambda: locker.fetchval(BLOCKED), lambda blocked: blocked >= 2)
            answers = [service.namespace_calls.ListNamespaces(request, timeout=TIMEOUT) for _ in range(10)]
            assert len(await asyncio.gather(*answers)) == 10
            assert await locker.fetchval(BLOCKED) == 2
        await locker.close()
        await service.end(run_id)
        assert all(answer.ended for answer in await asyncio.gather(*waits))


async def test_a_wait_answers_before_its_callers_deadline(service: Service) -> None:
    run_id = await service.begin()
    answers = []
    # A machine that stands still for the half second in between makes it late: not five times in a row.
    for _ in range(5):
        with suppress(grpc.aio.AioRpcError):
            answers.append(await service.runs.WaitRun(runs_pb2.WaitRunRequest(run_id=run_id), timeout=3))
            break
    assert [answer.ended for answer in answers] == [False]


async def test_a_wait_follows_a_run_that_continues(service: Service) -> None:
    """Through continue-as-new to the last run of the chain, unless only the named one is meant."""
    first = await service.begin(workflow_id="w", task_queue="q")
    waiting = asyncio.create_task(wait(service, first))
    only = asyncio.create_task(wait(service, first, only_this_run=True))
    await (await Holder.of(service, "q")).end(Phase.COMPLETED, successor=Successor(Payload(JSON, b"2")))
    answer = await only
    assert (answer.ended, answer.run.run_id) == (True, first)
    assert not waiting.done()
    await (await Holder.of(service, "q")).end(Phase.COMPLETED, Payload(JSON, b"3"))
    last = await waiting
    assert (last.ended, last.run.run_id) == (True, answer.run.continued_run_id)
    assert (last.run.input.json, last.run.result.json) == ("2", "3")


async def test_a_wait_that_is_given_up_is_forgotten(service: Service) -> None:
    run_id = await service.begin()
    call = service.runs.WaitRun(runs_pb2.WaitRunRequest(run_id=run_id))
    waiting = asyncio.ensure_future(call)
    await waited_for(service, some=True)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await waited_for(service, some=False)
