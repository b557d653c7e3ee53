"""Following a namespace by the SDK: ends, and starts and pauses if they are asked for, by both clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.stream.kit import Replica, replica

from stepwell import Client, RunFailed, RunHandle
from stepwell.sync import Client as SyncClient
from stepwell.v1 import runs_pb2, types_pb2

TIMEOUT = 60
LIFE = ["STARTED", "PAUSED", "RESUMED", "TERMINATED"]


@pytest_asyncio.fixture
async def one(database_url: str) -> Any:
    async with replica(database_url) as made:
        yield made


def word_of(told: Any) -> str:
    if isinstance(told, runs_pb2.WatchRunsResponse.Notice):
        return runs_pb2.RunNews.Name(told.news).removeprefix("RUN_NEWS_")
    return types_pb2.RunPhase.Name(told.phase).removeprefix("RUN_PHASE_")


async def live(client: Client, one: Replica) -> str:
    """A run that is started, paused, resumed and ended."""
    handle: RunHandle[Any] = client.run(await one.start())
    await handle.pause("lunch")
    await handle.resume()
    await handle.terminate("over")
    return handle.run_id


async def heard(news: AsyncIterator[Any], client: Client, one: Replica, expected: list[str]) -> None:
    """Follows from now on; that it does is told by the first line. Then one run's whole life is heard."""
    first = asyncio.ensure_future(anext(news))
    while not first.done():
        await live(client, one)
        await asyncio.wait([first], timeout=0.2)
    run_id = await live(client, one)
    words: list[str] = []
    async with asyncio.timeout(TIMEOUT):
        while len(words) < len(expected):
            told = await anext(news)
            words += [word_of(told)] if told.run_id == run_id else []
    assert words == expected


async def test_a_client_follows_what_it_asks_for(one: Replica) -> None:
    async with await Client.connect(one.service.address) as client:
        wanted: tuple[tuple[dict[str, bool], list[str]], ...] = (
            ({}, LIFE[3:]),
            ({"starts": True}, [LIFE[0], LIFE[3]]),
            ({"pauses": True}, LIFE[1:]),
            ({"starts": True, "pauses": True}, LIFE),
        )
        for asked, expected in wanted:
            news: Any = client.watch_runs(**asked)
            await heard(news, client, one, expected)
            await news.aclose()


async def test_a_sync_client_does_too(one: Replica) -> None:
    def follow() -> list[str]:
        with SyncClient.connect(one.service.address) as client:
            words: dict[str, list[str]] = {}
            for told in client.watch_runs(starts=True, pauses=True):
                words.setdefault(told.run_id, []).append(word_of(told))
                if words[told.run_id] == LIFE:
                    return words[told.run_id]
        return []

    async with await Client.connect(one.service.address) as client:
        following = asyncio.create_task(asyncio.to_thread(follow))
        async with asyncio.timeout(TIMEOUT):
            while not following.done():
                await live(client, one)
                await asyncio.wait([following], timeout=0.2)
        assert following.result() == LIFE


async def test_a_fault_of_ours_keeps_nobody_waiting(
    one: Replica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be taken in is told again, from where the watch had come to."""
    async with await Client.connect(one.service.address) as client:
        told, faults = client._run_ends.told, [ValueError("a fault")]

        def faulty(message: runs_pb2.WatchRunsResponse) -> Any:
            if message.ends and faults:
                raise faults.pop()
            return told(message)

        monkeypatch.setattr(client._run_ends, "told", faulty)
        handle: RunHandle[Any] = client.run(await one.start())
        waiting = asyncio.ensure_future(handle.result())
        await client.watcher._every._live.wait()
        await handle.terminate("over")
        with pytest.raises(RunFailed):
            await asyncio.wait_for(waiting, TIMEOUT)
    assert "a fault" in caplog.text


async def test_a_client_hears_of_its_own_runs_alone(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others start and end is not told to it, nor is a job; what it waits for besides comes by another stream."""
    async with (
        await Client.connect(one.service.address) as client,
        await Client.connect(one.service.address) as other,
    ):
        heard: list[str] = []
        told = client._run_ends.told

        def listen(message: runs_pb2.WatchRunsResponse) -> Any:
            heard.extend(end.run_id for end in message.ends)
            return told(message)

        monkeypatch.setattr(client._run_ends, "told", listen)
        await ended(await client.start_run("t"))
        mine = [await client.start_run("t") for _ in range(3)]
        theirs = [await other.start_run("t") for _ in range(3)]
        for handle in (*theirs, *mine):
            await ended(handle)
        assert all(handle.run_id.endswith(client.watcher.ending) for handle in mine)
        assert [run_id for run_id in heard if run_id in {handle.run_id for handle in theirs}] == []
        late = await other.start_run("t")
        waiting: asyncio.Future[Any] = asyncio.ensure_future(client.run(late.run_id).result())
        await client.watcher._every._live.wait()
        await late.terminate("over")
        with pytest.raises(RunFailed):
            await asyncio.wait_for(waiting, TIMEOUT)


async def ended(handle: RunHandle[Any]) -> None:
    """Waits for an end, which comes."""
    waiting = asyncio.ensure_future(handle.result())
    await handle.terminate("over")
    with pytest.raises(RunFailed):
        await asyncio.wait_for(waiting, TIMEOUT)
