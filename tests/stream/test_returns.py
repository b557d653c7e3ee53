"""A run that its workers die of: it goes round a few times, then it is paused and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN, SECONDS, Replica, capacity, replica, until
from tests.stream.wire import wire

from stepwell.v1 import runs_pb2
from stepwell.v1.workers_pb2 import ReleaseTask


@pytest_asyncio.fixture
async def strict(database_url: str) -> AsyncIterator[Replica]:
    """A replica with little patience, on which sessions expire soon."""
    async with replica(database_url, max_returns=3, session_seconds=1.0, heartbeat_seconds=0.3) as made:
        yield made


async def paused(one: Replica, run_id: str) -> runs_pb2.Run:
    found: runs_pb2.Run = await until(lambda: one.run(run_id), lambda run: run.HasField("pause"))
    return found


async def dies(one: Replica, name: str, *, ack: bool) -> None:
    """A worker that gets the run, and is heard of no more."""
    async with wire(one, name, is_lively=False, capacity=capacity(runs=1)) as stream:
        await stream.task(RUN, ack=ack)
        await stream.settled()


async def resume(one: Replica, run_id: str) -> None:
    assert (await one.runs.ResumeRun(runs_pb2.ResumeRunRequest(run_id=run_id), timeout=SECONDS)).accepted


async def test_a_run_whose_workers_die_is_paused_and_goes_on_when_resumed(strict: Replica) -> None:
    run_id = await strict.start()
    for number in range(3):
        assert not (await strict.run(run_id)).HasField("pause")
        await dies(strict, f"worker {number}", ack=True)
    pause = (await paused(strict, run_id)).pause
    assert pause.reason == "WORKER_LOST"
    assert pause.details == (
        "it came back 3 times in a row with nothing recorded, the last time from worker worker 2: session expired"
    )
    assert await strict.count(run_id, "RunInterrupted") == 3
    async with wire(strict, "mended", capacity=capacity(runs=1)) as stream:
        await stream.settled()
        assert await strict.waiting() == 0
        await resume(strict, run_id)
        code = Code(stream, await stream.task(RUN))
        assert (await code.complete()).status == ACCEPTED


async def test_a_run_that_kills_before_the_acknowledgement_is_paused_too(strict: Replica) -> None:
    run_id = await strict.start()
    for number in range(3):
        await dies(strict, f"worker {number}", ack=False)
    assert (await paused(strict, run_id)).pause.reason == "WORKER_LOST"
    assert await strict.count(run_id, "RunInterrupted") == 0


async def test_a_run_that_gets_on_in_between_is_not_paused(strict: Replica) -> None:
    run_id = await strict.start()
    for number in range(5):
        async with wire(strict, f"worker {number}", capacity=capacity(runs=1)) as stream:
            code = Code(stream, await stream.task(RUN))
            for past in range(number):
                code.progress(code.local(past))
            assert (await code.tell(code.local(number))).status == ACCEPTED
            assert (await stream.report(code.task.ref, release=ReleaseTask(reason="test"))).status == ACCEPTED
    assert not (await strict.run(run_id)).HasField("pause")
    assert await strict.count(run_id, "StepCompleted") == 5
