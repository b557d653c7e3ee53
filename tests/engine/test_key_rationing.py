"""Limits of each key on a real Postgres: what several replicas give together, and batches that fail."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.engine.code import COMPLETED
from tests.engine.replica import Look, Replica, claim, end_of, look, replica

from stepwell_server.engine.committer.protocols import NoQueues, Rationed
from stepwell_server.engine.fairness import Rounds
from stepwell_server.engine.key_limits import Walks
from stepwell_server.model.runs import RunDetails, unpack_details
from stepwell_server.store import batches
from stepwell_server.store.connection import Connection
from stepwell_server.store.faults import Conflict

SLOW = 0.0001


class Told(NoQueues):
    """A replica that knows of one queue, `q`, that it is limited and that keys take turns."""

    any_fair = True

    def __init__(self) -> None:
        self.rounds = Rounds()
        self.walks = Walks()

    def is_limited(self, namespace_id: int, task_queue: str) -> bool:
        return (namespace_id, task_queue) == (1, "q")

    def weights_of(self, namespace_id: int, task_queue: str) -> dict[str, int] | None:
        return {} if self.is_limited(namespace_id, task_queue) else None


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def replicas(url: str, count: int, **fields: Any) -> AsyncIterator[tuple[list[Replica], Hand]]:
    """Several, by one clock."""
    hand = Hand()
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(replica(url, queues=Told(), **fields)) for _ in range(count)]
        for each in made:
            for committer in each.committers.members:
                committer._clock = hand
        yield made, hand


async def set_limits(
    database: Look, per_second: float, burst: int, *, queue: tuple[float, int] = (100_000, 100_000), **weights: int
) -> None:
    await database.raw.execute("DELETE FROM queue_settings")
    await database.raw.execute(
        "INSERT INTO queue_settings VALUES (1, 'q', 1, now(), $3, $4, NULL, NULL, $5, $1, $2)",
        *(per_second, burst, *queue, json.dumps(weights)),
    )


async def start(server: Replica, keys: str | list[str], count: int = 1) -> None:
    await asyncio.gather(
        *(server.start(details=RunDetails(fairness_key=key or None)) for key in keys for _ in range(count))
    )


def key_of(grant: Any) -> str:
    return "" if grant.run.details is None else unpack_details(grant.run.details).fairness_key or ""


def keys_of(grants: Any) -> Counter[str]:
    return Counter(map(key_of, grants))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Lets every third batch fail when it has written all that it writes."""
    chance, write = random.Random(7), batches.write

    async def written(connection: Connection, batch: batches.Write) -> None:
        await write(connection, batch)
        if chance.random() < 1 / 3:
            raise Conflict("a test's")

    monkeypatch.setattr(batches, "write", written)
    return chance


async def test_each_key_has_a_bucket(database_url: str) -> None:
    async with replicas(database_url, 1) as ([server], _), look(database_url) as database:
        await set_limits(database, SLOW, 3)
        await start(server, ["a", "b", ""], 5)
        answer = await server.claim(20)
        assert keys_of(answer) == {"a": 3, "b": 3, "": 3}
        assert isinstance(answer, Rationed)
        assert answer.of_keys
        assert await server.claim(20) == []
        await database.check()


async def test_a_claim_hears_when_the_first_key_gives_again(database_url: str) -> None:
    async with replicas(database_url, 1) as ([server], hand), look(database_url) as database:
        await set_limits(database, SLOW, 1)
        await start(server, "ab", 2)
        assert keys_of(await server.claim(1)) == {"a": 1}
        began = hand.time
        hand.time += timedelta(seconds=100)
        assert keys_of(await server.claim(1)) == {"b": 1}
        answer: Any = await server.claim(5)
        assert (answer, answer.of_keys) == ([], True)
        assert timedelta(0) <= answer.next_time - began - timedelta(seconds=10_000) < timedelta(seconds=0.001)
        hand.time = answer.next_time
        assert keys_of(await server.claim(5)) == {"a": 1}


async def test_both_limits_hold(database_url: str) -> None:
    async with replicas(database_url, 1) as ([server], _), look(database_url) as database:
        await set_limits(database, SLOW, 2, queue=(SLOW, 5))
        await start(server, "abcd", 5)
        answer: Any = await server.claim(20)
        assert keys_of(answer) == {"a": 2, "b": 1, "c": 1, "d": 1}
        assert (isinstance(answer, Rationed), answer.of_keys) == (True, False)
        assert await server.claim(20) == []


async def test_claims_of_one_batch_share_the_buckets(database_url: str) -> None:
    async with replicas(database_url, 1) as ([server], _), look(database_url) as database:
        await set_limits(database, SLOW, 3)
        await start(server, "ab", 9)
        answers: list[Any] = await asyncio.gather(*(server.submit(claim(server.session, 4)) for _ in range(4)))
        assert sum(map(keys_of, answers), Counter()) == {"a": 3, "b": 3}


async def test_keys_that_have_tokens_keep_their_shares(database_url: str) -> None:
    """One that weighs more has more turns, and one that is out of tokens leaves its own to the others."""
    async with replicas(database_url, 1) as ([server], _), look(database_url) as database:
        await set_limits(database, SLOW, 8, b=3)
        await start(server, "abc", 20)
        seen = [key_of((await server.claim(1))[0]) for _ in range(10)]
        assert "".join(seen) == "abbbcabbbc"
        rest: Counter[str] = Counter()
        for _ in range(14):
            rest += keys_of(await server.claim(1))
        assert rest == {"a": 6, "b": 2, "c": 6}


async def test_replicas_and_failing_batches_give_what_the_buckets_hold(
    database_url: str, failing: random.Random
) -> None:
    """No more, for a batch that fails takes nothing out; and no less, for it loses nothing either."""
    async with replicas(database_url, 3, committers=2) as (servers, _), look(database_url) as database:
        await set_limits(database, SLOW, 4)
        await start(servers[0], "abcde", 10)
        claims = [
            each.submit(claim(each.session, failing.randint(1, 6))) for _ in range(10) for each in servers for _ in "xx"
        ]
        answers: list[Any] = await asyncio.gather(*claims)
        given = sum(map(keys_of, answers), Counter())
        for each in servers:
            given += keys_of(await each.claim(50))
        assert given == dict.fromkeys("abcde", 4)
        await database.check()


async def test_in_any_span_no_more_is_given_than_rate_and_burst_allow(
    database_url: str, failing: random.Random
) -> None:
    """Whoever asks, whenever, for however much; and all is given in the end."""
    per_second, burst, keys = 2.0, 3, "abc"
    async with replicas(database_url, 2) as (servers, hand), look(database_url) as database:
        await set_limits(database, per_second, burst)
        await start(servers[0], list(keys), 15)
        taken: list[tuple[datetime, Counter[str]]] = []
        while sum((counts for _, counts in taken), Counter[str]()).total() < 15 * len(keys):
            hand.time += timedelta(seconds=failing.choice([0, 0.05, 0.3, 1.0]))
            asked = [claim(each.session, failing.randint(1, 9)) for each in servers]
            answers: Any = await asyncio.gather(*map(Replica.submit, servers, asked))
            taken += [(hand.time, keys_of(answer)) for answer in answers]
            assert hand.time - taken[0][0] < timedelta(seconds=60)
    for first, (began, _) in enumerate(taken):
        sums: Counter[str] = Counter()
        for time, counts in taken[first:]:
            sums += counts
            bound = per_second * (time - began).total_seconds() + burst
            assert all(sums[key] <= bound + 1e-3 for key in keys)


async def test_after_a_batch_that_failed_a_claim_is_not_told_to_wait_for_what_it_did_not_get(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lap has seen keys without tokens which have them still. Looks are short here, so that it takes several."""
    monkeypatch.setattr("stepwell_server.engine.committer.limited_claiming._LOOKED", 1)
    monkeypatch.setattr("stepwell_server.engine.committer.limited_claiming._FEWEST_LOOKED", 1)
    write, fails = batches.write, [True]

    async def written(connection: Connection, batch: batches.Write) -> None:
        await write(connection, batch)
        if batch.key_tokens and fails:
            fails.clear()
            raise Conflict("a test's")

    monkeypatch.setattr(batches, "write", written)
    async with replicas(database_url, 1) as ([server], hand), look(database_url) as database:
        await set_limits(database, SLOW, 1)
        await start(server, "abcdefgh", 2)
        given: Counter[str] = Counter()
        for _ in range(10):
            answer = await server.claim(3)
            given += keys_of(answer)
            if isinstance(answer, Rationed) and answer.next_time - hand.time > timedelta(seconds=1):
                break
        assert not fails
        assert given == dict.fromkeys("abcdefgh", 1)


async def test_tasks_that_nobody_can_do_any_more_take_no_tokens(database_url: str) -> None:
    async with replicas(database_url, 1) as ([server], hand), look(database_url) as database:
        await set_limits(database, SLOW, 1)
        await start(server, "b")
        (held,) = await server.claim(5)
        await database.raw.execute(
            "INSERT INTO tasks VALUES ($1, 0, 1, 'q', 1, 'flow', 0, now() - interval '1 h', '', 'a')", held.run.run_key
        )
        await start(server, "a", 2)
        first: Any = await server.claim(5)
        assert first == []
        assert first.next_time - hand.time < timedelta(seconds=1)
        assert keys_of(await server.claim(5)) == {"a": 1}


@pytest.mark.parametrize("most", [1, 3, 5])
async def test_no_key_is_passed_over_for_longer_than_a_round(
    database_url: str, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """However many keys before it have tokens, however few a look sees, and though half of them have none."""
    monkeypatch.setattr("stepwell_server.engine.committer.limited_claiming._LOOKED", 2)
    monkeypatch.setattr("stepwell_server.engine.committer.limited_claiming._FEWEST_LOOKED", 2)
    async with replicas(database_url, 1) as ([server], hand), look(database_url) as database:
        await set_limits(database, SLOW, 9)
        keys = "abcdefghij"
        await start(server, list(keys), 9)
        spent = [(key, hand.time + timedelta(seconds=90_000)) for key in keys[::2]]
        await database.raw.executemany("INSERT INTO key_buckets VALUES (1, 'q', $1, $2, 90000)", spent)
        given: Counter[str] = Counter()
        while given.total() < 45:
            given += keys_of(await server.claim(most))
            counts = [given[key] for key in keys[1::2]]
            assert max(counts) - min(counts) <= 1
        assert set(given) == set(keys[1::2])


@pytest.mark.parametrize(("per_second", "waits"), [(10.0, 0.1), (0.5, 2.0)])
async def test_another_limit_counts_from_when_it_is_set(database_url: str, per_second: float, waits: float) -> None:
    """A faster one than before leaves no debt, and gives nothing for what was taken."""
    async with replicas(database_url, 1) as ([server], hand), look(database_url) as database:
        await set_limits(database, SLOW, 2)
        await start(server, "a", 6)
        assert len(await server.claim(9)) == 2
        hand.time += timedelta(seconds=500)
        await set_limits(database, per_second, 2)
        await database.raw.execute("UPDATE queue_settings SET update_time = $1", hand.time)
        answer: Any = await server.claim(9)
        assert answer == []
        assert answer.next_time - hand.time == pytest.approx(timedelta(seconds=waits), abs=timedelta(milliseconds=1))
        hand.time = answer.next_time
        assert len(await server.claim(9)) == 1


async def test_a_slower_limit_holds_for_the_next_task(database_url: str) -> None:
    async with replicas(database_url, 1) as ([server], hand), look(database_url) as database:
        await set_limits(database, 1.0, 5)
        await start(server, "a", 20)
        assert len(await server.claim(9)) == 5
        await set_limits(database, 0.01, 1)
        hand.time += timedelta(seconds=5)
        assert len(await server.claim(9)) == 1
        hand.time += timedelta(seconds=99)
        assert await server.claim(9) == []


async def test_what_a_limit_of_keys_costs(database_url: str) -> None:
    """Beside the look for keys, which turns cost as well, and the lock of the queue: the buckets, once for all keys."""
    async with replicas(database_url, 1) as ([server], _), look(database_url) as database:

        async def cost() -> int:
            await start(server, "abc")
            before = server.database.counters.statements
            grants = await server.claim(3)
            assert len(grants) == 3
            spent = server.database.counters.statements - before
            await asyncio.gather(*(server.do(end_of(grant, COMPLETED)) for grant in grants))
            return spent

        await set_limits(database, 100_000, 100_000)
        without = "UPDATE queue_settings SET rate_burst = NULL, key_rate_burst = $1"
        await database.raw.execute(without, None)
        await cost()
        before = await cost()
        await database.raw.execute(without, 100_000)
        await cost()
        assert await cost() == before + 1
        rows = await database.rows("SELECT fairness_key FROM key_buckets ORDER BY 1")
        assert [row[0] for row in rows] == ["a", "b", "c"]
