"""A span for each heartbeat received, in its run's trace, whatever became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.api.stores import Store
from tests.stream.calls import Caller, code_of
from tests.stream.code import Code
from tests.stream.kit import ACTIVITY, RUN, Replica, capacity, payload, until
from tests.stream.wire import Wire, wire
from tests.telemetry.seen import CALLER, HEARTBEAT, about, beats, begin, claims, parent, where

from stepwell.v1.workers_pb2 import ReleaseTask, Task, TaskHeartbeat
from stepwell_server.store import recall
from stepwell_server.store.faults import Lost

Spans = InMemorySpanExporter


async def at_work(one: Replica, stream: Wire) -> tuple[str, Task]:
    """A run in a caller's trace, whose activity is under way."""
    run_id = await begin(one)
    code = Code(stream, await stream.task(RUN, run_id=run_id))
    await code.wait(code.activity())
    return run_id, await stream.task(ACTIVITY, run_id=run_id)


async def test_each_item_of_a_stream_is_a_span_also_when_they_are_written_together(one: Replica, spans: Spans) -> None:
    """Two activities, five items in one message: their runs', and under the claims of their activities."""
    async with wire(one, capacity=capacity(runs=2, activities=2)) as stream:
        (first, one_task), (second, other_task) = await at_work(one, stream), await at_work(one, stream)
        reported = f"{CALLER[:36]}00000000000000aa-01"
        items = [TaskHeartbeat(ref=one_task.ref, details=payload(each)) for each in range(3)]
        items += [TaskHeartbeat(ref=other_task.ref), TaskHeartbeat(ref=other_task.ref, traceparent=reported)]
        await stream.say(heartbeats=items)
        (_, claim) = await claims(spans, first, 2)
        for beat in await beats(spans, first, 3):
            assert about(beat, "step", "queue", "worker", "attempt", "outcome") == ("a", "q", "raw", 1, "recorded")
            assert parent(beat) == where(claim)[36:52]
        _, other = await beats(spans, second, 2)
        assert parent(other) == "00000000000000aa"


async def test_each_item_of_a_call_is_a_span(one: Replica, spans: Spans) -> None:
    run_id, caller = await begin(one), await Caller.of(one)
    code = code_of(caller, (await caller.claim(kind=RUN))[0])
    await code.tell(code.activity(), waiting=True)
    (task,) = await caller.claim(kind=ACTIVITY)
    await caller.beat(TaskHeartbeat(ref=task.ref), TaskHeartbeat(ref=task.ref, details=payload(1)))
    for beat in await beats(spans, run_id, 2):
        assert about(beat, "step", "worker", "attempt", "outcome") == ("a", "unary", 1, "recorded")


@pytest.mark.parametrize("ended", [False, True])
async def test_what_a_stale_holder_says_is_a_span_of_the_run_too(one: Replica, spans: Spans, ended: bool) -> None:
    """The activity is another's meanwhile; or its run has ended, and stands elsewhere."""
    async with wire(one, capacity=capacity(runs=1, activities=1)) as stream:
        run_id, task = await at_work(one, stream)
        if ended:
            await one.end(run_id)
        else:
            await stream.report(task.ref, release=ReleaseTask())
            await stream.task(ACTIVITY)
        assert (await stream.beat(task)).lost
        (beat,) = await beats(spans, run_id, 1)
        assert about(beat, "outcome", "step", "attempt") == ("lost", "a", 1 if ended else 0)
        seen = await claims(spans, run_id, 2 if ended else 3)
        assert parent(beat) == where(seen[1])[36:52]


async def test_beats_that_could_not_be_written_are_told_once_the_database_is_there(
    one: Replica, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed = recall.write_heartbeats, asyncio.Event()

    async def failing(connection: Any, written: Any) -> Any:
        if failed.is_set():
            return await write(connection, written)
        failed.set()
        raise Lost("away")

    async with wire(one, capacity=capacity(runs=1, activities=1)) as stream:
        run_id, task = await at_work(one, stream)
        monkeypatch.setattr(recall, "write_heartbeats", failing)
        await stream.say(heartbeats=[TaskHeartbeat(ref=task.ref)])
        await failed.wait()
        await stream.beat(task)
        seen = await beats(spans, run_id, 2)
    assert [about(beat, "outcome") for beat in seen] == ["failed", "recorded"]


async def test_what_one_says_of_another_namespace_s_run_stays_in_its_own_session(one: Replica, spans: Spans) -> None:
    """Nothing crosses a namespace, no span either."""
    space = await one.namespace("other")
    async with (
        wire(one, capacity=capacity(runs=1, activities=1)) as stream,
        wire(one, "stranger", namespace=space, is_lively=False) as stranger,
    ):
        run_id, task = await at_work(one, stream)
        assert (await stranger.beat(task)).lost
        found = await until(lambda: of_session(spans, stranger.welcome.session_id))
        await beats(spans, run_id, 0)
    assert [about(beat, "worker", "outcome", "run") for beat in found] == [("stranger", "lost", None)]


async def test_a_beat_without_items_is_in_the_trace_of_its_session(one: Replica, spans: Spans) -> None:
    """A message that says nothing, or only asks for an answer; and a call without items. A pong is an answer."""
    async with wire(one, is_lively=False) as stream:
        for said in ({}, {"ping": 7}, {"pong": 7}, {"capacity": capacity(runs=1)}):
            await stream.say(**said)
        await stream.settled()
        assert len(of_session(spans, stream.welcome.session_id)) == 3
    caller = await Caller.of(one)
    await caller.beat()
    (beat,) = of_session(spans, caller.session_id)
    assert about(beat, "worker", "outcome") == ("unary", "recorded")
    assert Counter(each.name for each in spans.get_finished_spans())[HEARTBEAT] == 4


async def test_an_outside_engine_s_worker_has_a_trace_of_its_own(one: Replica, spans: Spans) -> None:
    """The same from beat to beat, and not another worker's."""
    store = Store(one, "worker")
    await store.call("RegisterWorker", worker_id="w-1")
    for worker_id in ("w-1", "w-1", "nobody"):
        await store.call("HeartbeatWorker", worker_id=worker_id)
    seen = [each for each in spans.get_finished_spans() if each.name == HEARTBEAT]
    assert [about(each, "worker", "outcome") for each in seen] == [
        ("w-1", "recorded"),
        ("w-1", "recorded"),
        ("nobody", "lost"),
    ]
    first, again, other = (where(each)[3:35] for each in seen)
    assert first == again != other


def of_session(spans: Spans, session_id: str) -> list[Any]:
    found = [each for each in spans.get_finished_spans() if about(each, "session") == session_id]
    assert {where(each)[3:35] for each in found} <= {session_id.replace("-", "")}
    return found
