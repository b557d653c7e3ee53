"""assay's `WorkflowStore`, a case for each method that is answered; the second part is in `test_assay_work`."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.api.stores import COMPLETED, PENDING, RUNNING, json, span
from tests.parity.cases import Engine, answers, schedule

from stepwell.v1 import mirrors_pb2, types_pb2

TRAIT = mirrors_pb2.TRAIT_ASSAY_WORKFLOW_STORE
ACTIVITY_PENDING, ACTIVITY_RUNNING, ACTIVITY_COMPLETED, ACTIVITY_FAILED, ACTIVITY_CANCELLED = (
    types_pb2.STEP_STATE_PENDING,
    types_pb2.STEP_STATE_RUNNING,
    types_pb2.STEP_STATE_COMPLETED,
    types_pb2.STEP_STATE_FAILED,
    types_pb2.STEP_STATE_CANCELLED,
)


async def read(engine: Engine, workflow_id: str = "w") -> Any:
    return (await engine.call("ReadRun", workflow_id=workflow_id)).run


# --- namespaces -------------------------------------------------------------------------------------------------------


@answers(TRAIT, "create_namespace")
async def test_create_namespace(engine: Engine) -> None:
    name = f"{engine.namespace}-other"
    made = (await engine.call("CreateNamespace", namespace=name)).namespace
    assert (made.name, made.HasField("create_time")) == (name, True)


@answers(TRAIT, "list_namespaces")
async def test_list_namespaces(engine: Engine) -> None:
    names = [each.name for each in await engine.pages("ListNamespaces", "namespaces", page_size=3)]
    assert names == sorted(names)
    assert {"main", engine.namespace} <= set(names)


@answers(TRAIT, "delete_namespace")
async def test_delete_namespace(engine: Engine) -> None:
    assert (await engine.call("DeleteNamespace")).deleted
    assert not (await engine.call("DeleteNamespace")).deleted
    assert not (await engine.call("DeleteNamespace", namespace="main")).deleted


@answers(TRAIT, "get_namespace_stats")
async def test_get_namespace_stats(engine: Engine) -> None:
    await engine.create("w1")
    await engine.create("w2", initial_phase=PENDING)
    await engine.call("MarkRunCompleted", workflow_id="w1")
    await engine.call("RegisterWorker", worker_id="a")
    await engine.call("CreateSchedule", schedule=schedule("s"))
    stats = await engine.call("GetNamespaceStats")
    assert (stats.namespace, stats.total_runs, stats.workers, stats.schedules) == (engine.namespace, 2, 1, 1)
    assert {each.phase: each.count for each in stats.runs} == {PENDING: 1, COMPLETED: 1}
    assert (await engine.call("GetNamespaceStats", namespace="unknown")).total_runs == 0


# --- workflows --------------------------------------------------------------------------------------------------------


@answers(TRAIT, "create_workflow")
async def test_create_workflow(engine: Engine) -> None:
    created = await engine.call("CreateRun", workflow_id="w", type="t", task_queue="q", input=json("[1]"))
    assert (created.created, bool(created.run_id)) == (True, True)


@answers(TRAIT, "get_workflow")
async def test_get_workflow(engine: Engine) -> None:
    """By its id alone."""
    workflow_id = f"w-{engine.namespace}"
    await engine.create(workflow_id, input=json("[1]"), initial_phase=PENDING)
    answer = await engine.call("ReadRun", namespace="-", workflow_id=workflow_id)
    run = answer.run
    assert (run.namespace, run.type, run.phase, run.input.json) == (engine.namespace, "t", PENDING, "[1]")
    assert not (await engine.call("ReadRun", namespace="-", workflow_id="unknown")).found


@answers(TRAIT, "list_workflows")
async def test_list_workflows(engine: Engine) -> None:
    for name, kind in (("w1", "a"), ("w2", "b")):
        await engine.create(name, type=kind, initial_phase=PENDING)
    await engine.call("SetRunPhase", workflow_id="w2", phase=RUNNING)

    async def listed(**fields: Any) -> list[str]:
        return [run.workflow_id for run in await engine.pages("ListDrivenRuns", "runs", page_size=1, **fields)]

    assert await listed() == ["w2", "w1"]
    assert await listed(type="a") == ["w1"]
    assert await listed(phases=[RUNNING]) == ["w2"]
    assert await listed(skip=1) == ["w1"]


@answers(TRAIT, "list_child_workflows")
async def test_list_child_workflows(engine: Engine) -> None:
    await engine.create("parent")
    for name in ("c1", "c2"):
        await engine.create(name, parent_workflow_id="parent")
    await engine.create("unrelated")
    children = await engine.pages("ListChildRuns", "runs", workflow_id="parent", page_size=1)
    assert sorted(run.workflow_id for run in children) == ["c1", "c2"]
    assert await engine.pages("ListChildRuns", "runs", workflow_id="unknown") == []


@answers(TRAIT, "update_workflow_status")
async def test_update_workflow_status(engine: Engine) -> None:
    await engine.create(initial_phase=PENDING)
    running = await engine.call("SetRunPhase", workflow_id="w", phase=RUNNING)
    assert (running.changed, running.phase, (await read(engine)).HasField("end_time")) == (True, RUNNING, False)
    done = await engine.call("SetRunPhase", workflow_id="w", phase=COMPLETED, result=json('{"a":1}'))
    run = await read(engine)
    assert (done.phase, run.result.json, run.HasField("end_time")) == (COMPLETED, '{"a":1}', True)


@answers(TRAIT, "claim_workflow")
async def test_claim_workflow(engine: Engine) -> None:
    await engine.create(initial_phase=PENDING)
    assert (await engine.call("ClaimRun", workflow_id="w", owner_id="a")).claimed
    assert not (await engine.call("ClaimRun", workflow_id="w", owner_id="b")).claimed
    run = await read(engine)
    assert (run.owner_id, run.phase) == ("a", RUNNING)


# --- their tasks ------------------------------------------------------------------------------------------------------


@answers(TRAIT, "mark_workflow_dispatchable")
async def test_mark_workflow_dispatchable(engine: Engine) -> None:
    await engine.create(task_queue="q")
    assert not (await engine.call("ClaimRunTask", task_queue="q", worker_id="w1")).claimed
    marks = [(await engine.call("MarkRunDispatchable", workflow_id="w")).changed for _ in range(2)]
    assert marks == [True, False]
    assert (await engine.call("ClaimRunTask", task_queue="q", worker_id="w1")).claimed


@answers(TRAIT, "claim_workflow_task")
async def test_claim_workflow_task(engine: Engine) -> None:
    """Each goes to one of many claimers, and none stays behind."""
    for number in range(24):
        await engine.create(f"w{number}", task_queue="q")
        await engine.call("MarkRunDispatchable", workflow_id=f"w{number}")
    first = await engine.call("ClaimRunTask", task_queue="q", worker_id="w1")
    assert (first.claimed, first.run.workflow_id, first.run.type) == (True, "w0", "t")
    claims = await asyncio.gather(
        *(engine.call("ClaimRunTask", task_queue="q", worker_id=f"w{number}") for number in range(24))
    )
    assert sorted(each.run.workflow_id for each in claims) == sorted(["", *(f"w{n}" for n in range(1, 24))])


@answers(TRAIT, "release_workflow_task")
async def test_release_workflow_task(engine: Engine) -> None:
    await engine.create(task_queue="q")
    await engine.call("MarkRunDispatchable", workflow_id="w")
    await engine.call("ClaimRunTask", task_queue="q", worker_id="w1")
    released = [
        (await engine.call("ReleaseRunTask", workflow_id="w", worker_id=worker_id)).released
        for worker_id in ("w2", "w1", "w1")
    ]
    assert released == [False, True, False]


@answers(TRAIT, "release_stale_dispatch_leases")
async def test_release_stale_dispatch_leases(engine: Engine) -> None:
    await engine.create(task_queue="q")
    await engine.call("MarkRunDispatchable", workflow_id="w")
    await engine.call("ClaimRunTask", task_queue="q", worker_id="w1")
    assert (await engine.call("ReleaseStaleRunTasks", timeout=span(60))).released_count == 0
    later = (await read(engine)).create_time
    later.seconds += 3600
    assert (await engine.call("ReleaseStaleRunTasks", timeout=span(60), now=later)).released_count == 1
    assert (await engine.call("ClaimRunTask", task_queue="q", worker_id="w2")).claimed


# --- events -----------------------------------------------------------------------------------------------------------


@answers(TRAIT, "append_event")
async def test_append_event(engine: Engine) -> None:
    await engine.create()
    answer = await engine.call("AppendEvent", workflow_id="w", type="Paid", payload=json("1"), caller_seq=1)
    assert (answer.number, answer.event_number > 0) == (2, True)


@answers(TRAIT, "list_events")
async def test_list_events(engine: Engine) -> None:
    await engine.create()
    for seq in (1, 2, 3):
        await engine.call("AppendEvent", workflow_id="w", type="T", payload=json(str(seq)), caller_seq=seq)
    asked = {"workflow_id": "w", "filter": "origin = CALLER", "page_size": 2}
    events = await engine.pages("ReadEvents", "events", **asked)
    assert [(event.caller_seq, event.type, event.payload.json) for event in events] == [
        (seq, "T", str(seq)) for seq in (1, 2, 3)
    ]
    assert [event.caller_seq for event in await engine.pages("ReadEvents", "events", descending=True, **asked)] == [
        3,
        2,
        1,
    ]
    assert await engine.pages("ReadEvents", "events", workflow_id="unknown") == []


@answers(TRAIT, "get_event_count")
async def test_get_event_count(engine: Engine) -> None:
    await engine.create()
    await engine.call("AppendEvent", workflow_id="w", type="T")
    assert (await engine.call("CountEvents", workflow_id="w")).count == 2
    assert (await engine.call("CountEvents", workflow_id="unknown")).count == 0
