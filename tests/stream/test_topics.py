"""Topics as callers and workers see them: events are published by a call, and reach the runs that wait over streams."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tests.service import refusal
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN, SECONDS, Replica, capacity, error_reason, payload, replica, until
from tests.stream.wire import wire

from stepwell.v1 import namespaces_pb2, runs_pb2, topics_pb2, types_pb2, workers_pb2
from stepwell_server.store.topic_events import turn_of

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
Two = tuple[Replica, Replica]


async def events(replica: Replica, topic: str = "paid", **fields: Any) -> list[topics_pb2.TopicEvent]:
    request = topics_pb2.ListTopicEventsRequest(topic=topic, page_size=2, **fields)
    found: list[topics_pb2.TopicEvent] = []
    while True:
        page = await replica.topics.ListTopicEvents(request, timeout=SECONDS)
        found += page.events
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def waits(replica: Replica, topic: str = "paid", **fields: Any) -> list[topics_pb2.TopicWait]:
    request = topics_pb2.ListTopicWaitsRequest(topic=topic, page_size=2, **fields)
    found: list[topics_pb2.TopicWait] = []
    while True:
        page = await replica.topics.ListTopicWaits(request, timeout=SECONDS)
        found += page.waits
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def delivered(replica: Replica, topic: str = "paid") -> list[topics_pb2.TopicEvent]:
    """The events that are kept once none is on its way."""
    found: list[topics_pb2.TopicEvent] = await until(
        lambda: events(replica, topic), lambda each: all(event.delivered for event in each)
    )
    return found


async def test_an_event_reaches_every_run_that_waits(two: Two) -> None:
    """Whichever replica it is published at, and whoever leads; the worker hears at once, and steps show it."""
    first, second = two
    run_ids = await first.start_many(3)
    async with wire(second, capacity=capacity(runs=3)) as stream:
        codes = [Code(stream, await stream.task(RUN)) for _ in run_ids]
        for code in codes:
            assert (await code.wait(code.wait_on("paid"))).status == ACCEPTED
        assert sorted(wait.run_id for wait in await waits(first)) == sorted(run_ids)
        assert {(wait.type, wait.step_ordinal) for wait in await waits(first)} == {("wf", 1)}
        await second.publish("paid", {"amount": 5})
        for code in codes:
            (step,) = (await code.advance(lambda news: bool(news.steps))).steps
            assert (json.loads(step.result.json), step.timed_out) == ({"amount": 5}, False)
            assert (await code.complete()).status == ACCEPTED
        (step,) = (await first.runs.ListRunSteps(runs_pb2.ListRunStepsRequest(run_id=run_ids[0]))).steps
        assert (step.wait_name, step.on_topic, json.loads(step.result.json)) == ("paid", True, {"amount": 5})
        received = [event for event in await first.events(run_ids[0]) if event.type == "TopicReceived"]
        assert [(json.loads(event.payload.json), event.attributes["topic"]) for event in received] == [
            ({"amount": 5}, "paid")
        ]
        assert await waits(first) == []


async def test_a_later_wait_gets_what_is_kept(one: Replica) -> None:
    """In the answer to its progress, also where the worker does not keep the run; a timeout is told apart."""
    first = await one.publish("paid", 1, retain=60)
    await one.publish("paid", 2)
    third = await one.publish("paid", 3, retain=60)
    assert first.number < third.number
    assert [(event.number, event.payload.json) for event in await delivered(one)] == [
        (first.number, "1"),
        (third.number, "3"),
    ]
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        result = await code.tell(code.wait_on("paid"), code.wait_on("paid"))
        assert [step.result.json for step in sorted(result.steps, key=lambda step: step.ordinal)] == ["1", "3"]
        result = await code.wait(code.wait_on("paid", timeout=0.1))
        assert list(result.steps) == []
        (step,) = (await code.advance(lambda news: bool(news.steps))).steps
        assert step.timed_out
        assert (await code.complete()).status == ACCEPTED


async def test_a_large_event_reaches_a_worker_that_waits(one: Replica) -> None:
    """It is not at hand where it is brought: the worker hears of it with what it carries all the same."""
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_on("paid"))
        await one.publish("paid", "x" * 100_000)
        (step,) = (await code.advance(lambda news: bool(news.steps))).steps
        assert len(step.result.json) == 100_002


async def test_an_event_may_carry_nothing(one: Replica) -> None:
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_on("paid"))
        await one.topics.PublishEvent(topics_pb2.PublishEventRequest(topic="paid"), timeout=SECONDS)
        (step,) = (await code.advance(lambda news: bool(news.steps))).steps
        assert (step.state, step.result.WhichOneof("body")) == (types_pb2.STEP_STATE_COMPLETED, None)


async def test_a_run_that_was_paused_meanwhile_goes_on_with_its_event(one: Replica) -> None:
    """The event ends the wait; the code hears of it when somebody resumes the run."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_on("paid"))
        await one.runs.PauseRun(runs_pb2.PauseRunRequest(run_id=run_id, reason="test"), timeout=SECONDS)
        await one.publish("paid", 1)
        await one.eventually(run_id, "TopicReceived")
        await one.runs.ResumeRun(runs_pb2.ResumeRunRequest(run_id=run_id), timeout=SECONDS)
        task = await stream.next("assigns", lambda each: each.ref.token > code.task.ref.token)
        assert [step.result.json for step in task.steps] == ["1"]


async def test_a_replay_gets_the_same_event(one: Replica) -> None:
    """With what it carries, though the topic has forgotten it."""
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_on("paid"))
    await one.eventually(run_id, "RunInterrupted", 0)
    await one.publish("paid", "kept by the run")
    await one.eventually(run_id, "TopicReceived")
    await until(lambda: events(one), lambda found: not found)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        assert [(step.name, json.loads(step.result.json)) for step in task.steps] == [("wait paid", "kept by the run")]


async def test_a_repeated_publication_is_recognised(two: Two) -> None:
    """On any replica, also at once; the same id with another event is refused."""
    calls = (replica.publish("paid", 1, retain=60, request_id="r") for replica in two)
    answers = [*await asyncio.gather(*calls), await two[1].publish("paid", 1, retain=60, request_id="r")]
    assert len({answer.number for answer in answers}) == 1
    assert len(await events(two[0])) == 1
    other = two[0].publish("paid", 2, retain=60, request_id="r")
    assert await refusal(other) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


async def test_two_hundred_at_once_are_seen_in_one_order(two: Two) -> None:
    """Who publishes after another was answered has the greater number, and a run gets events by their numbers."""
    await two[0].start()
    async with wire(two[0], capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        answers = await asyncio.gather(*(two[n % 2].publish("paid", n, retain=60) for n in range(200)))
        last = await two[0].publish("paid", 200, retain=60)
        assert last.number > max(answer.number for answer in answers)
        numbered = {answer.number: n for n, answer in enumerate([*answers, last])}
        result = await code.tell(*(code.wait_on("paid") for _ in range(201)))
        got = [json.loads(step.result.json) for step in sorted(result.steps, key=lambda step: step.ordinal)]
        assert got == [numbered[number] for number in sorted(numbered)]


async def test_publishers_of_one_topic_leave_connections_to_others(database_url: str) -> None:
    """However many wait for one who froze in the midst: cold calls, and other topics, go on."""
    async with replica(database_url, pool_connections=2) as one:
        frozen = await one.service.database.connect()
        async with frozen.raw.transaction():
            turn = turn_of(1, "paid").compile(compile_kwargs={"literal_binds": True})
            await frozen.raw.execute(str(turn))
            waiting = [asyncio.create_task(one.publish("paid", n)) for n in range(6)]
            await until(lambda: frozen.raw.fetchval(WAITING))
            async with asyncio.timeout(60):
                assert (await one.publish("other", 1, retain=60)).number
                assert len(await events(one, "other")) == 1
            assert not any(task.done() for task in waiting)
        numbers = [answer.number for answer in await asyncio.gather(*waiting)]
        assert len(set(numbers)) == 6
        await frozen.close()


async def test_nothing_crosses_a_namespace(one: Replica) -> None:
    await one.namespace("other")
    await one.publish("paid", 1, retain=60, namespace="other")
    assert await events(one) == []
    assert len(await events(one, namespace="other")) == 1
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        assert list((await code.wait(code.wait_on("paid"))).steps) == []
    assert await waits(one, namespace="other") == []
    await one.namespaces.DeleteNamespace(namespaces_pb2.DeleteNamespaceRequest(namespace="other"), timeout=SECONDS)
    gone = one.publish("paid", 1, namespace="other")
    assert await refusal(gone) == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("topic", topics_pb2.PublishEventRequest()),
        ("topic", topics_pb2.PublishEventRequest(topic="a\0b")),
        ("topic", topics_pb2.PublishEventRequest(topic="x" * 256)),
        ("retain", topics_pb2.PublishEventRequest(topic="t", retain=Duration(seconds=-1))),
        ("retain", topics_pb2.PublishEventRequest(topic="t", retain=Duration(seconds=31 * 86_400))),
        ("request_id", topics_pb2.PublishEventRequest(topic="t", request_id="x" * 256)),
        ("namespace", topics_pb2.PublishEventRequest(topic="t", namespace="-")),
        ("topic", topics_pb2.ListTopicEventsRequest()),
        ("topic", topics_pb2.ListTopicWaitsRequest(topic="\n")),
        ("namespace", topics_pb2.ListTopicWaitsRequest(topic="t", namespace="a b")),
    ],
)
async def test_what_is_not_right_is_refused_by_name(shared: Replica, field: str, request_: Any) -> None:
    call = getattr(shared.topics, request_.DESCRIPTOR.name.removesuffix("Request"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request_, timeout=SECONDS)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


async def test_a_wait_names_a_signal_or_a_topic(one: Replica) -> None:
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        for wait in (workers_pb2.WaitStep(), workers_pb2.WaitStep(topic=""), workers_pb2.WaitStep(topic="a\0b")):
            steps = [workers_pb2.NewStep(name="w", wait=wait)]
            scopes = [workers_pb2.ScopeState(hash=bytes(8))]
            result = await stream.report(code.task.ref, progress=workers_pb2.Progress(scopes=scopes, steps=steps))
            assert error_reason(result) == "INVALID_FIELD"


async def test_a_large_event_is_listed_alone(one: Replica) -> None:
    """A page has as many as a message may hold."""
    large = payload("x" * 1_500_000)
    for _ in range(3):
        request = topics_pb2.PublishEventRequest(topic="paid", payload=large, retain=Duration(seconds=60))
        await one.topics.PublishEvent(request, timeout=SECONDS)
    assert [len(event.payload.json) for event in await events(one)] == [1_500_002] * 3
