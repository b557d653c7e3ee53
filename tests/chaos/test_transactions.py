"""The service and Postgres killed around commits of several writes: all or nothing, and a repeat changes nothing.

Each commit appends one event to several runs. Appending is not safe to repeat by itself: only the commit's `request_id`
keeps an event from being there twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.chaos.commits import CommitHolder, is_over, outcome, through
from tests.chaos.kit import Proxy, Stage, connected, free_port, until
from tests.chaos.test_database import kill, looking, on_stage

from stepwell import Client, StepwellError
from stepwell.v1 import event_store_pb2, transactions_pb2, types_pb2

ACCOUNTS, SHARES, PROGRAMS = 5, 3, 4
# What was appended, by number: to how many runs, and how often.
MOVED = """
    SELECT convert_from(payload, 'UTF8')::int, count(DISTINCT run_key), count(*)
    FROM stepwell.events WHERE caller_type = 'Moved' GROUP BY payload
"""


class Bank:
    """Runs that commits append to, programs that commit, and what they were answered."""

    def __init__(self, client: Client, accounts: list[str]) -> None:
        self.client = client
        self.accounts = accounts
        self.answers: dict[int, transactions_pb2.CommitResponse] = {}
        self.is_closing = False
        self._numbers = itertools.count(1)

    @classmethod
    async def open(cls, client: Client) -> Bank:
        async with client.commit() as commit:
            created = [commit.create_run("account", workflow_id=f"account {place}") for place in range(ACCOUNTS)]
        return cls(client, created)

    def request(self, number: int) -> transactions_pb2.CommitRequest:
        request = transactions_pb2.CommitRequest(request_id=f"move {number}")
        for share in range(SHARES):
            run_id = self.accounts[(number + share) % ACCOUNTS]
            payload = types_pb2.Payload(json=str(number))
            event = event_store_pb2.AppendEventRequest(run_id=run_id, type="Moved", payload=payload)
            request.writes.add(append_event=event)
        return request

    async def move(self, number: int) -> transactions_pb2.CommitResponse:
        """Asks until there is an answer."""
        while True:
            try:
                return await self.client.send_commit(self.request(number))
            except StepwellError:
                await asyncio.sleep(0.05)

    async def work(self) -> None:
        while not self.is_closing:
            number = next(self._numbers)
            self.answers[number] = await self.move(number)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.work()) for _ in range(PROGRAMS)]
        try:
            yield
        finally:
            # A call that is given up may be carried out for all that.
            self.is_closing = True
            async with asyncio.timeout(60):
                await asyncio.gather(*tasks)

    async def all_stands(self, sql: asyncpg.Connection) -> None:
        """Each commit that was answered is there whole, once, as it was answered; asking again gives the same."""
        moved = await whole(sql)
        assert set(self.answers) <= moved
        for number, answer in self.answers.items():
            assert await self.move(number) == answer
        assert await whole(sql) == moved
        numbered = Counter(
            (self.accounts[(number + share) % ACCOUNTS], result.append_event.number)
            for number, answer in self.answers.items()
            for share, result in enumerate(answer.results)
        )
        assert set(numbered.values()) == {1}


async def whole(sql: asyncpg.Connection) -> set[int]:
    """Sees that of each commit all is there, once; answers which are there."""
    rows = await sql.fetch(MOVED)
    assert [tuple(row) for row in rows if tuple(row[1:]) != (SHARES, SHARES)] == []
    return {row[0] for row in rows}


@pytest.mark.parametrize("reply", [False, True], ids=["before the commit", "before its reply"])
async def test_the_service_killed_in_mid_commit(scene: Stage, between: Proxy, reply: bool) -> None:
    """Its writes are done and its COMMIT, or the reply, is under way. The repeat finds what stands, or does it anew."""
    port = free_port()
    server = await scene.server(port, through(scene.database_url, between), IDLE_TRANSACTION_SECONDS="60")
    async with connected(f"127.0.0.1:{port}") as (client,), looking(scene.database_url) as look:
        bank = await Bank.open(client)
        holder = CommitHolder(between, look, reply=reply)
        asked = asyncio.create_task(bank.move(1))
        xid = await holder.held()
        assert await outcome(look, xid) == ("committed" if reply else "in progress")
        assert not asked.done()
        assert await whole(look) == ({1} if reply else set())
        await server.kill()
        holder.lose()
        await until(lambda: is_over(look, xid))
        assert await whole(look) == ({1} if reply else set())
        await scene.server(port)
        bank.answers[1] = await asked
        assert [result.append_event.number for result in bank.answers[1].results] == [2] * SHARES
        await bank.all_stands(look)


@pytest.mark.parametrize("reply", [False, True], ids=["before the commit", "before its reply"])
async def test_postgres_killed_in_mid_commit(tmp_path: Path, session_dir: Path, reply: bool) -> None:
    """The service finds out what became of it, and does it anew if nothing did. The caller hears once it stands."""
    port = free_port()
    async with AsyncExitStack() as stack:
        postgres, scene = await stack.enter_async_context(on_stage(tmp_path, session_dir))
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", postgres.port))
        await scene.server(port, through(scene.database_url, proxy), IDLE_TRANSACTION_SECONDS="60")
        (client,) = await stack.enter_async_context(connected(f"127.0.0.1:{port}"))
        bank = await Bank.open(client)
        look = await stack.enter_async_context(looking(scene.database_url))
        holder = CommitHolder(proxy, look, reply=reply)
        asked = asyncio.create_task(bank.move(1))
        await holder.held()
        assert await whole(look) == ({1} if reply else set())
        restarts = postgres.restart_count
        kill(postgres)
        holder.lose()
        await postgres.wait_restarted(restarts)
        bank.answers[1] = await asked
        look = await stack.enter_async_context(looking(scene.database_url))
        assert [result.append_event.number for result in bank.answers[1].results] == [2] * SHARES
        await bank.all_stands(look)


async def killed_under_load(client: Client, url: str, rounds: int, strike: Callable[[], Awaitable[None]]) -> None:
    bank = await Bank.open(client)
    async with bank.at_work():
        for _ in range(rounds):
            goal = len(bank.answers) + 15
            await until(lambda goal=goal: len(bank.answers) >= goal)  # type: ignore[misc]
            await strike()
            async with looking(url) as sql:
                await whole(sql)
        goal = len(bank.answers) + 15
        await until(lambda: len(bank.answers) >= goal)
    async with looking(url) as sql:
        await bank.all_stands(sql)


async def test_the_service_killed_under_commits(scene: Stage) -> None:
    port = free_port()
    server = await scene.server(port)

    async def strike() -> None:
        nonlocal server
        await server.kill()
        server = await scene.server(port)

    async with connected(f"127.0.0.1:{port}") as (client,):
        await killed_under_load(client, scene.database_url, 3, strike)


async def test_postgres_killed_under_commits(tmp_path: Path, session_dir: Path) -> None:
    port = free_port()
    async with on_stage(tmp_path, session_dir) as (postgres, scene):
        await scene.server(port)

        async def strike() -> None:
            restarts = postgres.restart_count
            kill(postgres)
            await postgres.wait_restarted(restarts)

        async with connected(f"127.0.0.1:{port}") as (client,):
            await killed_under_load(client, scene.database_url, 3, strike)
