"""Hearing of ends: every one once, in commit order, on whichever replica, also across breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.api.watching import Watcher
from tests.service import TIMEOUT, Holder, Service, refusal, serving

from stepwell.v1 import namespaces_pb2, runs_pb2, types_pb2
from stepwell_server.clock import TestClock
from stepwell_server.dispatch import watch_streams
from stepwell_server.model.payloads import DATA, JSON, Payload
from stepwell_server.model.runs import Phase
from stepwell_server.store import watches as recorded_watches
from stepwell_server.store.watches import End

TERMINATED, COMPLETED = types_pb2.RUN_PHASE_TERMINATED, types_pb2.RUN_PHASE_COMPLETED


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@asynccontextmanager
async def watching(service: Service, cursor: str = "", namespace: str = "") -> AsyncIterator[Watcher]:
    """A watch that has begun."""
    call = service.runs.WatchRuns(runs_pb2.WatchRunsRequest(cursor=cursor, namespace=namespace))
    watcher = Watcher(call)
    await watcher.read()
    yield watcher
    call.cancel()


async def run_and_end(service: Service, count: int, namespace: str = "") -> list[str]:
    """Starts and ends runs, many at a time."""
    requests = [runs_pb2.StartRunRequest(type="t", namespace=namespace)] * count
    starts = await asyncio.gather(*(service.runs.StartRun(request, timeout=TIMEOUT) for request in requests))
    ids = [response.run_id for response in starts]
    await asyncio.gather(*(service.end(run_id, namespace) for run_id in ids))
    return ids


async def invalid(service: Service, cursor: str, namespace: str = "") -> str:
    call = service.runs.WatchRuns(runs_pb2.WatchRunsRequest(cursor=cursor, namespace=namespace))
    code, reason = await refusal(call.read())
    assert code == "INVALID_ARGUMENT"
    return reason


async def execute(service: Service, statement: str) -> None:
    connection = await asyncpg.connect(service.settings.database_url, server_settings={"search_path": "stepwell"})
    await connection.execute(statement)
    await connection.close()


async def test_a_stream_tells_how_runs_end(service: Service) -> None:
    """The first message comes at once; then ends with their result or failure, and no end from before."""
    await run_and_end(service, 3)
    async with watching(service) as watcher:
        assert watcher.ends == []
        run_id = await service.begin(workflow_id="w", task_queue="q")
        await (await Holder.of(service, "q")).end(Phase.COMPLETED, Payload(JSON, b'{"a":1}'))
        await watcher.until(1)
        other = await service.begin()
        await service.end(other)
        await watcher.until(2)
    first, second = watcher.ends
    assert (first.run_id, first.workflow_id, first.phase, first.result.json) == (run_id, "w", COMPLETED, '{"a":1}')
    assert not first.HasField("failure")
    assert (second.run_id, second.phase, second.failure.message) == (other, TERMINATED, "test")
    assert not second.HasField("result")
    assert not second.result_omitted


async def test_a_large_result_is_left_out(service: Service, replica: Service) -> None:
    """From memory and from the table alike."""
    async with watching(service) as near, watching(replica) as far:
        for size in (65_536, 65_537):
            await service.begin(task_queue="q")
            await (await Holder.of(service, "q")).end(Phase.COMPLETED, Payload(DATA, bytes(size)))
        for watcher in (near, far):
            await watcher.until(2)
            assert [len(end.result.data) for end in watcher.ends] == [65_536, 0]
            assert [end.result_omitted for end in watcher.ends] == [False, True]


async def test_a_stream_is_of_its_namespace(service: Service, replica: Service) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    async with watching(service) as mine, watching(replica, namespace="other") as others:
        theirs = await run_and_end(service, 2, "other")
        ours = await run_and_end(service, 2)
        assert sorted(await mine.until(2)) == sorted(ours)
        assert sorted(await others.until(2)) == sorted(theirs)


async def test_two_replicas_hear_of_each_others_ends(service: Service, replica: Service) -> None:
    """Every end once on each, in the same order for those of one replica."""
    async with watching(service) as here, watching(replica) as there:
        ends = await asyncio.gather(*(run_and_end(each, 60) for each in (service, replica)))
        everyone = sorted(ends[0] + ends[1])
        assert sorted(await here.until(120)) == everyone
        assert sorted(await there.until(120)) == everyone


async def test_a_stream_goes_on_from_its_cursor_on_another_replica(service: Service, replica: Service) -> None:
    """Whatever ended while nobody listened is heard of, nothing twice."""
    async with watching(service) as first:
        ids = await run_and_end(service, 20)
        await first.until(1)
    ids += await run_and_end(replica, 20)
    async with watching(replica, first.cursor) as second:
        ids += await run_and_end(service, 20)
        rest = await second.until(len(ids) - len(first.heard))
    assert sorted(first.heard + rest) == sorted(ids)


async def test_a_batch_is_cut_where_a_message_is_full(
    service: Service, replica: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cursor in the middle of a batch goes on with its next end: none is missed or doubled."""
    monkeypatch.setattr(watch_streams, "_MESSAGE_NEWS", 3)
    heard: list[str] = []
    async with watching(service) as watcher:
        ids = await run_and_end(service, 50)
    cursor = watcher.cursor
    for place in range(12):
        async with watching((service, replica)[place % 2], cursor) as watcher:
            await watcher.until(3)
        assert len(watcher.heard) % 3 == 0
        heard += watcher.heard
        cursor = watcher.cursor
    async with watching(service, cursor) as watcher:
        heard += await watcher.until(50 - len(heard))
    assert sorted(heard) == sorted(ids)


async def test_whoever_begins_while_runs_end_misses_none(service: Service, replica: Service) -> None:
    """A watcher hears once of each run that was ended after its first message, whenever that came."""

    async def join(place: int) -> None:
        chosen = random.choice((service, replica))
        for _ in range(place % 5):
            await chosen.begin()
        async with watching(chosen) as watcher:
            ids = await run_and_end(service, 5) + await run_and_end(replica, 5)
            while not set(ids) <= set(watcher.heard):
                await watcher.read()
            assert len(watcher.heard) == len(set(watcher.heard))

    await asyncio.gather(*(join(place) for place in range(12)))


async def test_what_memory_did_not_bring_is_read(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap in what committers tell (an outcome that stayed unknown) is filled from the table, in order."""
    told = service.watches.committed
    chance = random.Random(7)

    def forgetful(committer: int, position: int, changes: Sequence[Any]) -> None:
        if chance.random() < 0.6:
            told(committer, position, changes)

    monkeypatch.setattr(service.watches, "committed", forgetful)
    async with watching(service) as watcher:
        ids = [run_id for _ in range(10) for run_id in await run_and_end(service, 4)]
        assert sorted(await watcher.until(40)) == sorted(ids)


async def test_a_batch_that_changes_nothing_stands_for_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end that is committed while the feed begins is told, though more is decided before the table is read."""
    read, begun, go = recorded_watches.heads, asyncio.Event(), asyncio.Event()

    async def slow(database: Any) -> Any:
        heads = await read(database)
        begun.set()
        await go.wait()
        go.clear()
        return heads

    run_id = await service.begin()
    monkeypatch.setattr(recorded_watches, "heads", slow)
    watcher = Watcher(service.runs.WatchRuns(runs_pb2.WatchRunsRequest()))
    await begun.wait()
    await service.end(run_id)
    begun.clear()
    go.set()
    await watcher.read()
    await begun.wait()
    # The run has ended: nothing is written.
    again = await service.runs.TerminateRun(runs_pb2.TerminateRunRequest(run_id=run_id), timeout=TIMEOUT)
    assert not again.accepted
    monkeypatch.setattr(recorded_watches, "heads", read)
    go.set()
    async with asyncio.timeout(TIMEOUT):
        assert await watcher.until(1) == [run_id]
    watcher.call.cancel()


async def test_a_cursor_may_be_ahead_of_its_replica(service: Service, database_url: str) -> None:
    """What the feed brings late, and the stream has seen elsewhere, is not told again."""
    async with serving(database_url, watch_poll_seconds=1000.0) as late, watching(late) as witness:
        async with watching(service) as watcher:
            await run_and_end(service, 5)
            await watcher.until(5)
        async with watching(late, watcher.cursor) as ahead:
            late.watches.hint()
            await witness.until(5)
            ids = await run_and_end(late, 1)
            assert await ahead.until(1) == ids


async def test_whoever_comes_while_the_table_is_read_misses_nothing(
    service: Service, replica: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends being read are those of the namespaces watched before; a new one's are read again."""
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    async with watching(service, namespace="other") as watcher:
        cursor = watcher.cursor
    read, reading, go = recorded_watches.read_ends, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        reading.set()
        await go.wait()
        return await read(*arguments)

    async with watching(replica) as mine:
        monkeypatch.setattr(recorded_watches, "read_ends", slow)
        ids = await run_and_end(service, 1, "other")
        await reading.wait()
        monkeypatch.setattr(recorded_watches, "read_ends", read)
        async with watching(replica, cursor, "other") as theirs:
            go.set()
            assert await theirs.until(1) == ids
        assert mine.ends == []


async def test_a_slow_reader_is_moved_to_the_table(database_url: str) -> None:
    """What waits for it is bounded, and it hears of all the same once it reads."""
    async with serving(database_url, outbox_messages=3) as service:
        namespace = await service.namespaces.get("main")
        news = service.watches.watch(namespace, "")
        assert (await anext(news)).told == []
        (stream,) = service.watches._streams
        ids = [run_id for _ in range(10) for run_id in await run_and_end(service, 3)]
        assert not stream.attached
        assert len(stream._queue) <= 3
        heard: list[str] = []
        while len(heard) < len(ids):
            heard += [str(end.run_id) for end in (await anext(news)).told if isinstance(end, End)]
        assert sorted(heard) == sorted(ids)
        ids = await run_and_end(service, 1)
        assert [str(end.run_id) for end in (await anext(news)).told if isinstance(end, End)] == ids
        assert stream.attached
        await news.aclose()


async def test_a_silent_stream_gives_a_sign_of_life(database_url: str) -> None:
    async with serving(database_url, ping_seconds=0.2) as service, watching(service) as watcher:
        message = await watcher.read()
        assert list(message.ends) == []
        assert message.cursor


async def test_a_foreign_cursor_is_refused(service: Service) -> None:
    """One that was made up, changed, given for another namespace, or by a database that knew more."""
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    await run_and_end(service, 1)
    async with watching(service) as watcher:
        cursor = watcher.cursor
    assert await invalid(service, "x") == "WATCH_CURSOR_INVALID"
    assert await invalid(service, cursor[:-3] + "AAA") == "WATCH_CURSOR_INVALID"
    assert await invalid(service, cursor, "other") == "WATCH_CURSOR_INVALID"
    await execute(service, "UPDATE batches SET position = -position")
    assert await invalid(service, cursor) == "WATCH_CURSOR_INVALID"


async def test_a_cursor_before_what_is_kept_is_refused(service: Service) -> None:
    """Where batches after it are gone, and where it is too old to know."""
    async with watching(service) as watcher:
        await run_and_end(service, 1)
        await watcher.until(1)
    for _ in range(3):
        await run_and_end(service, 1)
    async with watching(service, watcher.cursor):
        pass
    await execute(service, "DELETE FROM batches WHERE position < (SELECT max(position) FROM batches)")
    call = service.runs.WatchRuns(runs_pb2.WatchRunsRequest(cursor=watcher.cursor))
    await call.read()
    assert (await refusal(call.read()))[1] == "WATCH_CURSOR_INVALID"


async def test_an_old_cursor_is_refused(service: Service) -> None:
    async with watching(service) as watcher:
        cursor = watcher.cursor
    clock = TestClock(service.clock)
    clock.advance(timedelta(minutes=54))
    service.watches._clock = clock
    async with watching(service, cursor):
        pass
    clock.advance(timedelta(minutes=2))
    assert await invalid(service, cursor) == "WATCH_CURSOR_INVALID"


async def test_nothing_is_asked_of_the_database_when_nobody_watches(service: Service) -> None:
    """The feed ends with its last user and begins again with the next."""
    async with watching(service):
        task = service.watches._task
    assert task is not None
    service.watches.hint()
    async with asyncio.timeout(TIMEOUT):
        await task
    async with watching(service) as watcher:
        ids = await run_and_end(service, 2)
        assert sorted(await watcher.until(2)) == sorted(ids)
