"""Spans of jobs: as many as claims and heartbeats, all in the trace of who started them, across a restart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import asyncpg
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.api.stores import span
from tests.chaos.kit import free_port
from tests.stream.calls import Caller
from tests.stream.kit import ACTIVITY, SECONDS, Replica, capacity, hello, payload, until
from tests.stream.wire import Wire, wire
from tests.telemetry.collectors import attributes, over_grpc
from tests.telemetry.seen import CALLER, CLAIM, HEARTBEAT, UNSAMPLED, about, where
from tests.telemetry.test_counting import Life, Tally, served

from stepwell.v1 import jobs_pb2, types_pb2
from stepwell.v1.workers_pb2 import CompleteActivity, FailActivity, Task

FAILURE = FailActivity(failure=types_pb2.Failure(message="again"))
TWICE = types_pb2.RetryPolicy(initial_interval=span(0.001), maximum_attempts=2)


async def begin(replica: Replica, queue: str = "q", traceparent: str = CALLER) -> str:
    """A job in a caller's trace."""
    request = jobs_pb2.StartJobRequest(type="act", task_queue=queue, retry=TWICE)
    metadata = (("traceparent", traceparent), ("tracestate", "vendor=1"))
    return str((await replica.jobs.StartJob(request, timeout=SECONDS, metadata=metadata)).job_id)


class Held(NamedTuple):
    """What workers are at when the service is killed: one on the stream, one in a session of calls."""

    failed_id: str
    second: Task
    session_id: str
    third: Task


async def first_half(life: Life) -> Held:
    """A job fails for good, and two are under way."""
    failed_id = await begin(life.replica)
    first = await life.task(ACTIVITY)
    await life.beat(first, first)
    await life.stream.report(first.ref, fail=FAILURE)
    again = await life.task(ACTIVITY)
    assert (again.job_id, again.attempt) == (failed_id, 2)
    await life.beat(again)
    await life.stream.report(again.ref, fail=FAILURE)
    await begin(life.replica)
    second = await life.task(ACTIVITY)
    await life.beat(second)
    await life.bare()
    await begin(life.replica, "calls")
    caller = await Caller.of(life.replica, "calls", task_queues=["calls"])
    (third,) = await caller.claim(kind=ACTIVITY)
    life.tally.given(third)
    await life.caller_beats(caller, third, third)
    return Held(failed_id, second, caller.session_id, third)


async def second_half(life: Life, held: Held) -> None:
    """What was under way ends; the failed one is begun anew; and one is told of after its end."""
    await life.beat(held.second)
    await life.stream.complete(held.second)
    caller = Caller(life.replica, held.session_id)
    await life.caller_beats(caller, held.third)
    await caller.report(held.third.ref, complete=CompleteActivity(result=payload(1)))
    await life.replica.jobs.RetryJob(jobs_pb2.RetryJobRequest(job_id=held.failed_id), timeout=SECONDS)
    anew = await life.task(ACTIVITY)
    assert (anew.attempt, anew.ref.token) == (1, 3)
    await life.beat(anew, anew)
    await life.stream.complete(anew)
    await life.beat(anew)


async def test_as_many_spans_as_claims_and_heartbeats_of_jobs_across_a_restart(
    tmp_path: Path, database_url: str
) -> None:
    port, room = free_port(), capacity(activities=2)
    with over_grpc() as collector:
        otel = {"EXPORTER_OTLP_ENDPOINT": collector.endpoint, "EXPORTER_OTLP_PROTOCOL": "grpc"}
        tally = Tally(collector, "stepwell.job")
        async with served(tmp_path, database_url, port, otel) as (process, replica):
            stream = await Wire(replica, hello("w", capacity=room)).open(is_lively=False)
            held = await first_half(Life(replica, stream, tally))
            await tally.arrived()
            await process.kill()
            await stream.end()
        async with served(tmp_path, database_url, port, otel) as (_, replica):
            resuming = hello("w", capacity=room, session_id=stream.welcome.session_id, held=[held.second.ref])
            resumed = await Wire(replica, resuming).open(is_lively=False)
            assert len(resumed.welcome.held) == 1
            await second_half(Life(replica, resumed, tally), held)
            await resumed.half_close()
        spans = collector.spans
    found = {key: count for key, count in tally.found(spans).items() if key[0] in (CLAIM, HEARTBEAT)}
    assert found == tally.expected
    assert len(tally.tasks) == await granted(database_url)
    check_traces([each for each in spans if "stepwell.job" in attributes(each.attributes)])


async def granted(database_url: str) -> int:
    """How often the record says that jobs were given out."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    try:
        return int(await connection.fetchval("SELECT sum(grants) FROM closed_jobs"))
    finally:
        await connection.close()


def check_traces(mine: list[Span]) -> None:
    """All in the caller's: claims under what the caller was at, each after the one before; heartbeats under claims."""
    assert {each.trace_id.hex() for each in mine} == {CALLER[3:35]}
    said = {each.span_id: attributes(each.attributes) for each in mine}
    claims = {each.span_id: each for each in mine if each.name == CLAIM}
    assert {each.parent_span_id.hex() for each in claims.values()} == {CALLER[36:52]}
    first = Counter(said[each.span_id]["stepwell.job"] for each in claims.values() if not each.links)
    assert set(first.values()) == {1}
    linked = [(each.span_id, link.span_id) for each in claims.values() for link in each.links]
    assert len({before for _, before in linked}) == len(linked) == len(claims) - len(first)
    assert all(said[after]["stepwell.job"] == said[before]["stepwell.job"] for after, before in linked)
    beats = [each for each in mine if each.name == HEARTBEAT]
    for each in beats:
        same = ("stepwell.job", "stepwell.attempt", "stepwell.worker")
        claimed, told = said[claims[each.parent_span_id].span_id], said[each.span_id]
        assert [told[name] for name in same] == [claimed[name] for name in same]
    assert Counter(said[each.span_id]["stepwell.outcome"] for each in beats)["lost"] == 1


# --- one by one -------------------------------------------------------------------------------------------------------


async def test_a_claim_says_how_a_job_was_given_out(one: Replica, spans: InMemorySpanExporter) -> None:
    """Straight to a worker that waited, or after it had waited itself; a job that is not sampled says nothing."""
    waited = await begin(one)
    unseen = await begin(one, traceparent=UNSAMPLED)
    async with wire(one, capacity=capacity(activities=3)) as stream:
        tasks = [await stream.task(ACTIVITY) for _ in range(2)]
        pushed = await begin(one)
        tasks.append(await stream.task(ACTIVITY))
        for task in tasks:
            await stream.beat(task, "x")
            await stream.complete(task)
        await until(
            lambda: [each for each in spans.get_finished_spans() if each.name == HEARTBEAT], lambda s: len(s) > 1
        )
    found = [each for each in spans.get_finished_spans() if about(each, "job")]
    assert {where(each)[3:35] for each in found} == {CALLER[3:35]}
    claims = {about(each, "job"): about(each, "outcome", "attempt", "queue") for each in found if each.name == CLAIM}
    assert claims == {waited: ("claimed", 1, "q"), pushed: ("pushed", 1, "q")}
    assert unseen not in {about(each, "job") for each in found}
    assert {about(each, "outcome") for each in found if each.name == HEARTBEAT} == {"recorded"}
    assert not any(about(each, "run") for each in found)
