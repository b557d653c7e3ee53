"""Spans counted: as many as claims and heartbeats, all in the caller's trace, though the service is killed between.

A real service in a process of its own exports to a collector; it is killed once what it had to tell has arrived there
(a killed process takes what it had not yet exported with it), and another goes on with the same run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import grpc.aio
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tests.api.stores import span
from tests.chaos.kit import TERMS, Process, connect, free_port
from tests.stream.calls import Caller
from tests.stream.code import Code
from tests.stream.kit import ACTIVITY, RUN, Replica, capacity, hello, payload
from tests.stream.wire import Wire
from tests.telemetry.collectors import Collector, attributes, over_grpc, over_http
from tests.telemetry.seen import CALLER, CLAIM, HEARTBEAT, begin

from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import CompleteActivity, FailActivity, Task, TaskHeartbeat

OVER = {"grpc": over_grpc, "http/protobuf": over_http}


class Tally:
    """What workers were given and what they sent, counted by themselves; `subject` names of what."""

    def __init__(self, collector: Collector, subject: str = "stepwell.run") -> None:
        self._collector = collector
        self._subject = subject
        self.tasks: set[tuple[str, int]] = set()
        self.beats = 0
        self.bare = 0

    def given(self, *tasks: Task) -> None:
        self.tasks |= {(task.ref.task_id, task.ref.token) for task in tasks}

    def found(self, spans: list[Span]) -> Counter[tuple[str, bool]]:
        """How many claims and heartbeats were exported, and whether they are about the run, or a job."""
        return Counter((each.name, self._subject in attributes(each.attributes)) for each in spans)

    @property
    def expected(self) -> Counter[tuple[str, bool]]:
        counted = {(CLAIM, True): len(self.tasks), (HEARTBEAT, True): self.beats, (HEARTBEAT, False): self.bare}
        return Counter(counted)

    async def arrived(self) -> list[Span]:
        """Returns once all that was counted has been exported."""
        return await asyncio.to_thread(self._collector.wait, lambda spans: self.found(spans) >= self.expected)


class Life:
    """A run at work: its code and activities on a stream, one activity by calls."""

    def __init__(self, replica: Replica, stream: Wire, tally: Tally) -> None:
        self.replica = replica
        self.stream = stream
        self.tally = tally

    async def task(self, kind: int) -> Task:
        task = await self.stream.task(kind)
        self.tally.given(task)
        return task

    async def beat(self, *tasks: Task) -> None:
        """A message with an item for each, and the answers."""
        await self.stream.say(heartbeats=[TaskHeartbeat(ref=task.ref, details=payload("x")) for task in tasks])
        for _ in tasks:
            await self.stream.next("heartbeats")
        self.tally.beats += len(tasks)

    async def bare(self) -> None:
        """A message that says no more than that its worker lives, answered."""
        await self.stream.settled()
        self.tally.bare += 1

    async def caller_beats(self, caller: Caller, *tasks: Task) -> None:
        await caller.beat(*(TaskHeartbeat(ref=task.ref) for task in tasks))
        self.tally.beats += len(tasks)
        self.tally.bare += not tasks


@asynccontextmanager
async def served(
    folder: Path, url: str, port: int, otel: Mapping[str, str], **settings: str
) -> AsyncIterator[tuple[Process, Replica]]:
    """A service in a process of its own, and stubs to it. Workers that are counted lose nothing by being slow."""
    terms = {**TERMS, "SESSION_SECONDS": "600", "ACK_SECONDS": "60", **settings}
    variables = (
        {f"STEPWELL_{name}": value for name, value in terms.items()}
        | {f"OTEL_{name}": value for name, value in otel.items()}
        | {"STEPWELL_DATABASE_URL": url}
    )
    command = ("-m", "stepwell_server.main", "serve", "--port", str(port))
    process = await Process.start(folder / "server.log", *command, **variables)
    service: Any = None
    try:
        async with await connect(f"127.0.0.1:{port}"), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield process, Replica(service, channel)
    finally:
        await process.end()


class UnderWay(NamedTuple):
    """What workers are at when the service is killed: the run, an activity each, and the session of calls."""

    run_id: str
    code: Code
    second: Task
    session_id: str
    third: Task


async def first_half(life: Life) -> UnderWay:
    """A run with three activities: one fails and is tried again, one is claimed by calls; two are still under way."""
    run_id = await begin(life.replica)
    code = Code(life.stream, await life.task(RUN))
    retry = types_pb2.RetryPolicy(initial_interval=span(0.001))
    await code.wait(code.activity("a", retry=retry), code.activity("b"), code.activity("c", task_queue="calls"))
    first, second = await life.task(ACTIVITY), await life.task(ACTIVITY)
    await life.beat(first, second, first)
    await life.stream.report(first.ref, fail=FailActivity(failure=types_pb2.Failure(message="again")))
    again = await life.task(ACTIVITY)
    assert (again.step_name, again.attempt) == (first.step_name, 2)
    await life.beat(again)
    await life.bare()
    await life.stream.complete(again)
    caller = await Caller.of(life.replica, "calls", task_queues=["calls"])
    (third,) = await caller.claim(kind=ACTIVITY)
    life.tally.given(third)
    await life.caller_beats(caller, third, third)
    await life.caller_beats(caller)
    return UnderWay(run_id, code, second, caller.session_id, third)


async def second_half(life: Life, held: UnderWay) -> None:
    """What was under way goes on with what is held, is told again, and ends; then one more, and the end."""
    await life.beat(held.second)
    await life.stream.complete(held.second)
    caller = Caller(life.replica, held.session_id)
    await life.caller_beats(caller, held.third)
    await caller.report(held.third.ref, complete=CompleteActivity(result=payload(1)))
    held.code.stream = life.stream
    await held.code.wait(held.code.activity("d"))
    last = await life.task(ACTIVITY)
    await life.beat(last, last)
    await life.stream.complete(last)
    await life.beat(last)
    await held.code.complete()


@pytest.mark.parametrize("protocol", OVER)
async def test_as_many_spans_as_claims_and_heartbeats_across_a_restart(
    tmp_path: Path, database_url: str, protocol: str
) -> None:
    port, room = free_port(), capacity(runs=1, activities=2)
    with OVER[protocol]() as collector:
        otel = {"EXPORTER_OTLP_ENDPOINT": collector.endpoint, "EXPORTER_OTLP_PROTOCOL": protocol}
        tally = Tally(collector)
        async with served(tmp_path, database_url, port, otel) as (process, replica):
            stream = await Wire(replica, hello("w", capacity=room)).open(is_lively=False)
            held = await first_half(Life(replica, stream, tally))
            before = len(await tally.arrived())
            await process.kill()
            await stream.end()
        async with served(tmp_path, database_url, port, otel) as (_, replica):
            refs = [held.second.ref, held.code.task.ref]
            resuming = hello("w", capacity=room, session_id=stream.welcome.session_id, held=refs)
            resumed = await Wire(replica, resuming).open(is_lively=False)
            assert len(resumed.welcome.held) == 2
            await second_half(Life(replica, resumed, tally), held)
            await resumed.half_close()
        # It has left in order, and said all that it knew.
        spans = collector.spans
        sessions = {stream.welcome.session_id.replace("-", ""), held.session_id.replace("-", "")}
    assert len(spans) > before
    assert {key: count for key, count in tally.found(spans).items() if key[0] in (CLAIM, HEARTBEAT)} == tally.expected
    assert len(tally.tasks) == await granted(database_url)
    check_traces(spans, held.run_id, sessions)


async def granted(database_url: str) -> int:
    """How often the record says that the run and its steps were given out."""
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "stepwell"})
    try:
        return int(
            await connection.fetchval(
                "SELECT (SELECT sum(grants) FROM closed_runs) + (SELECT sum(grants) FROM closed_steps)"
            )
        )
    finally:
        await connection.close()


def check_traces(spans: list[Span], run_id: str, sessions: set[str]) -> None:
    """All of the run is in the caller's trace: claims under what the caller was at, heartbeats under their claims."""
    mine = [
        each
        for each in spans
        if each.name in (CLAIM, HEARTBEAT) and attributes(each.attributes).get("stepwell.run") == run_id
    ]
    assert {each.trace_id.hex() for each in mine} == {CALLER[3:35]}
    claims = {each.span_id: each for each in mine if each.name == CLAIM}
    assert {each.parent_span_id.hex() for each in claims.values()} == {CALLER[36:52]}
    for each in mine:
        said = attributes(each.attributes)
        if each.name == HEARTBEAT:
            claimed = attributes(claims[each.parent_span_id].attributes)
            same = ("stepwell.step", "stepwell.attempt", "stepwell.worker")
            assert [said[name] for name in same] == [claimed[name] for name in same]
        elif said["stepwell.attempt"] > 1:
            (link,) = each.links
            before = attributes(claims[link.span_id].attributes)
            assert (before["stepwell.step"], before["stepwell.attempt"]) == (
                said["stepwell.step"],
                said["stepwell.attempt"] - 1,
            )
    outcomes = Counter(attributes(each.attributes)["stepwell.outcome"] for each in mine if each.name == HEARTBEAT)
    assert outcomes["lost"] == 1
    bare = [each for each in spans if each.name == HEARTBEAT and each not in mine]
    assert {each.trace_id.hex() for each in bare} == sessions
