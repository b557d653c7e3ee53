"""A span for each claimed task, whichever way it was claimed, in its run's trace."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.api.stores import Store, span
from tests.stream.calls import Caller, code_of
from tests.stream.code import Code
from tests.stream.kit import ACTIVITY, RUN, SECONDS, Replica, capacity, payload
from tests.stream.wire import wire
from tests.telemetry.seen import (
    CALLER,
    CLAIM,
    HEARTBEAT,
    UNSAMPLED,
    about,
    beats,
    begin,
    claims,
    links,
    of_run,
    parent,
    where,
)

from stepwell.v1 import run_store_pb2, runs_pb2, schedules_pb2, schedules_pb2_grpc, types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import CompleteActivity, FailActivity

Spans = InMemorySpanExporter


@pytest.mark.parametrize("way", ["pushed", "claimed"])
async def test_tasks_that_a_stream_gets(one: Replica, spans: Spans, way: str) -> None:
    """A fresh task goes straight to a waiting worker, one that waits is fetched; its worker goes on from the claim."""
    run_id = await begin(one) if way == "claimed" else ""
    async with wire(one, capacity=capacity(runs=1)) as stream:
        run_id = run_id or await begin(one)
        task = await stream.task(RUN)
        (claim,) = await claims(spans, run_id, 1)
    assert about(claim, "step", "queue", "worker", "attempt", "outcome") == ("", "q", "raw", 1, way)
    assert task.traceparent == where(claim)
    assert task.tracestate == "vendor=1"
    assert (parent(claim), links(claim)) == (CALLER[36:52], [])


async def test_tasks_claimed_by_calls(one: Replica, spans: Spans) -> None:
    """The run, its activity twice, the run again: each is a claim, and links to the one before of the same."""
    run_id, caller = await begin(one), await Caller.of(one)
    code = code_of(caller, (await caller.claim(kind=RUN))[0])
    retry = types_pb2.RetryPolicy(initial_interval=span(0.001))
    await code.wait(code.activity(retry=retry))
    (first,) = await caller.claim(kind=ACTIVITY)
    await caller.report(first.ref, fail=FailActivity(failure=types_pb2.Failure(message="again")))
    (second,) = await caller.claim(kind=ACTIVITY)
    await caller.report(second.ref, complete=CompleteActivity(result=payload(1)))
    (code.task,) = await caller.claim(kind=RUN)
    await code.complete()
    seen = await claims(spans, run_id, 4)
    assert [about(each, "step", "attempt", "worker", "outcome") for each in seen] == [
        ("", 1, "unary", "claimed"),
        ("a", 1, "unary", "claimed"),
        ("a", 2, "unary", "claimed"),
        ("", 2, "unary", "claimed"),
    ]
    assert [links(each) for each in seen] == [[], [], [where(seen[1])[36:52]], [where(seen[0])[36:52]]]
    assert [first.traceparent, second.traceparent] == [where(each) for each in seen[1:3]]


async def test_a_task_that_came_back_is_a_claim_all_the_same(one: Replica, spans: Spans) -> None:
    """It was given out twice, and counts as one attempt."""
    run_id = await begin(one)
    async with wire(one, "first", capacity=capacity(runs=1)) as first:
        await first.task(RUN, ack=False)
        await first.cut()
    async with wire(one, "second", capacity=capacity(runs=1)) as second:
        await second.task(RUN)
    before, after = await claims(spans, run_id, 2)
    assert (about(before, "worker"), about(after, "worker")) == ("first", "second")
    assert links(after) == [where(before)[36:52]]


async def test_runs_that_an_outside_engine_claims(one: Replica, spans: Spans) -> None:
    """The run itself, its task, its steps; whoever comes too late has claimed nothing."""
    store, steps = Store(one, "run"), Store(one, "step")
    run_id = await created(one)
    claimed = await store.call("ClaimRun", run_id=run_id, owner_id="engine", lease_duration=span(30))
    assert claimed.claimed
    assert not (await store.call("ClaimRun", run_id=run_id, owner_id="other")).claimed
    await store.call("MarkRunDispatchable", run_id=run_id)
    assert (await store.call("ClaimRunTask", task_queue="default", worker_id="w-1")).claimed
    token = claimed.token
    for attempt in (1, 2):
        begun = await steps.call("BeginStep", run_id=run_id, step_name="charge", owner_id="engine", token=token)
        assert begun.step.attempt == attempt
        assert (
            not (
                await steps.call("BeginStep", run_id=run_id, step_name="charge", owner_id="engine", token=token)
            ).step.attempt
            > attempt
        )
        failure = types_pb2.Failure(message="again")
        await steps.call("FailStep", step_number=begun.step.number, failure=failure, token=token)
    seen = await claims(spans, run_id, 4)
    assert [about(each, "step", "worker", "attempt", "outcome", "queue") for each in seen] == [
        ("", "engine", 1, "claimed", "default"),
        ("", "w-1", 0, "claimed", "default"),
        ("charge", "engine", 1, "claimed", "default"),
        ("charge", "engine", 2, "claimed", "default"),
    ]
    assert links(seen[3]) == [where(seen[2])[36:52]]


async def test_renewing_a_driven_run_s_lease_is_its_heartbeat(one: Replica, spans: Spans) -> None:
    """Also of somebody who does not hold it."""
    store, run_id = Store(one, "run"), await created(one)
    token = (await store.call("ClaimRun", run_id=run_id, owner_id="engine", lease_duration=span(30))).token
    for owner, ours in (("engine", True), ("other", False)):
        renewal = {"run_id": run_id, "owner_id": owner, "token": token, "lease_duration": span(30)}
        assert (await store.call("RenewRunLease", **renewal)).renewed is ours
    (claim,) = await claims(spans, run_id, 1)
    renewals = of_run(spans, HEARTBEAT, run_id)
    assert [about(beat, "worker", "outcome") for beat in renewals] == [("engine", "recorded"), ("other", "lost")]
    assert {parent(beat) for beat in renewals} == {where(claim)[36:52]}


async def test_activities_of_an_outside_engine(one: Replica, spans: Spans) -> None:
    """Claimed twice; told by whoever has it, by its holder, by a former one, and when all is over."""
    store, run_id = Store(one, "activity"), await created(one)
    made = (await store.call("CreateActivity", run_id=run_id, seq=1, type="send", task_queue="q")).activity
    first = (await store.call("ClaimActivity", task_queue="q", worker_id="w-1")).token
    await store.call("RequeueActivityForRetry", activity_number=made.activity_number, attempt=2, token=first)
    token = (await store.call("ClaimActivity", task_queue="q", worker_id="w-2")).token
    assert not (await store.call("ClaimActivity", task_queue="q", worker_id="w-3")).claimed
    for told in (0, token, first):
        await store.call("HeartbeatActivity", activity_number=made.activity_number, token=told)
    await store.call("CompleteActivity", activity_number=made.activity_number, result=payload(1), token=token)
    assert not (await store.call("HeartbeatActivity", activity_number=made.activity_number, token=token)).recorded
    before, after = await claims(spans, run_id, 2)
    assert [about(each, "worker", "attempt", "queue") for each in (before, after)] == [("w-1", 1, "q"), ("w-2", 2, "q")]
    assert links(after) == [where(before)[36:52]]
    told = await beats(spans, run_id, 4)
    assert [about(each, "worker", "attempt", "outcome") for each in told] == [
        ("w-2", 2, "recorded"),
        ("w-2", 2, "recorded"),
        ("", 0, "lost"),
        ("", 2, "lost"),
    ]
    under = [where(each)[36:52] for each in (after, after, before, after)]
    assert [parent(each) for each in told] == under


async def test_nothing_is_recorded_of_what_the_caller_did_not_sample(one: Replica, spans: Spans) -> None:
    """Neither its call nor claims nor heartbeats; and its workers hear so."""
    async with wire(one, capacity=capacity(runs=9, activities=9)) as stream:
        runs = {}
        for traceparent in (UNSAMPLED, CALLER):
            runs[traceparent] = await begin(one, traceparent)
            code = Code(stream, await stream.task(RUN))
            await code.wait(code.activity())
            task = await stream.task(ACTIVITY)
            assert {task.traceparent[53:], code.task.traceparent[53:]} == {traceparent[53:]}
            await stream.beat(task, "half")
        await claims(spans, runs[CALLER], 2)
        await beats(spans, runs[CALLER], 1)
    recorded = spans.get_finished_spans()
    assert runs[UNSAMPLED] not in {about(each, "run") for each in recorded}
    assert sum(each.name.endswith("StartRun") for each in recorded) == 1


# --- traces of other runs ---------------------------------------------------------------------------------------------


async def test_a_child_is_in_its_parent_s_trace(one: Replica, spans: Spans) -> None:
    await begin(one)
    async with wire(one, capacity=capacity(runs=2)) as stream:
        code = Code(stream, await stream.task(RUN))
        child = workers_pb2.ChildStep(type="wf")
        await code.wait(code.step("child", child=child))
        task = await stream.task(RUN)
        assert task.run_id != code.task.run_id
        await claims(spans, task.run_id, 1)


async def test_continuing_as_new_begins_a_trace_that_links_to_the_one_before(one: Replica, spans: Spans) -> None:
    run_id = await begin(one)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        result = await code.tell(continue_as_new=workers_pb2.ContinueAsNew(input=payload(1)))
        assert result.status == workers_pb2.ReportResult.STATUS_ACCEPTED
        task = await stream.task(RUN)
    assert task.run_id != run_id
    (start,) = [each for each in spans.get_finished_spans() if each.name == "stepwell.start"]
    assert (about(start, "run", "type"), start.parent) == ((task.run_id, "wf"), None)
    assert where(start)[3:35] != CALLER[3:35]
    (link,) = start.links
    assert f"{link.context.trace_id:032x}" == CALLER[3:35]
    (claim,) = of_run(spans, CLAIM, task.run_id, where(start))
    assert (parent(claim), where(claim)) == (where(start)[36:52], task.traceparent)
    assert (await one.run(task.run_id)).traceparent == where(start)


async def test_attempts_of_a_run_are_in_its_trace_and_link_to_the_one_before(one: Replica, spans: Spans) -> None:
    run_id = await begin(one, retry=types_pb2.RetryPolicy(initial_interval=span(0), maximum_attempts=2))
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.tell(fail=workers_pb2.FailRun(failure=types_pb2.Failure(message="again")))
        task = await stream.task(RUN)
        first, second = await claims(spans, run_id, 2)
    assert [where(first), where(second)] == [code.task.traceparent, task.traceparent]
    assert (links(first), links(second)) == ([], [where(first)[36:52]])
    assert parent(first) == parent(second) == CALLER[36:52]


async def test_each_firing_of_a_schedule_begins_a_trace_that_links_to_who_made_it(one: Replica, spans: Spans) -> None:
    spec, run = schedules_pb2.ScheduleSpec(cron="@every 1s"), runs_pb2.StartRunRequest(type="wf", task_queue="q")
    schedule = schedules_pb2.Schedule(
        name="often", spec=spec, run=run, overlap_policy=schedules_pb2.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
    )
    calls: Any = schedules_pb2_grpc.ScheduleServiceStub(one.channel)
    await calls.CreateSchedule(
        schedules_pb2.CreateScheduleRequest(schedule=schedule), timeout=SECONDS, metadata=(("traceparent", CALLER),)
    )
    async with wire(one, capacity=capacity(runs=2)) as stream:
        tasks = [await stream.task(RUN) for _ in range(2)]
    starts = {where(each): each for each in spans.get_finished_spans() if each.name == "stepwell.start"}
    for task in tasks:
        root = (await one.run(task.run_id)).traceparent
        (link,) = starts[root].links
        assert (f"{link.context.trace_id:032x}", starts[root].parent) == (CALLER[3:35], None)
        assert task.traceparent[3:35] == root[3:35] != CALLER[3:35]
    assert tasks[0].traceparent[3:35] != tasks[1].traceparent[3:35]


async def created(one: Replica) -> str:
    """A driven run in a caller's trace."""
    request = run_store_pb2.CreateRunRequest(type="t", initial_phase=types_pb2.RUN_PHASE_RUNNING)
    create = Store(one, "run")._stub.CreateRun
    return str((await create(request, timeout=SECONDS, metadata=(("traceparent", CALLER),))).run_id)
