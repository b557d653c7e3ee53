"""Claims of queues for which something is set, on a real Postgres; and what they cost where nothing is."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from tests.engine.code import COMPLETED
from tests.engine.replica import Look, Replica, claim, end_of, look, replica

from stepwell_server.engine.committer.protocols import NoQueues, Rationed


class Told(NoQueues):
    """What a replica knows of one queue, `q`."""

    def __init__(self, *, limited: bool = False, aging: float | None = None) -> None:
        self.limited = limited
        self.aging = aging

    def is_limited(self, namespace_id: int, task_queue: str) -> bool:
        return self.limited and (namespace_id, task_queue) == (1, "q")

    def aging_of(self, namespace_id: int, task_queue: str) -> float | None:
        return self.aging if (namespace_id, task_queue) == (1, "q") else None


async def set_limit(database: Look, per_second: float, burst: int) -> None:
    await database.raw.execute(
        "INSERT INTO queue_settings VALUES (1, 'q', 1, now(), $1, $2, NULL, NULL)", per_second, burst
    )


async def statements_of(server: Replica) -> int:
    """What a run costs from its claim to its end, when the batches before it are over."""
    await server.start()
    before = server.database.counters.statements
    (grant,) = await server.claim()
    await server.do(end_of(grant, COMPLETED))
    return server.database.counters.statements - before


async def test_a_queue_for_which_nothing_is_set_costs_nothing(database_url: str) -> None:
    """Though something is for another: the same statements as before, to the last."""
    async with replica(database_url) as server, look(database_url) as database:
        await statements_of(server)
        before = await statements_of(server)
        await database.raw.execute("INSERT INTO queue_settings VALUES (1, 'r', 1, now(), 1, 1, NULL, 1)")
    async with replica(database_url, queues=Told()) as server:
        await statements_of(server)
        assert await statements_of(server) == before
    async with replica(database_url, queues=Told(limited=True)) as server, look(database_url) as database:
        await set_limit(database, 100_000, 100_000)
        await statements_of(server)
        # The lock of the bucket, and what is taken out of it.
        assert await statements_of(server) == before + 2


async def test_claims_of_one_batch_share_what_there_is(database_url: str) -> None:
    async with (
        replica(database_url, queues=Told(limited=True)) as server,
        look(database_url) as database,
    ):
        await set_limit(database, 0.0001, 5)
        await asyncio.gather(*(server.start() for _ in range(12)))
        answers: list[Any] = await asyncio.gather(*(server.submit(claim(server.session, 2)) for _ in range(4)))
        assert [len(answer) for answer in answers] == [2, 2, 1, 0]
        assert [isinstance(answer, Rationed) for answer in answers] == [False, False, True, True]
        rest = answers[-1].next_time - await database.value("SELECT now()")
        assert timedelta(seconds=9_000) < rest < timedelta(seconds=10_001)
        await database.check()


async def test_a_claim_that_finds_less_takes_no_more_than_that(database_url: str) -> None:
    async with (
        replica(database_url, queues=Told(limited=True)) as server,
        look(database_url) as database,
    ):
        await set_limit(database, 0.0001, 5)
        await server.start()
        answer = await server.claim(10)
        assert (len(answer), isinstance(answer, Rationed)) == (1, False)
        assert await server.claim(10) == []
        await asyncio.gather(*(server.start() for _ in range(9)))
        assert len(await server.claim(10)) == 4


async def test_a_bucket_that_somebody_has_holds_up_its_claims_and_nobody_else(database_url: str) -> None:
    """A start goes through while the claim waits, and the claim gets its task when the bucket is free."""
    async with (
        replica(database_url, queues=Told(limited=True)) as server,
        look(database_url) as database,
    ):
        await set_limit(database, 1.0, 5)
        await server.start()
        async with database.raw.transaction():
            await database.raw.execute("SELECT FROM queue_settings FOR UPDATE")
            waiting = server.submit(claim(server.session))
            await server.start()
            await server.start()
            assert not waiting.done()
        assert len(list(await waiting)) == 1  # type: ignore[call-overload] # the answer of a claim


async def test_a_limit_that_is_gone_meanwhile_limits_nothing(database_url: str) -> None:
    """What a replica has not heard of yet counts all the same, for the row is asked."""
    async with (
        replica(database_url, queues=Told(limited=True)) as server,
        look(database_url) as database,
    ):
        await database.raw.execute("INSERT INTO queue_settings VALUES (1, 'q', 2, now(), NULL, NULL, NULL, NULL)")
        await asyncio.gather(*(server.start() for _ in range(3)))
        assert len(await server.claim(10)) == 3
