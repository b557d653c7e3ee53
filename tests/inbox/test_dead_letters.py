"""Dead letters that somebody settles: dealt with again under their numbers, or forgotten, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest_asyncio
from tests.inbox.kit import Seen, program, signal, start
from tests.service import TIMEOUT, refusal, soon

from stepwell import Client
from stepwell.v1 import inbox_pb2, inbox_pb2_grpc
from stepwell_server.service import Service
from stepwell_server.settings import Settings


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with Service(Settings(database_url=database_url, port=0, shutdown_seconds=2.0)) as running:
        yield running


@pytest_asyncio.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with program(database_url) as connection:
        yield connection


@pytest_asyncio.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with await Client.connect(service.address) as connected:
        yield connected


def calls(client: Client) -> Any:
    return inbox_pb2_grpc.InboxServiceStub(client._channel)


async def dead(client: Client) -> list[tuple[int, str]]:
    return [(letter.number, letter.reason) async for letter in client.inbox.dead_letters()]


async def refused(sql: asyncpg.Connection, client: Client, **fields: Any) -> int:
    """A signal that came to nothing; answers its number."""
    number = await signal(sql, uuid4() if "workflow_id" not in fields else None, "go", **fields)  # type: ignore[arg-type]
    await until_dead(client, number)
    return number


async def until_dead(client: Client, number: int) -> None:
    async def is_dead() -> bool:
        return any(each == number for each, _ in await dead(client))

    await soon(is_dead)


async def test_a_letter_is_dealt_with_again(client: Client, sql: asyncpg.Connection) -> None:
    """With all that it says, by its number, and once: a repeat of the call hears the same and does nothing."""
    number = await refused(sql, client, workflow_id="later", payload="7", signal_id="s")
    run_id = await start(sql, workflow_id="later")

    async def is_there() -> bool:
        return not await Seen(sql).waiting()

    await soon(is_there)
    request = inbox_pb2.RetryDeadLetterRequest(number=number, request_id="once")
    assert (await calls(client).RetryDeadLetter(request, timeout=TIMEOUT)).retried
    await soon(is_there)
    assert await Seen(sql).signals() == {run_id: ["go"]}
    assert (await calls(client).RetryDeadLetter(request, timeout=TIMEOUT)).retried
    assert not await client.inbox.retry(number)
    assert await dead(client) == []
    assert await Seen(sql).waiting() == 0
    rows = await sql.fetch("SELECT signal_id, ordinal FROM stepwell.signals")
    assert [tuple(row) for row in rows] == [("s", 1)]


async def test_what_is_refused_again_is_a_letter_again(client: Client, sql: asyncpg.Connection) -> None:
    number = await refused(sql, client, workflow_id="never")
    (before,) = [letter async for letter in client.inbox.dead_letters()]
    assert await client.inbox.retry(number)
    await until_dead(client, number)
    (after,) = [letter async for letter in client.inbox.dead_letters()]
    assert (after.number, after.append_time) == (before.number, before.append_time)
    assert after.refuse_time.ToNanoseconds() > before.refuse_time.ToNanoseconds()


async def test_a_letter_is_forgotten(client: Client, service: Service, sql: asyncpg.Connection) -> None:
    """By who is in its namespace."""
    number, kept = [await refused(sql, client) for _ in range(2)]
    await client.create_namespace("other")
    async with await Client.connect(service.address, namespace="other") as other:
        assert not await other.inbox.discard(number)
        assert not await other.inbox.retry(number)
    assert await client.inbox.discard(number)
    assert not await client.inbox.discard(number)
    assert not await client.inbox.retry(number)
    assert await dead(client) == [(kept, "RUN_NOT_FOUND")]
    for bad in (0, -1):
        for call in (
            calls(client).DiscardDeadLetter(inbox_pb2.DiscardDeadLetterRequest(number=bad)),
            calls(client).RetryDeadLetter(inbox_pb2.RetryDeadLetterRequest(number=bad)),
        ):
            assert await refusal(call) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_of_many_who_settle_a_letter_one_does(
    client: Client, service: Service, database_url: str, sql: asyncpg.Connection
) -> None:
    """On two replicas at once. Nobody deals with the inbox meanwhile."""
    numbers = [await refused(sql, client) for _ in range(5)]
    await service.leader.stop()
    settings = Settings(database_url=database_url, port=0, shutdown_seconds=2.0)
    async with Service(settings) as second, await Client.connect(second.address) as there:
        await second.leader.stop()
        for number in numbers:
            both = (client.inbox, there.inbox)
            tried = [
                both[place % 2].retry(number) if place % 3 else both[place % 2].discard(number) for place in range(6)
            ]
            assert sum(await asyncio.gather(*tried)) == 1
    assert await dead(client) == []
