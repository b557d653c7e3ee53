"""The client: starts that share calls, repeats that are safe, waits that miss nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tests.sdk.fake_service import FakeService

import stepwell_server.service  # noqa: F401 - declares every reason
from stepwell import Client, Context, RunFailed, errors, reasons, sync, workflow
from stepwell_server import refusals

Working = Callable[..., Any]


@workflow
async def echo(ctx: Context, value: Any) -> Any:
    return value


@workflow
async def waits(ctx: Context) -> Any:
    return await ctx.wait_signal("go")


async def test_starts_at_once_share_calls(service: FakeService, client: Client, working: Working) -> None:
    """Five hundred starts are a handful of calls, each with its own answer."""
    async with working(workflows=[echo]):
        handles = await asyncio.gather(*(client.start_run(echo, number) for number in range(500)))
        assert service.calls["BatchStartRuns"] <= 6
        assert await asyncio.gather(*(handle.result() for handle in handles)) == list(range(500))
    assert service.calls["WatchRuns"] == 1


async def test_a_refused_start_is_one_callers(service: FakeService, client: Client) -> None:
    """Its neighbours in the call are started."""
    answers: list[Any] = await asyncio.gather(
        client.start_run(waits, workflow_id="one"),
        client.start_run(waits, workflow_id="two"),
        client.start_run(waits, workflow_id="one"),
        return_exceptions=True,
    )
    taken, good, bad = answers
    assert not isinstance(taken, BaseException)
    assert not isinstance(good, BaseException)
    assert isinstance(bad, reasons.WorkflowIdInUse)
    assert isinstance(bad, errors.AlreadyExists)
    assert bad.reason == "WORKFLOW_ID_IN_USE"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_lost_answer_is_no_second_run(service: FakeService, client: Client, code: grpc.StatusCode) -> None:
    """The repeat names the same run. A server that ends leaves what it had not taken in yet as cancelled."""
    service.fail_starts, service.fail_as = 2, code
    handle = await client.start_run(echo, 1)
    assert list(service.runs) == [handle.run_id]


async def test_a_run_that_ended_before_the_wait(service: FakeService, client: Client, working: Working) -> None:
    """It is read once; a run started while the watch is live needs no reading at all."""
    async with working(workflows=[echo]):
        first = await client.start_run(echo, 1)
        await service.until(lambda: service.ends)
        assert await first.result() == 1
        assert service.calls["GetRun"] == 1
        second = await client.start_run(echo, 2)
        await service.until(lambda: len(service.ends) == 2)
        assert await second.result() == 2
        assert await second.result() == 2
        assert service.calls["GetRun"] == 1
        assert await client.run(first.run_id, as_type=int).result() == 1


async def test_ends_are_followed_over_a_watch_that_breaks(
    service: FakeService, client: Client, working: Working
) -> None:
    """In the order of their commits, and none is missed meanwhile."""
    async with working(workflows=[echo]):
        followed = client.watch_runs()
        upcoming = asyncio.ensure_future(anext(followed))
        await service.until(lambda: service.watch_events)
        started = [await client.start_run(echo, 1)]
        async with asyncio.timeout(60):
            seen = [await upcoming]
            service.is_deaf = True
            started.append(await client.start_run(echo, 2))
            await service.until(lambda: len(service.ends) == 2)
            service.is_deaf = False
            seen.append(await anext(followed))
        await followed.aclose()
    assert [end.run_id for end in seen] == [handle.run_id for handle in started]


async def test_without_a_watch_each_wait_is_a_call(service: FakeService, client: Client, working: Working) -> None:
    """A service that does not offer the stream is waited for otherwise."""
    service.watches = False
    async with working(workflows=[echo]):
        handle = await client.start_run(echo, 1)
        assert await handle.result() == 1


async def test_signals_at_once_share_calls(service: FakeService, client: Client, working: Working) -> None:
    """And each reaches its own run."""
    async with working(workflows=[waits]):
        handles = await asyncio.gather(*(client.start_run(waits) for _ in range(50)))
        await asyncio.gather(*(handle.signal("go", number) for number, handle in enumerate(handles)))
        assert service.calls["BatchSignalRuns"] <= 4
        assert await asyncio.gather(*(handle.result() for handle in handles)) == list(range(50))


async def test_an_unknown_run(service: FakeService, client: Client) -> None:
    """The reason is the class."""
    handle: Any = client.run("00000000-0000-7000-8000-000000000000")
    with pytest.raises(reasons.RunNotFound):
        await handle.describe()
    with pytest.raises(reasons.RunNotFound):
        await handle.result()


async def test_nobody_there() -> None:
    """The error says what to do."""
    with pytest.raises(errors.Unavailable, match="stepwell-server dev"):
        await Client.connect("127.0.0.1:1", connect_timeout=0.2)


async def test_the_sync_client_leaves_nothing_under_way(service: FakeService) -> None:
    """A task that is pending when its loop goes makes Python complain on the terminal of whoever called."""

    def leave() -> bool:
        here = sync.Client.connect(service.address)
        left = asyncio.run_coroutine_threadsafe(asyncio.sleep(600), here._loop._loop)
        here.close()
        return left.cancelled()

    assert await asyncio.to_thread(leave)


async def test_the_sync_client(service: FakeService, client: Client, working: Working) -> None:
    """The same calls, from a thread without a loop."""

    def use() -> list[Any]:
        with sync.Client.connect(service.address) as here:
            handle = here.start_run(waits)
            with pytest.raises(TimeoutError):
                handle.result(timeout=0.01)
            handle.signal("go", "went")
            failing = here.start_run("unknown to the code below", None)
            failing.cancel()
            return [handle.result(timeout=60), here.start_run(echo, 5).result(timeout=60)]

    async with working(workflows=[waits, echo]):
        assert await asyncio.to_thread(use) == ["went", 5]


def test_every_reason_has_its_class() -> None:
    """One to one with the service's, below the same code."""
    assert set(reasons.REASONS) == set(refusals.REASONS)
    for reason, refusal in refusals.REASONS.items():
        assert reasons.REASONS[reason].__name__ == refusal.__name__
        assert reasons.CODES[refusal.code].code is reasons.REASONS[reason].code


def test_a_failed_run_tells_its_phase() -> None:
    """Also without a failure."""
    assert str(RunFailed("r", "TERMINATED", None)) == "run r is TERMINATED"
