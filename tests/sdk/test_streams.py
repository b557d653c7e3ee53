"""A worker's session: what a broken stream costs, and what leaving does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.sdk.fake_service import FakeService

from stepwell import ActivityFailed, Client, Context, Worker, activity, workflow
from stepwell.v1 import workers_pb2
from stepwell.v1.types_pb2 import Payload
from stepwell.v1.workers_pb2 import ReportResult

Working = Callable[..., Any]
calls: list[str] = []
begun = asyncio.Event()


def note(text: str) -> str:
    calls.append(text)
    return text


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()
    begun.clear()


@activity
async def pause(seconds: float) -> float:
    calls.append("pause")
    begun.set()
    # Long enough for what happens to its stream meanwhile.
    await asyncio.sleep(seconds)
    return seconds


@workflow
async def steps(ctx: Context) -> list[Any]:
    first = await ctx.step("first", note, "first")
    paused = await ctx.activity(pause, 0.05)
    return [first, paused, await ctx.step("last", note, "last")]


async def test_lost_answers_are_asked_for_again(service: FakeService, client: Client, working: Working) -> None:
    """Reports without an answer are sent again after the resume, and recognised."""
    async with working(workflows=[steps], activities=[pause]):
        service.swallow_results = 3
        async with asyncio.timeout(60):
            assert await (await client.start_run(steps)).result() == ["first", 0.05, "last"]
    assert calls == ["first", "pause", "last"]
    assert len(service.sessions) == 1
    assert sum(result.status == ReportResult.STATUS_DUPLICATE for result in service.results) >= 2


async def test_an_assignment_that_comes_twice_is_one_grant(
    service: FakeService, client: Client, working: Working
) -> None:
    """Of a run that waits as of an activity at work: neither is begun again."""
    may_end = asyncio.Event()

    @activity(name="pause")
    async def gated(seconds: float) -> float:
        calls.append("pause")
        begun.set()
        await may_end.wait()
        return seconds

    async with working(workflows=[steps], activities=[gated]), asyncio.timeout(60):
        handle = await client.start_run(steps)
        await begun.wait()
        service.received.clear()
        service.assign_again()
        await service.until(lambda: sum(len(message.acks) for message in service.received) >= 2)
        may_end.set()
        assert await handle.result() == ["first", 0.05, "last"]
    assert calls == ["first", "pause", "last"]


async def test_a_cut_stream_is_resumed(service: FakeService, client: Client, working: Working) -> None:
    """Work in hand goes on meanwhile."""
    async with working(workflows=[steps], activities=[pause]):
        handle = await client.start_run(steps)
        await begun.wait()
        service.cut()
        async with asyncio.timeout(60):
            assert await handle.result() == ["first", 0.05, "last"]
    assert calls == ["first", "pause", "last"]
    assert len(service.sessions) == 1


async def test_a_refused_resume_drops_what_was_held(service: FakeService, client: Client, working: Working) -> None:
    """A new session begins with nothing; recorded steps do not run again."""
    async with working(workflows=[steps], activities=[pause]):
        handle = await client.start_run(steps)
        await begun.wait()
        service.expire_sessions = True
        service.cut()
        async with asyncio.timeout(60):
            assert await handle.result() == ["first", 0.05, "last"]
    assert calls == ["first", "pause", "pause", "last"]
    assert len(service.sessions) == 2


async def test_leaving_gives_waiting_runs_back(service: FakeService, client: Client, working: Working) -> None:
    """What is in work is finished, waiting runs are released, and another worker goes on."""

    @workflow
    async def waits(ctx: Context) -> list[str]:
        return [await ctx.step("first", note, "first"), await ctx.wait_signal("go")]

    async with working(workflows=[waits, steps], activities=[pause]):
        waiting = await client.start_run(waits)
        busy = await client.start_run(steps)
        await begun.wait()
    assert any(message.drain for message in service.received)
    assert service.runs[waiting.run_id].holder is None
    async with working(workflows=[waits, steps], activities=[pause]):
        await waiting.signal("go", "went")
        assert await waiting.result() == ["first", "went"]
        assert await busy.result() == ["first", 0.05, "last"]
    assert calls.count("first") == 2
    assert calls.count("pause") == 1


async def test_work_that_does_not_end_is_given_back(service: FakeService, client: Client, working: Working) -> None:
    """After its time the worker leaves without it."""

    @activity
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    @workflow
    async def asks(ctx: Context) -> None:
        await ctx.activity(endless)

    async with working(workflows=[asks], activities=[endless]):
        await client.start_run(asks)
        await begun.wait()
    assert all(task.holder is None for task in service.activities.values())


async def test_acknowledgements_travel_with_what_is_said(
    service: FakeService, client: Client, working: Working
) -> None:
    """Quick activities need none: their report says that they came. Many reports share a message."""

    @activity
    async def quick(number: int) -> int:
        return number

    @workflow
    async def wide(ctx: Context) -> int:
        return len(await ctx.map(quick, range(200)))

    async with working(workflows=[wide], activities=[quick]):
        assert await (await client.start_run(wide)).result() == 200
    reports = sum(len(message.reports) for message in service.received)
    messages = sum(1 for message in service.received if message.reports)
    assert reports >= 200
    assert messages < reports / 2
    assert not any(ref.task_id.startswith("act:") for message in service.received for ref in message.acks)


async def test_a_function_without_its_decorator_is_refused(client: Client) -> None:
    """The error says what to do."""

    async def plain(ctx: Context) -> None: ...

    with pytest.raises(TypeError, match="decorate it with @workflow"):
        Worker(client, workflows=[plain])
    with pytest.raises(TypeError, match="decorate it with @activity"):
        Worker(client, activities=[plain])


async def test_news_of_a_task_in_the_message_that_assigns_it(
    service: FakeService, client: Client, working: Working
) -> None:
    """Bundling must not put what ended, or a cancellation, before the assignment that it is about."""

    @workflow
    async def waits(ctx: Context) -> Any:
        return await ctx.wait_signal("go")

    @activity
    async def endless() -> None:
        await asyncio.Event().wait()

    @workflow
    async def asks(ctx: Context) -> str:
        try:
            await ctx.activity(endless)
        except ActivityFailed as error:
            return error.type
        return ""

    async with working(workflows=[waits, asks], activities=[endless]):
        handle = await client.start_run(waits)
        run = service.runs[handle.run_id]
        await service.until(lambda: run.steps)
        session = run.holder
        assert session is not None
        service._assign(session, run)
        service._close(run, run.steps[0], Payload(json='"went"'), None)
        service._advance(run, [run.steps[0]])
        async with asyncio.timeout(60):
            assert await handle.result() == "went"

        asking = await client.start_run(asks)
        await service.until(lambda: any(task.holder for task in service.activities.values()))
        task = next(iter(service.activities.values()))
        service._assign(session, task)
        cancel = workers_pb2.CancelTask(ref=task.ref)
        session.out.put_nowait(workers_pb2.ConnectResponse(cancels=[cancel]))
        async with asyncio.timeout(60):
            assert await asking.result() == "Cancelled"
