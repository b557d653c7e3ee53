"""Queues that give the tasks of each key no faster than they are told, as workers and people see them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
from tests.service import refusal
from tests.stream.calls import Caller
from tests.stream.kit import ACTIVITY, RUN, SECONDS, Replica, capacity, until
from tests.stream.test_aging import update
from tests.stream.test_rate_limits import FAR, SLOW, TOKEN_SECONDS, advance, movable, rests
from tests.stream.test_task_queues import shown
from tests.stream.wire import Wire, wire

from stepwell.v1 import explanations_pb2, namespaces_pb2
from stepwell.v1.explanations_pb2_grpc import ExplanationServiceStub
from stepwell.v1.task_queues_pb2 import Fairness, RateLimit
from stepwell_server.model.queue_settings import QueueSettings
from stepwell_server.store import queue_settings

BOTH = ("fairness", "key_rate_limit")


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with movable(database_url, **FAR) as made:
        yield made


async def limited(one: Replica, burst: int, per_second: float = SLOW, **weights: int) -> Any:
    limit = RateLimit(per_second=per_second, burst=burst)
    return await update(one, *BOTH, fairness=Fairness(weights=weights), key_rate_limit=limit)


async def jobs(one: Replica, keys: str, count: int = 1, **fields: Any) -> dict[str, str]:
    return {await one.start_job(fairness_key=key.strip(), **fields): key for _ in range(count) for key in keys}


def held(stream: Wire, names: dict[str, str]) -> Counter[str]:
    return Counter(names[task.job_id] for task in stream.working.values())


async def test_a_key_that_is_out_of_tokens_holds_up_no_other(one: Replica) -> None:
    """What comes for another key goes at once, though the queue waits for tokens, and no poll is near."""
    await limited(one, 2)
    names = await jobs(one, "a", 5)
    async with wire(one, capacity=capacity(activities=20)) as stream:
        await until(lambda: held(stream, names) == {"a": 2} and rests(one))
        names |= await jobs(one, "b ", 3)
        await until(lambda: held(stream, names) == {"a": 2, "b": 2, " ": 2} and rests(one))
        assert await one.waiting() == 5


async def test_the_time_of_the_next_token_is_waited_for(one: Replica) -> None:
    await limited(one, 1, per_second=4.0)
    names = await jobs(one, "ab", 3)
    async with wire(one, capacity=capacity(activities=20)) as stream:
        await until(lambda: held(stream, names) == {"a": 3, "b": 3})


async def test_nobody_asks_until_the_first_key_gives_again(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    await limited(one, 1)
    names = await jobs(one, "ab", 3)
    submitted: list[object] = []
    async with wire(one, capacity=capacity(activities=20)) as stream:
        await until(lambda: held(stream, names) == {"a": 1, "b": 1} and rests(one))
        seconds = one.service.dispatcher.matcher._resting.seconds()
        assert TOKEN_SECONDS / 2 < seconds <= TOKEN_SECONDS
        submit = one.service.committers.submit

        def noted(order: Any, *rest: Any) -> Any:
            submitted.append(order)
            return submit(order, *rest)

        monkeypatch.setattr(one.service.committers, "submit", noted)
        await stream.settled()
        assert submitted == []
        await advance(one, TOKEN_SECONDS)
        await until(lambda: held(stream, names) == {"a": 2, "b": 2} and rests(one))


async def test_runs_and_activities_of_a_key_share_its_bucket(one: Replica) -> None:
    await limited(one, 2)
    for _ in range(2):
        await one.start(fairness_key="a")
        await one.start_job(fairness_key="a")
    async with wire(one, capacity=capacity(activities=9, runs=9)) as stream:
        await until(lambda: len(stream.working) == 2 and rests(one))
        await one.start(fairness_key="b")
        await until(lambda: len(stream.working) == 3 and rests(one))
        assert await one.waiting() == 2


async def test_a_kind_that_is_out_of_tokens_does_not_hold_up_the_other(one: Replica) -> None:
    await limited(one, 1)
    await jobs(one, "a", 3)
    async with wire(one, capacity=capacity(activities=9, runs=9)) as stream:
        await stream.task(ACTIVITY)
        await until(lambda: rests(one))
        await one.start(fairness_key="b")
        await stream.task(RUN)


async def test_keys_take_turns_and_each_keeps_to_its_rate(one: Replica) -> None:
    await limited(one, 4, a=2)
    names = await jobs(one, "abc", 9)
    caller = await Caller.of(one)
    seen = [names[task.job_id] for _ in range(12) for task in await caller.claim(wait=0, max_tasks=1)]
    assert "".join(seen) == "aabcaabcbcbc"
    assert await caller.claim(wait=0, max_tasks=9) == []


async def test_two_replicas_give_out_of_the_same_buckets(database_url: str) -> None:
    async with movable(database_url) as first, movable(database_url) as second:
        await limited(first, 3)
        await until(lambda: second.service.dispatcher.queues.version_of(1, "q") == 1)
        names = await jobs(first, "ab", 10)
        async with (
            wire(first, "x", capacity=capacity(activities=30)) as here,
            wire(second, "y", capacity=capacity(activities=30)) as there,
        ):
            await until(
                lambda: (held(here, names) + held(there, names)).total() >= 6 and rests(first) and rests(second)
            )
            assert held(here, names) + held(there, names) == {"a": 3, "b": 3}
            await advance(first, TOKEN_SECONDS)
            await until(lambda: held(here, names) + held(there, names) == {"a": 4, "b": 4} and rests(first))
            await advance(second, TOKEN_SECONDS)
            assert await (await Caller.of(second)).claim(wait=0, max_tasks=10) == []


async def test_what_a_replica_queued_that_had_not_heard_of_it_has_a_bucket_too(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no key, and would be given to nobody until it has the empty one."""
    async with movable(database_url, queue_settings_seconds=0.1) as first, movable(database_url) as second:
        read_all = queue_settings.read_all

        async def nothing(database: Any) -> list[QueueSettings]:
            return [] if database is second.service.database else await read_all(database)

        monkeypatch.setattr(queue_settings, "read_all", nothing)
        await limited(first, 2)
        names = await jobs(second, " ", 3)
        async with wire(first, capacity=capacity(activities=9)) as stream:
            await until(lambda: held(stream, names) == {" ": 2} and rests(first))
            assert await first.waiting() == 1


async def test_another_limit_counts_at_once(one: Replica) -> None:
    await limited(one, 1)
    names = await jobs(one, "ab", 4)
    async with wire(one, capacity=capacity(activities=20)) as stream:
        await until(lambda: held(stream, names) == {"a": 1, "b": 1} and rests(one))
        await update(one, "key_rate_limit", key_rate_limit=RateLimit(per_second=50.0, burst=1))
        await until(lambda: held(stream, names) == {"a": 4, "b": 4})
        settings = await update(one, "key_rate_limit")
        assert not settings.HasField("key_rate_limit")
        names |= await jobs(one, "a", 5)
        await until(lambda: held(stream, names) == {"a": 9, "b": 4})


async def test_without_the_limit_nothing_is_held_back(one: Replica) -> None:
    await limited(one, 1)
    names = await jobs(one, "ab", 4)
    async with wire(one, capacity=capacity(activities=20)) as stream:
        await until(lambda: held(stream, names) == {"a": 1, "b": 1} and rests(one))
        assert not (await update(one, *BOTH)).HasField("fairness")
        await until(lambda: held(stream, names) == {"a": 4, "b": 4})


async def test_a_limit_of_one_queue_is_none_of_another(one: Replica) -> None:
    await limited(one, 1)
    names = await jobs(one, "a", 3, queue="r")
    caller = await Caller.of(one, task_queues=["r"])
    assert len(await caller.claim(wait=0, max_tasks=9)) == len(names)


async def test_who_waits_for_the_token_of_its_key_is_told_so(one: Replica) -> None:
    await limited(one, 1)
    names = await jobs(one, "a", 2)
    waiting: Any = ExplanationServiceStub(one.channel)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        await stream.complete(task)
        await until(lambda: rests(one))
        names |= await jobs(one, "b", 2)
        await until(lambda: held(stream, names) == {"b": 1})
        (behind,) = [name for name, key in names.items() if key == "a" and name != task.job_id]
        request = explanations_pb2.ExplainJobRequest(job_id=behind)
        (told,) = (await waiting.ExplainJob(request, timeout=SECONDS)).explanations
        assert told.code == explanations_pb2.Explanation.CODE_RATE_LIMITED
        assert "that of its key: the next task of its key is given at " in told.text
        given = datetime.fromisoformat(told.text.rpartition(" ")[2])
        assert TOKEN_SECONDS / 2 < given.timestamp() - time.time() <= TOKEN_SECONDS + 1


async def test_a_run_is_told_of_its_key_too(one: Replica) -> None:
    await limited(one, 1)
    await one.start(fairness_key="a")
    second = await one.start(fairness_key="a")
    waiting: Any = ExplanationServiceStub(one.channel)
    async with wire(one, capacity=capacity(runs=5)) as stream:
        await stream.task(RUN)
        await until(lambda: rests(one))
        request = explanations_pb2.ExplainRunRequest(run_id=second)
        (told,) = (await waiting.ExplainRun(request, timeout=SECONDS)).explanations
        assert told.code == explanations_pb2.Explanation.CODE_RATE_LIMITED


async def test_what_is_set_is_shown(one: Replica) -> None:
    assert (await limited(one, 3, 0.5)).key_rate_limit == RateLimit(per_second=0.5, burst=3)
    await update(one, "rate_limit", rate_limit=RateLimit(per_second=7))
    settings = (await shown(one)).settings
    assert settings.key_rate_limit == RateLimit(per_second=0.5, burst=3)
    assert settings.rate_limit == RateLimit(per_second=7, burst=7)
    assert (await update(one, "key_rate_limit", key_rate_limit=RateLimit(per_second=2.5))).key_rate_limit.burst == 3


async def test_a_limit_of_keys_needs_keys_that_take_turns(one: Replica) -> None:
    """Together or one after the other; and what it needs is not taken from under it."""
    limit = RateLimit(per_second=1)
    invalid = ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await refusal(update(one, "key_rate_limit", key_rate_limit=limit)) == invalid
    assert await refusal(update(one, *BOTH, key_rate_limit=limit)) == invalid
    assert (await shown(one)).settings.version == 0
    await update(one, "fairness", fairness=Fairness())
    await update(one, "key_rate_limit", key_rate_limit=limit)
    assert await refusal(update(one, "fairness")) == invalid
    assert (await shown(one)).settings.version == 2
    assert (await shown(one)).settings.HasField("fairness")
    await update(one, "key_rate_limit")
    await update(one, "fairness")


@pytest.mark.parametrize(
    ("path", "field"), [("key_rate_limit", "key_rate_limit"), ("fairness", "fairness")], ids=["set", "taken away"]
)
async def test_the_refusal_names_the_field_and_what_to_do(one: Replica, path: str, field: str) -> None:
    if path == "fairness":
        await limited(one, 1)
        call = update(one, "fairness")
    else:
        call = update(one, "key_rate_limit", key_rate_limit=RateLimit(per_second=1))
    with pytest.raises(Exception, match=rf"{field} .*(set `fairness`|take that away)"):
        await call


@pytest.mark.parametrize(
    "limit",
    [
        RateLimit(per_second=0),
        RateLimit(per_second=-1),
        RateLimit(per_second=float("nan")),
        RateLimit(per_second=float("inf")),
        RateLimit(per_second=100_001),
        RateLimit(per_second=1, burst=-1),
        RateLimit(per_second=1, burst=100_001),
    ],
    ids=str,
)
async def test_limits_that_cannot_be_are_refused(one: Replica, limit: RateLimit) -> None:
    call = update(one, *BOTH, fairness=Fairness(), key_rate_limit=limit)
    with pytest.raises(Exception, match=r"key_rate_limit\.(per_second|burst)"):
        await call


async def test_a_namespace_takes_the_buckets_of_its_keys_along(one: Replica) -> None:
    name = await one.namespace("other")
    async with one.service.dispatcher.reader.connection() as connection:
        namespace_id = await connection.raw.fetchval("SELECT namespace_id FROM namespaces WHERE name = 'other'")
        await connection.raw.execute("INSERT INTO key_buckets VALUES ($1, 'q', 'a', now(), 1)", namespace_id)
        await one.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(namespace=name), timeout=SECONDS)
        assert await connection.raw.fetchval("SELECT count(*) FROM key_buckets") == 0
