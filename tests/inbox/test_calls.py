"""What is told of the inbox over the wire, by the whole server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest_asyncio
from tests.inbox.kit import Seen, program, signal, start
from tests.service import refusal, soon

from stepwell import Client
from stepwell.v1 import inbox_pb2, inbox_pb2_grpc
from stepwell_server.loops.connection import SharedConnection
from stepwell_server.loops.inbox import DeadLetters
from stepwell_server.service import Service
from stepwell_server.settings import Settings


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0)
    async with Service(settings) as running:
        yield running


async def empty(sql: asyncpg.Connection) -> bool:
    return not await Seen(sql).waiting()


async def test_a_server_deals_with_it_soon_and_shows_what_it_could_not(service: Service, database_url: str) -> None:
    async with program(database_url) as sql, await Client.connect(service.address) as client, asyncio.timeout(60):
        run_id = await start(sql, workflow_id="w")
        await signal(sql, run_id, "go")
        numbers = [await signal(sql, uuid4(), f"s{place}", payload=f"{place}") for place in range(3)]
        await soon(lambda: empty(sql))
        assert await Seen(sql).signals() == {run_id: ["go"]}
        letters = [letter async for letter in client.inbox.dead_letters()]
        assert [letter.number for letter in letters] == numbers[::-1]
        newest = letters[0]
        assert (newest.verb, newest.name, newest.payload.json) == (inbox_pb2.DeadLetter.VERB_SIGNAL, "s2", "2")
        assert newest.reason == "RUN_NOT_FOUND"
        assert newest.run_id in newest.message
        assert newest.append_time.ToDatetime() <= newest.refuse_time.ToDatetime()
        standing = await client.inbox.describe()
        assert (standing.waiting_count, standing.HasField("oldest_time")) == (0, False)


async def test_what_waits_is_counted(service: Service, database_url: str) -> None:
    """It waits while nobody leads; in another namespace nothing is seen of it."""
    await service.leader.stop()
    async with program(database_url) as sql, await Client.connect(service.address) as client:
        await client.create_namespace("other")
        for _ in range(3):
            await start(sql)
        standing = await client.inbox.describe()
        assert (standing.waiting_count, standing.has_more, standing.HasField("oldest_time")) == (3, False, True)
        async with await Client.connect(service.address, namespace="other") as other:
            assert (await other.inbox.describe()).waiting_count == 0
            assert [letter async for letter in other.inbox.dead_letters()] == []
        stub = inbox_pb2_grpc.InboxServiceStub(client._channel)
        for call in (
            stub.GetInbox(inbox_pb2.GetInboxRequest(namespace="none")),
            stub.ListDeadLetters(inbox_pb2.ListDeadLettersRequest(namespace="none")),
        ):
            assert await refusal(call) == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")


async def test_dead_letters_come_in_pages_and_go_in_time(service: Service, database_url: str) -> None:
    async with program(database_url) as sql, await Client.connect(service.address) as client, asyncio.timeout(60):
        for place in range(5):
            await signal(sql, uuid4(), f"s{place}")
        await soon(lambda: empty(sql))
        stub = inbox_pb2_grpc.InboxServiceStub(client._channel)
        request, names = inbox_pb2.ListDeadLettersRequest(page_size=2), []
        while True:
            page = await stub.ListDeadLetters(request)
            names.append([letter.name for letter in page.dead_letters])
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert names == [["s4", "s3"], ["s2", "s1"], ["s0"]]
        connection = SharedConnection(service.database)
        pruner = DeadLetters(connection, service.clock, 60, 3_600)
        assert await pruner.run_once() == 0
        await sql.execute("UPDATE stepwell.dead_letters SET refuse_time = $1", service.clock.now() - timedelta(hours=2))
        assert await pruner.run_once() == 5
        await connection.close()
