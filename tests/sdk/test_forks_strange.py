"""Forks of runs that are in the midst of something, or have been through something, or are there no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.stream.kit import until

from stepwell import ApplicationError, Client, Context, RunFailed, RunHandle, Worker, activity, reasons, workflow
from stepwell.v1 import repairs_pb2, runs_pb2

DONE: Counter[str] = Counter()
HOLD: list[asyncio.Event] = []


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    DONE.clear()
    HOLD[:] = [asyncio.Event()]
    # However slow the machine is, what a worker has stays its own: what is done is counted.
    async with live(database_url, session_seconds=600.0, ack_seconds=300.0) as made:
        yield made


def done(name: str) -> str:
    DONE[name] += 1
    return f"{name}{DONE[name]}"


@activity
async def held(name: str) -> str:
    said = done(name)
    if DONE[name] == 1:
        await HOLD[0].wait()
    return said


@workflow
async def inner(ctx: Context) -> str:
    return str(await ctx.wait_signal("to the child"))


@workflow
async def performs(ctx: Context) -> list[str]:
    return [await ctx.step("a", done, "a"), await ctx.activity(held, "b")]


@workflow
async def has_child(ctx: Context) -> list[str]:
    return [await ctx.step("a", done, "a"), await ctx.child(inner)]


@workflow
async def sleeps(ctx: Context) -> list[str]:
    first = await ctx.step("a", done, "a")
    await ctx.sleep(1)
    return [first, await ctx.step("b", done, "b")]


@workflow
async def asks(ctx: Context) -> list[Any]:
    return [
        await ctx.step("a", done, "a"),
        await ctx.user_task("sign", role="clerk"),
        await ctx.step("b", done, "b"),
    ]


async def started(one: Live, code: Any, *given: Any, **options: Any) -> RunHandle[Any]:
    return await one.client.start_run(code, *given, **{"workflow_id": "w", "task_queue": "default", **options})


async def result(handle: Any) -> Any:
    async with asyncio.timeout(60):
        return await handle.result()


async def step(handle: RunHandle[Any], name: str) -> Any:
    """The step, once it is there."""

    async def found() -> list[Any]:
        return [each async for each in handle.steps() if each.name == name]

    return (await until(found, bool))[0]


async def forked(handle: RunHandle[Any], at: str, **options: Any) -> Any:
    return handle._client.run(await handle.fork(at, **options))


async def test_an_activity_under_way_is_done_anew(one: Live) -> None:
    async with one.working(workflows=[performs], activities=[held]):
        source = await started(one, performs)
        await step(source, "held")
        assert await result(await forked(source, "held")) == ["a1", "b2"]
        HOLD[0].set()
        assert await result(source) == ["a1", "b1"]


async def test_a_child_under_way_has_a_sibling(one: Live) -> None:
    async with one.working(workflows=[has_child, inner]):
        source = await started(one, has_child)
        first = await step(source, "inner")
        fork = await forked(source, "inner")
        second = await step(fork, "inner")
        assert first.child_run_id != second.child_run_id
        for child, word in ((first, "source"), (second, "fork")):
            await one.client.run(child.child_run_id).signal("to the child", word)
        assert (await result(source), await result(fork)) == (["a1", "source"], ["a1", "fork"])
        # Of a child that has ended the fork has what it came to.
        again = await forked(source, "inner")
        await one.client.run((await step(again, "inner")).child_run_id).signal("to the child", "again")
        assert await result(again) == ["a1", "again"]


async def test_a_timer_that_runs_is_set_anew(one: Live) -> None:
    async with one.working(workflows=[sleeps]):
        source = await started(one, sleeps)
        await step(source, "sleep")
        fork = await forked(source, "sleep")
        assert sorted([await result(source), await result(fork)]) == [["a1", "b1"], ["a1", "b2"]]


async def test_a_person_is_asked_anew_unless_they_have_answered(one: Live) -> None:
    tasks = one.client.user_tasks
    async with one.working(workflows=[asks]):
        source = await started(one, asks)
        await step(source, "sign")
        fork = await forked(source, "sign")
        await step(fork, "sign")
        for task in [task async for task in tasks.list()]:
            await tasks.claim(task.task_id, "ada")
            await tasks.complete(task.task_id, "ada", "signed" if task.workflow_id else "signed again")
        assert (await result(source))[1] == "signed"
        assert (await result(fork))[1] == "signed again"
        assert (await result(await forked(fork, "b"))) == ["a1", "signed again", "b3"]
        assert len([task async for task in tasks.list()]) == 2


async def test_old_code_stays_where_the_record_has_it(one: Live) -> None:
    is_new = False

    @workflow
    async def code(ctx: Context) -> list[str]:
        found = [await ctx.step("a", done, "a")]
        name = "new" if is_new and ctx.patched("p") else "old"
        return [*found, await ctx.step(name, done, name), await ctx.step("c", done, "c")]

    async with one.working(workflows=[code]):
        source = await started(one, code)
        assert await result(source) == ["a1", "old1", "c1"]
        is_new = True
        assert await result(await forked(source, "c")) == ["a1", "old1", "c2"]
        newer = await forked(source, "old")
        assert await result(newer) == ["a1", "new1", "c3"]
        assert await result(await forked(newer, "c")) == ["a1", "new1", "c4"]


async def test_a_fork_has_had_what_its_source_had_of_topics_by_then(one: Live) -> None:
    """Also of a run that continues another; what its source got later it gets as well, if that is still kept."""

    @workflow
    async def code(ctx: Context, has_gone_on: bool) -> list[int]:
        if not has_gone_on:
            await ctx.wait_topic("paid")
            ctx.continue_as_new(True)
        return [await ctx.wait_topic("paid", as_type=int) for _ in range(3)]

    for number in range(4):
        await one.client.topics.publish("paid", number, retain=600)
    async with one.working(workflows=[code]):
        source = await started(one, code, False)
        assert await result(source) == [1, 2, 3]
        last: Any = one.client.run((await source.describe()).continued_run_id)
        for occurrence in range(3):
            fork = await forked(last, "topic paid", occurrence=occurrence)
            assert await result(fork) == [1, 2, 3]


async def test_a_fork_gets_what_a_rewind_gave_back_to_its_source(one: Live) -> None:
    """The source has it still, and takes it when it goes on."""
    goes_on = asyncio.Event()

    @workflow
    async def code(ctx: Context) -> list[int]:
        await ctx.step("first", done, "first")
        await ctx.step("second", goes_on.wait)
        return [await ctx.wait_topic("paid", as_type=int) for _ in range(2)]

    for number in range(2):
        await one.client.topics.publish("paid", number, retain=600)
    goes_on.set()
    async with one.working(workflows=[code]):
        source = await started(one, code)
        assert await result(source) == [0, 1]
        goes_on.clear()
        await source.rewind("second")
        fork = await forked(source, "first")
        goes_on.set()
        assert await result(fork) == [0, 1]
        assert await result(source) == [0, 1]


async def test_a_fork_is_pinned_to_no_build(one: Live) -> None:
    """The code of its source may be there no more, or be what was at fault."""
    HOLD[0].set()
    async with one.working(workflows=[performs], activities=[held], build_id="one"):
        source = await started(one, performs)
        await result(source)
    fork = await forked(source, "held")
    assert ((await source.describe()).build_id, (await fork.describe()).build_id) == ("one", "")
    async with one.working(workflows=[performs], activities=[held], build_id="two"):
        assert await result(fork) == ["a1", "b2"]
    assert (await fork.describe()).build_id == "two"


async def test_updates_are_as_they_were_before_the_step(one: Live) -> None:
    @workflow
    async def code(ctx: Context) -> list[str]:
        seen: list[str] = []

        async def add(name: str) -> str:
            word = await ctx.wait_signal(f"go {name}")
            seen.append(name)
            return f"{name} {word}"

        ctx.on_update("add", add)
        await ctx.wait_until(lambda: len(seen) == 1)
        await ctx.step("middle", done, "middle")
        return [*seen, str(await ctx.wait_signal("end"))]

    async with one.working(workflows=[code]):
        source = await started(one, code)
        await source.update("add", "a", update_id="u", wait_for="accepted")
        await step(source, "go a")
        accepted = await forked(source, "go a", scope="0/1")
        await source.signal("go a", "source")
        await step(source, "end")
        ended = await forked(source, "middle")
        for handle, word in ((accepted, "fork"), (ended, None)):
            if word:
                await handle.signal("go a", word)
            await handle.signal("end", "end")
            assert await result(handle) == ["a", "end"]
            assert await handle.update("add", "a", update_id="u") == f"a {word or 'source'}"


async def test_a_fork_has_its_timeout_from_its_start(one: Live) -> None:
    """Also where the run was opened again, so that its deadline does not count from when it was made."""

    @workflow
    async def code(ctx: Context) -> None:
        await ctx.step("a", done, "a")
        if done("fail") == "fail1":
            raise ApplicationError("no")
        await ctx.wait_signal("s")

    async with one.working(workflows=[code]):
        source = await started(one, code, run_timeout=1000)
        with pytest.raises(RunFailed):
            await result(source)
        await source.retry()
        await step(source, "s")
        run = await (await forked(source, "s")).describe()
    assert round((run.deadline.ToDatetime() - run.create_time.ToDatetime()).total_seconds(), 3) == 1000


async def test_in_any_namespace_it_is_in_the_runs_own(one: Live) -> None:
    await one.client.create_namespace("elsewhere")
    HOLD[0].set()
    async with await Client.connect(one.server.service.address, namespace="elsewhere") as client:
        source = await client.start_run(performs, task_queue="default")
        worker = Worker(client, "default", workflows=[performs], activities=[held], drain_seconds=1)
        working = asyncio.create_task(worker.run())
        await result(source)
        request = repairs_pb2.ForkRunRequest(
            namespace="-", run_id=source.run_id, step=repairs_pb2.StepName(name="held"), request_id="r"
        )
        first = await client.run_stub.ForkRun(request)
        request.namespace = "elsewhere"
        again = await client.run_stub.ForkRun(request)
        assert (first.run_id, first.started, first.copied_count) == (again.run_id, True, 1)
        assert (again.started, again.copied_count) == (False, 0)
        assert await result(client.run(first.run_id)) == ["a1", "b2"]
        worker.shutdown()
        await working


async def test_its_request_id_is_no_starts(one: Live) -> None:
    HOLD[0].set()
    start = await one.client.run_stub.StartRun(
        runs_pb2.StartRunRequest(type="performs", task_queue="default", request_id="r")
    )
    async with one.working(workflows=[performs], activities=[held]):
        await result(one.client.run(start.run_id))
    request = repairs_pb2.ForkRunRequest(run_id=start.run_id, step=repairs_pb2.StepName(name="held"), request_id="r")
    fork = await one.client.run_stub.ForkRun(request)
    assert (fork.started, fork.run_id != start.run_id) == (True, True)
    request.step.name = "a"
    with pytest.raises(grpc.aio.AioRpcError, match="another ForkRun request"):
        await one.client.run_stub.ForkRun(request)


async def test_an_archived_run_has_no_record(one: Live) -> None:
    HOLD[0].set()
    source = await started(one, performs)
    async with one.working(workflows=[performs], activities=[held]):
        await result(source)
        fork = await forked(source, "held")
        assert await result(fork) == ["a1", "b2"]
        await one.client.retention.mark_archived(source.run_id, archive_uri="file:///archive/1")
        with pytest.raises(reasons.RunPurged, match="file:///archive/1"):
            await source.fork("held")
        # A fork stands by itself.
        assert await result(await forked(fork, "held")) == ["a1", "b3"]
