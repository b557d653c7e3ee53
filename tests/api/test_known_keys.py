"""What a replica knows of keys: for how long, what floods of wrong ones cost, and how streams end with their key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tests.api.keyed import Keyed, bearer, keyed, refused
from tests.service import soon

from stepwell import Client, Context, Worker, workflow
from stepwell.errors import PermissionDenied
from stepwell.reasons import ApiKeyRevoked
from stepwell.v1 import runs_pb2, runs_pb2_grpc, workers_pb2, workers_pb2_grpc
from stepwell_server import refusals
from stepwell_server.dispatch import api_keys as known_keys
from stepwell_server.dispatch import callers
from stepwell_server.model.api_keys import Role, new_secret
from stepwell_server.store import api_keys
from stepwell_server.store.faults import Lost

QUICK = 0.4
UNKNOWN = ("UNAUTHENTICATED", "API_KEY_UNKNOWN")
REVOKED = ("UNAUTHENTICATED", "API_KEY_REVOKED")
HELLO = {"worker_id": "w", "task_queues": ["q"], "workflow_types": ["t"]}


@pytest_asyncio.fixture
async def server(database_url: str) -> AsyncIterator[Keyed]:
    async with keyed(database_url, key_seconds=3_600.0) as made:
        yield made


@pytest_asyncio.fixture
async def quick(database_url: str) -> AsyncIterator[Keyed]:
    """One that looks again soon."""
    async with keyed(database_url, key_seconds=QUICK) as made:
        yield made


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many keys each question to the database was about."""
    asked: list[int] = []
    look = api_keys.own_by_prefix

    async def counted(database: Any, prefixes: Any) -> Any:
        asked.append(len(prefixes))
        return await look(database, prefixes)

    monkeypatch.setattr(api_keys, "own_by_prefix", counted)
    return asked


async def revoke_elsewhere(server: Keyed, secret: str) -> None:
    """As another replica does: nobody here is told."""
    assert await api_keys.revoke(server.service.database, server.service.clock.now(), prefix=secret[:12])


def watching(server: Keyed, key: str) -> Any:
    stub: Any = runs_pb2_grpc.RunServiceStub(server.channel)
    return stub.WatchRuns(runs_pb2.WatchRunsRequest(), metadata=bearer(key))


def connecting(server: Keyed, key: str) -> Any:
    stub: Any = workers_pb2_grpc.WorkerServiceStub(server.channel)
    return stub.Connect(metadata=bearer(key))


async def welcome(stream: Any, **hello: Any) -> Any:
    await stream.write(workers_pb2.ConnectRequest(hello=workers_pb2.Hello(**{**HELLO, **hello})))
    return (await stream.read()).welcome


async def rest_of(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_known_key_costs_no_question(server: Keyed, looks: list[int]) -> None:
    key = await server.make(Role.READER)
    for _ in range(20):
        await server.call("GetNamespace", key)
    assert looks == [1]


async def test_a_wrong_key_is_asked_for_once(server: Keyed, looks: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it comes, one after another and at once, for as long as what is known of keys counts."""
    wrong = new_secret()
    said = await asyncio.gather(*(server.refused("GetNamespace", wrong) for _ in range(50)))
    monkeypatch.setattr(known_keys, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1_800))
    said += [await server.refused("GetNamespace", wrong) for _ in range(20)]
    assert set(said) == {UNKNOWN}
    assert looks == [1]


async def test_many_wrong_keys_are_asked_for_together(server: Keyed, looks: list[int]) -> None:
    """One question at a time; a known key is not held up."""
    key = await server.make(Role.READER)
    await server.call("GetNamespace", key)
    looks.clear()
    said = await asyncio.gather(*(server.refused("GetNamespace", new_secret()) for _ in range(300)))
    assert set(said) == {UNKNOWN}
    assert sum(looks) == 300
    assert len(looks) < 100
    looks.clear()
    await server.call("GetNamespace", key)
    assert looks == []


async def test_what_waits_and_what_is_known_is_bounded(
    server: Keyed, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong keys push out wrong keys, and no right one."""
    key = await server.make(Role.READER)
    await server.call("GetNamespace", key)
    monkeypatch.setattr(known_keys, "_MOST_WANTED", 2)
    monkeypatch.setattr(known_keys, "_MOST_KNOWN", 3)
    for _ in range(6):
        assert await server.refused("GetNamespace", new_secret()) == UNKNOWN
    keys = server.service.keys
    assert (len(keys._wrong), len(keys._known)) == (3, 1)
    said = await asyncio.gather(*(refused_by(keys, new_secret()) for _ in range(4)))
    assert sorted(said) == ["API_KEY_UNKNOWN", "API_KEY_UNKNOWN", "QUEUE_FULL", "QUEUE_FULL"]
    looks.clear()
    await server.call("GetNamespace", key)
    assert looks == []


async def refused_by(keys: known_keys.KnownKeys, secret: str) -> str:
    try:
        await keys.learn(secret)
    except refusals.Refusal as refusal:
        return refusal.reason
    return "OK"


async def test_a_key_revoked_elsewhere_is_taken_for_seconds_only(quick: Keyed) -> None:
    key = await quick.make(Role.READER)
    await quick.call("GetNamespace", key)
    await revoke_elsewhere(quick, key)

    async def is_refused() -> bool:
        return await quick.refused("GetNamespace", key) == REVOKED

    await soon(is_refused)


async def test_what_was_known_before_does_not_count_for_longer(server: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where nobody looks again in the background."""
    key = await server.make(Role.READER)
    await server.call("GetNamespace", key)
    await revoke_elsewhere(server, key)
    assert (await server.refused("GetNamespace", key))[0] == "OK"
    (caller,) = [each for each in server.service.keys._known.values() if each.name == key[:12]]
    assert 0 < caller.until - time.monotonic() <= 3_600
    caller.until = time.monotonic()
    assert await server.refused("GetNamespace", key) == REVOKED


@pytest.mark.parametrize("open_stream", [watching, connecting])
@pytest.mark.parametrize("how", ["revoked", "revoked elsewhere", "expired"])
async def test_streams_end_with_their_key(quick: Keyed, open_stream: Callable[[Keyed, str], Any], how: str) -> None:
    """With the reason; streams of other keys go on."""
    role = Role.WORKER if open_stream is connecting else Role.READER
    expire_time = quick.service.clock.now() + timedelta(hours=1) if how == "expired" else None
    key, other = await quick.make(role, expire_time=expire_time), await quick.make(role)
    streams = [open_stream(quick, each) for each in (key, other)]
    if open_stream is connecting:
        for place, stream in enumerate(streams):
            assert (await welcome(stream, worker_id=f"w{place}")).session_id

    async def both_are_open() -> bool:
        return len(quick.service.keys._streams) == 2

    await soon(both_are_open)
    if how == "revoked":
        await quick.call("RevokeApiKey", prefix=key[:12])
    elif how == "revoked elsewhere":
        await revoke_elsewhere(quick, key)
    else:
        await quick.call("AdvanceClock", by=Duration(seconds=3_601))
    async with asyncio.timeout(60):
        ended = await refused(rest_of(streams[0]))
    assert ended == ("UNAUTHENTICATED", "API_KEY_EXPIRED" if how == "expired" else "API_KEY_REVOKED")
    await quick.service.keys.look_again()
    assert len(quick.service.keys._streams) == 1
    assert not streams[1].done()
    streams[1].cancel()

    async def none_is_open() -> bool:
        return len(quick.service.keys._streams) == 0

    await soon(none_is_open)


async def test_a_stream_begins_with_a_key_that_holds(server: Keyed) -> None:
    key = await server.make(Role.READER)
    await revoke_elsewhere(server, key)
    assert await refused(rest_of(watching(server, key))) == REVOKED
    assert await refused(rest_of(watching(server, ""))) == ("UNAUTHENTICATED", "API_KEY_MISSING")
    assert len(server.service.keys._streams) == 0


async def test_while_the_database_is_away_streams_stay(quick: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known to have changed."""
    stream = connecting(quick, await quick.make(Role.WORKER))
    await welcome(stream)
    looked = asyncio.Event()

    async def away(database: Any, prefixes: Any) -> Any:
        looked.set()
        raise Lost("away")

    monkeypatch.setattr(api_keys, "own_by_prefix", away)
    for _ in range(2):
        looked.clear()
        async with asyncio.timeout(60):
            await looked.wait()
    assert not stream.done()
    stream.cancel()


async def test_a_stream_for_one_namespace_stays_in_it(server: Keyed) -> None:
    await server.call("CreateNamespace", namespace="a")
    key = await server.make(Role.WORKER, "a")
    for namespace in ("", "main"):
        stream = connecting(server, key)
        denied = ("PERMISSION_DENIED", "NAMESPACE_DENIED")
        assert await refused(welcome(stream, namespace=namespace)) == denied
    stream = connecting(server, key)
    assert (await welcome(stream, namespace="a")).session_id
    stream.cancel()


async def test_when_a_key_was_used_is_kept_coarsely(server: Keyed) -> None:
    """Calls write nothing; once a minute what was used is written in one statement."""
    key = await server.make(Role.READER, label="used")
    keys = server.service.keys

    async def used() -> bool:
        (found,) = (await server.call("ListApiKeys", filter='label = "used"')).api_keys
        return bool(found.HasField("use_time"))

    await keys.note_use()
    assert not await used()
    await server.call("GetNamespace", key)
    assert not await used()
    await keys.note_use()
    assert await used()


@workflow
async def greet(ctx: Context, name: str) -> str:
    return f"Hello, {name}"


async def test_a_worker_s_key_is_enough_to_work(server: Keyed) -> None:
    """A worker with it does what a program with a client's starts; neither can do the other's part."""
    address = server.service.address
    worker_key, client_key = await server.make(Role.WORKER), await server.make(Role.CLIENT)
    async with (
        await Client.connect(address, api_key=worker_key) as working,
        await Client.connect(address, api_key=client_key) as asking,
    ):
        worker = Worker(working, workflows=[greet], activities=[], drain_seconds=1.0)
        task = asyncio.create_task(worker.run())
        run = await asking.start_run(greet, "Ada")
        async with asyncio.timeout(60):
            assert await run.result() == "Hello, Ada"
        worker.shutdown()
        await task
        with pytest.raises(PermissionDenied):
            await working.start_run(greet, "Ada")
        with pytest.raises(PermissionDenied):
            await Worker(asking, workflows=[greet], activities=[], drain_seconds=1.0).run()


async def test_a_worker_whose_key_is_revoked_says_so_and_ends(quick: Keyed) -> None:
    key = await quick.make(Role.WORKER)
    async with await Client.connect(quick.service.address, api_key=key) as client:
        worker = Worker(client, workflows=[greet], activities=[], drain_seconds=1.0)
        task = asyncio.create_task(worker.run())
        await worker.is_connected.wait()
        await revoke_elsewhere(quick, key)
        async with asyncio.timeout(60):
            with pytest.raises(ApiKeyRevoked):
                await task


async def held_up(server: Keyed, key: str) -> Any:
    """A stream whose server can't get rid of a message, since nobody reads."""
    for _ in range(8):
        await server.call("StartRun", type="t", task_queue="q", input={"data": b"x" * 2**20})
    stream = connecting(server, key)
    capacity = workers_pb2.Capacity(kind=workers_pb2.TASK_KIND_RUN, task_queue="q", max_outstanding=8)
    await welcome(stream, capacity=workers_pb2.CapacityUpdate(capacities=[capacity]))

    async def is_sending() -> bool:
        session = next(iter(server.service.dispatcher.sessions.values()))
        (streams,) = server.service.keys._streams._streams.values()
        return len(session.held) == 8 and all(each.is_sending for each in streams)

    await soon(is_sending)
    return stream


async def test_who_reads_late_hears_why_the_stream_ended(server: Keyed) -> None:
    """A message that is on its way is not cut."""
    key = await server.make(Role.WORKER)
    stream = await held_up(server, key)
    await revoke_elsewhere(server, key)
    await server.service.keys.look_again()
    async with asyncio.timeout(60):
        assert await refused(rest_of(stream)) == REVOKED
    assert len(server.service.keys._streams) == 0


async def test_who_never_reads_does_not_keep_the_stream(server: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_LAST_WORDS_SECONDS", 0.05)
    key = await server.make(Role.WORKER)
    stream = await held_up(server, key)
    await revoke_elsewhere(server, key)
    await server.service.keys.look_again()

    async def none_is_open() -> bool:
        return len(server.service.keys._streams) == 0

    await soon(none_is_open)
    stream.cancel()
