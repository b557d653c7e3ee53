"""Why runs and jobs do not move: each thing that one may wait for is told, with what to do about it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.sdk.test_cli_live import stepwell
from tests.stream.code import Code
from tests.stream.kit import ACTIVITY, RUN, capacity, hello
from tests.stream.wire import Wire

from stepwell import Context, RetryPolicy, activity, reasons, workflow
from stepwell.sync import Client as SyncClient
from stepwell.v1 import run_store_pb2, run_store_pb2_grpc, types_pb2
from stepwell.v1.explanations_pb2 import Explanation
from stepwell_server.api import explanation_values

ENTERED = asyncio.Event()


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    ENTERED.clear()
    async with live(database_url) as made:
        yield made


@activity
async def unknown() -> None: ...


@activity(retry=RetryPolicy(initial_interval=3600))
async def failing() -> None:
    raise ValueError("not today")


@activity
async def endless() -> None:
    ENTERED.set()
    await asyncio.Event().wait()


@workflow
async def waiting(ctx: Context) -> None:
    await ctx.gather(
        ctx.wait_signal("paid", timeout=600),
        ctx.wait_topic("prices"),
        ctx.sleep(3600),
        ctx.activity(unknown, task_queue="nowhere"),
        ctx.activity(failing),
        ctx.activity(endless),
        ctx.child("elsewhere", task_queue="nowhere"),
    )


@workflow
async def sleeping(ctx: Context) -> None:
    await ctx.sleep(0.05)


def code_of(each: Explanation) -> str:
    return Explanation.Code.Name(each.code).removeprefix("CODE_")


async def explained(handle: Any, wanted: list[str]) -> list[Explanation]:
    """Asks until it is so: what a worker does is heard of when it has done it."""
    found: list[Explanation] = []
    try:
        async with asyncio.timeout(60):
            while [code_of(each) for each in found] != wanted:
                found = await handle.explain()
                await asyncio.sleep(0.02)
    except TimeoutError:
        assert [code_of(each) for each in found] == wanted
    return found


async def test_each_open_step_is_told_with_what_it_waits_for(one: Live) -> None:
    handle = await one.client.start_run(waiting, task_queue="default")
    async with one.working(workflows=[waiting], activities=[failing, endless]):
        await ENTERED.wait()
        wanted = ["SIGNAL", "TOPIC", "TIMER", "NO_WORKER", "DELAYED", "HELD", "CHILD"]
        found = await explained(handle, wanted)
        signal, topic, timer, queued, delayed, held, child = found
        assert [each.step_ordinal for each in found] == [1, 2, 3, 4, 5, 6, 7]
        assert "signal paid" in signal.text
        assert "run signal RUN paid" in signal.advice
        assert signal.HasField("until")
        assert not topic.HasField("until")
        assert "topic publish prices" in topic.advice
        assert (timer.until.seconds - timer.since.seconds) in {3599, 3600, 3601}
        assert "no live worker takes type unknown from queue nowhere" in queued.text
        assert queued.backlog_count == 1
        assert "attempt 2" in delayed.text
        assert delayed.HasField("until")
        assert held.owner_id
        assert f"{held.owner_id} is at attempt 1" in held.text
        assert child.other_run_id in child.advice
        (of_child,) = await one.client.run(child.other_run_id).explain()
        assert (code_of(of_child), of_child.backlog_count) == ("NO_WORKER", 1)
        await handle.pause("for a look")
        await handle.cancel("enough")
        assert [code_of(each) for each in await handle.explain()][:2] == ["PAUSED", "CANCEL_REQUESTED"]
        await handle.terminate()
    (ended,) = await handle.explain()
    assert (code_of(ended), ended.text) == ("ENDED", "ended TERMINATED")
    assert "stepwell run retry" in ended.advice


async def test_tasks_tell_what_their_queue_lacks_and_how_much_waits_there(one: Live) -> None:
    first = await one.client.start_run("order", task_queue="orders")
    await one.client.start_run("order", task_queue="orders")
    (why,) = await first.explain()
    assert (code_of(why), why.backlog_count) == ("NO_WORKER", 2)
    await first.pin("1.0")
    async with one.working(workflows=[waiting], activities=[]):
        (why,) = await first.explain()
        assert code_of(why) == "NO_WORKER"
    later = await one.client.start_run("order", task_queue="orders", start_delay=600)
    (why,) = await later.explain()
    assert (code_of(why), why.HasField("until")) == ("DELAYED", True)


async def test_jobs(one: Live) -> None:
    handle = await one.client.start_job("endless", task_queue="default")
    (why,) = await handle.explain()
    assert (code_of(why), why.backlog_count) == ("NO_WORKER", 1)
    async with one.working(workflows=[], activities=[endless]):
        await ENTERED.wait()
        (why,) = await explained(handle, ["HELD"])
        assert why.owner_id
        await handle.cancel()
        await explained(handle, ["ENDED"])
    delayed = await one.client.start_job("endless", task_queue="default", start_delay=600)
    (why,) = await delayed.explain()
    assert (code_of(why), why.HasField("until")) == ("DELAYED", True)
    with pytest.raises(reasons.JobNotFound):
        await one.client.job(str(uuid.uuid4())).explain()


async def test_driven_runs_are_their_engines(one: Live) -> None:
    store: Any = run_store_pb2_grpc.RunStoreStub(one.client._channel)
    made = await store.CreateRun(run_store_pb2.CreateRunRequest(type="t", initial_phase=types_pb2.RUN_PHASE_RUNNING))
    handle: Any = one.client.run(made.run_id)
    assert [code_of(each) for each in await handle.explain()] == ["DRIVEN"]
    await store.ClaimRun(run_store_pb2.ClaimRunRequest(run_id=made.run_id, owner_id="engine 1"))
    held, _ = await explained(handle, ["HELD", "DRIVEN"])
    assert held.owner_id == "engine 1"
    suspend = run_store_pb2.SuspendRunRequest(run_id=made.run_id, step_name="review")
    suspend.wake_time.FromJsonString("2100-01-01T00:00:00Z")
    await store.SuspendRun(suspend)
    suspended, _ = await explained(handle, ["SUSPENDED", "DRIVEN"])
    assert (suspended.step_name, suspended.until) == ("review", suspend.wake_time)


async def test_the_command_and_programs_without_asyncio(one: Live) -> None:
    run_id = (await one.client.start_run("order", workflow_id="o", task_queue="orders")).run_id
    job_id = (await one.client.start_job("pack", task_queue="orders")).job_id
    code, out, _ = await stepwell(one.server, "run", "explain", "o")
    head, row = out.splitlines()
    assert code == 0
    assert head.split()[:2] == ["STEP", "WHY"]
    assert "NO_WORKER" in row
    assert "start a worker for it" in row
    code, out, _ = await stepwell(one.server, "job", "explain", job_id, "-o", "json")
    assert code == 0
    assert '"code": "CODE_NO_WORKER"' in out

    def ask() -> list[int]:
        with SyncClient.connect(one.server.service.address) as client:
            return [each.code for each in (*client.run(run_id).explain(), *client.job(job_id).explain())]

    assert await asyncio.to_thread(ask) == [Explanation.CODE_NO_WORKER] * 2


async def test_what_the_leader_has_not_dealt_with_is_overdue(one: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers, delayed starts, and jobs; and whether anybody leads at all."""
    monkeypatch.setattr(explanation_values, "_LATE_SECONDS", 0.0)
    service = one.server.service
    await service.leader.stop()
    handle = await one.client.start_run(sleeping, task_queue="default")
    later = await one.client.start_run("order", task_queue="orders", start_delay=0.01)
    job = await one.client.start_job("endless", task_queue="default", start_delay=0.01)
    async with one.working(workflows=[sleeping], activities=[]):
        (timer,) = await explained(handle, ["OVERDUE"])
        assert timer.text.startswith("sleeps; its time came at ")
        assert timer.text.endswith(", and no replica leads")
        assert "elected" in timer.advice
        assert [code_of(each) for each in await later.explain()] == ["OVERDUE"]
        assert [code_of(each) for each in await job.explain()] == ["OVERDUE"]
        await handle.pause("for a look")
        assert [code_of(each) for each in await handle.explain()] == ["PAUSED", "TIMER"]
        await handle.resume()
        for duty in service.leader.duties:
            duty.may_run = lambda: False
        service.leader.start()
        await service.leader.wait_elected()
        (timer,) = await handle.explain()
        assert timer.text.endswith(", and the leader has not dealt with it")


async def test_a_holder_that_fell_silent_is_told_as_lost(database_url: str) -> None:
    """Of a run, of an activity and of a job: nobody is at it any more, and nobody else has it yet."""
    async with live(database_url, session_seconds=600.0, heartbeat_seconds=300.0, ack_seconds=60.0) as one:
        replica, service = one.server, one.server.service
        stream = await Wire(replica, hello("w", capacity=capacity(runs=1, activities=2))).open(is_lively=False)
        handle: Any = one.client.run(await replica.start())
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.activity("charge"))
        await stream.task(ACTIVITY)
        job: Any = one.client.job(await replica.start_job())
        await stream.task(ACTIVITY)
        (held,) = await explained(handle, ["HELD"])
        assert held.step_name == "charge"
        await explained(job, ["HELD"])
        await service.leader.stop()
        async with service.database.pool.begin() as connection:
            await connection.exec_driver_sql("UPDATE sessions SET expire_time = '-infinity'")
        of_run, of_step = await explained(handle, ["HOLDER_LOST", "HOLDER_LOST"])
        assert (of_run.step_name, of_step.step_name) == ("", "charge")
        assert of_step.text == "w had it, and its session has expired"
        await explained(job, ["HOLDER_LOST"])
