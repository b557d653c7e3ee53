"""RunStore: the stores' own contract cases by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    SUSPENDED,
    Store,
    at,
    claimed,
    create,
    json,
    read,
    span,
)
from tests.service import Service, refusal, serving

from stepwell.v1 import namespaces_pb2, runs_pb2, types_pb2

Wake = runs_pb2.Run.Wake


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "run")


@pytest.fixture
def steps(service: Service) -> Store:
    return Store(service, "step")


async def runnable(store: Store, seconds: float = 0) -> list[str]:
    return [run.run_id for run in await store.pages("ListRunnableRuns", "runs", now=at(seconds))]


# --- stem's contract --------------------------------------------------------------------------------------------------


async def test_stem_1_create_run_persists_metadata_and_cursor_defaults_to_zero(service: Service) -> None:
    run = await read(service, await create(service, type="w", input=json('{"a": 1}')))
    assert (run.type, run.phase, run.cursor, run.input.json) == ("w", RUNNING, 0, '{"a": 1}')
    assert (run.driven, run.managed) == (True, False)


async def test_stem_2_create_run_honors_the_callers_id(service: Service, store: Store) -> None:
    await create(service, workflow_id="mine")
    found = await store.call("ReadRun", workflow_id="mine")
    assert (found.found, found.run.workflow_id) == (True, "mine")
    assert not (await store.call("ReadRun", workflow_id="other")).found


async def test_stem_3_create_run_rejects_a_duplicate_id(service: Service, store: Store, steps: Store) -> None:
    """Also after the end; the first keeps its workflow, its params and its checkpoint."""
    run_id = await create(service, type="first", workflow_id="w", input=json("1"))
    await steps.call("SaveStep", run_id=run_id, step_name="s", value=json("2"))
    assert (await refusal(store.call("CreateRun", type="second", workflow_id="w")))[1] == "WORKFLOW_ID_IN_USE"
    run = await read(service, run_id)
    assert (run.type, run.input.json) == ("first", "1")
    assert (await steps.call("ReadStep", run_id=run_id, step_name="s")).value.json == "2"
    await store.call("MarkRunCompleted", run_id=run_id)
    assert (await refusal(store.call("CreateRun", type="second", workflow_id="w"))) == ("ALREADY_EXISTS", "RUN_EXISTS")


async def test_stem_9_suspend_until_due_runs_mark_resumed(service: Service, store: Store) -> None:
    run_id = await create(service)
    await store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(-1), data=json('{"k": 1}'))
    run = await read(service, run_id)
    assert (run.phase, run.wake_time, run.active_step) == (SUSPENDED, at(-1), "s")
    assert run.suspension_data.json == '{"k": 1}'
    (due,) = (await store.call("TakeDueRuns", now=at(0))).runs
    assert (due.run_id, due.step_name, due.topic, due.due_time) == (run_id, "s", "", at(-1))
    assert not (await store.call("TakeDueRuns", now=at(0))).runs
    assert (await store.call("ResumeRunWith", run_id=run_id, data=json("2"))).resumed
    run = await read(service, run_id)
    assert (run.phase, run.wait_topic, run.suspension_data.json) == (RUNNING, "", "2")
    assert run.wake.cause == Wake.CAUSE_TIME
    assert not run.HasField("wake_time")


async def test_stem_10_claim_run_leases(service: Service, store: Store) -> None:
    run_id = await create(service)
    assert await runnable(store) == [run_id]
    first = await claimed(store, run_id, "a")
    assert (first.claimed, first.lease_expire_time) == (True, at(5))
    assert not (await claimed(store, run_id, "b")).claimed
    assert not (await claimed(store, run_id, "a")).claimed
    assert await runnable(store) == []
    assert await runnable(store, 6) == [run_id]
    second = await claimed(store, run_id, "b", 6)
    assert second.claimed
    assert second.token > first.token
    renewal = {"run_id": run_id, "lease_duration": span(5), "now": at(7)}
    assert (await store.call("RenewRunLease", owner_id="b", token=second.token, **renewal)).renewed
    assert not (await store.call("RenewRunLease", owner_id="c", token=second.token, **renewal)).renewed
    assert not (await store.call("RenewRunLease", owner_id="a", token=first.token, **renewal)).renewed
    assert not (await store.call("ReleaseRun", run_id=run_id, owner_id="a", token=first.token)).released
    assert (await store.call("ReleaseRun", run_id=run_id, owner_id="b", token=second.token)).released
    assert await runnable(store, 7) == [run_id]


async def test_stem_11_runnable_runs_exclude_suspended_ones(service: Service, store: Store) -> None:
    waiting, other = await create(service), await create(service)
    await store.call("SuspendRun", run_id=waiting, step_name="s", wake_time=at(9))
    assert await runnable(store) == [other]
    assert not (await claimed(store, waiting, "a")).claimed


async def test_stem_12_due_runs_honor_the_limit(service: Service, store: Store) -> None:
    created = {await create(service) for _ in range(3)}
    for run_id in created:
        await store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(-1))
    first = [run.run_id for run in (await store.call("TakeDueRuns", now=at(0), limit=2)).runs]
    rest = [run.run_id for run in (await store.call("TakeDueRuns", now=at(0), limit=2)).runs]
    assert (len(first), len(rest), {*first, *rest}) == (2, 1, created)


async def test_stem_17_mark_completed_stores_the_result(service: Service, store: Store) -> None:
    run_id = await create(service)
    await store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(1), data=json("1"))
    await store.call("ResumeRunWith", run_id=run_id, data=json("2"))
    await store.call("MarkRunCompleted", run_id=run_id, result=json('{"output": "ok"}'))
    run = await read(service, run_id)
    assert (run.phase, run.result.json) == (COMPLETED, '{"output": "ok"}')
    assert not run.HasField("suspension_data")


async def test_stem_18_mark_failed(service: Service, store: Store) -> None:
    run_id = await create(service)
    failure = types_pb2.Failure(message="boom", stack_trace="here")
    assert (await store.call("MarkRunFailed", run_id=run_id, failure=failure)).phase == RUNNING
    run = await read(service, run_id)
    assert (run.phase, run.failure.message, run.failure.stack_trace) == (RUNNING, "boom", "here")
    assert (await store.call("MarkRunFailed", run_id=run_id, failure=failure, terminal=True)).phase == FAILED
    assert (await read(service, run_id)).failure.message == "boom"


async def test_stem_19_list_runs_filters(service: Service, store: Store) -> None:
    first, second = await create(service, type="a"), await create(service, type="b")
    await service.begin()
    await store.call("MarkRunCompleted", run_id=first)
    assert [run.run_id for run in await store.pages("ListDrivenRuns", "runs", page_size=1)] == [second, first]
    (run,) = await store.pages("ListDrivenRuns", "runs", type="a")
    assert (run.run_id, run.phase) == (first, COMPLETED)
    assert [run.run_id for run in await store.pages("ListDrivenRuns", "runs", phases=[COMPLETED])] == [first]


async def test_stem_22_the_cancellation_policy_is_persisted(service: Service) -> None:
    policy = types_pb2.CancellationPolicy(maximum_run_duration=span(300), maximum_suspend_duration=span(60))
    run = await read(service, await create(service, cancellation_policy=policy))
    assert run.cancellation_policy == policy
    assert run.HasField("create_time")


async def test_stem_23_the_reason_of_a_cancellation_is_persisted(service: Service, store: Store) -> None:
    run_id = await create(service)
    await claimed(store, run_id, "a")
    assert (await store.call("CancelDrivenRun", run_id=run_id, reason="maxRunDuration")).accepted
    run = await read(service, run_id)
    assert (run.phase, run.cancel_request.reason) == (CANCELLED, "maxRunDuration")
    again = await store.call("CancelDrivenRun", run_id=run_id)
    assert (again.accepted, again.phase) == (False, CANCELLED)


# --- assay's contract -------------------------------------------------------------------------------------------------


async def test_assay_3_workflow_create_get_roundtrip(service: Service, store: Store) -> None:
    run_id = await create(service, workflow_id="w", task_queue="q", initial_phase=PENDING)
    run = (await store.call("ReadRun", workflow_id="w")).run
    assert (run.run_id, run.namespace, run.type, run.task_queue, run.phase) == (run_id, "main", "t", "q", PENDING)
    assert not (await store.call("ReadRun", workflow_id="unknown")).found


async def test_assay_4_workflow_status_transitions(service: Service, store: Store) -> None:
    run_id = await create(service, initial_phase=PENDING)
    assert (await store.call("SetRunPhase", run_id=run_id, phase=RUNNING)).changed
    assert not (await read(service, run_id)).HasField("end_time")
    assert not (await store.call("SetRunPhase", run_id=run_id, phase=RUNNING)).changed
    await store.call("SetRunPhase", run_id=run_id, phase=SUSPENDED)
    await store.call("SetRunPhase", run_id=run_id, phase=COMPLETED, result=json('{"x":  1}'))
    run = await read(service, run_id)
    assert run.HasField("end_time")
    assert run.result.json == '{"x":  1}'


async def test_assay_5_workflow_claim(service: Service, store: Store) -> None:
    """An owner alone: no token, no end, and the claim is never lost to time."""
    run_id = await create(service, initial_phase=PENDING)
    first = await store.call("ClaimRun", run_id=run_id, owner_id="a")
    assert (first.claimed, first.token, first.HasField("lease_expire_time")) == (True, 0, False)
    assert not (await store.call("ClaimRun", run_id=run_id, owner_id="b")).claimed
    assert not (await store.call("ClaimRun", run_id=run_id, owner_id="a")).claimed
    run = await read(service, run_id)
    assert (run.owner_id, run.phase) == ("a", RUNNING)
    await store.call("MarkRunCompleted", run_id=run_id)


async def test_assay_6_workflow_list_with_filters(service: Service, store: Store) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="ns"))
    await create(service)
    first = await create(service, namespace="ns", type="a", initial_phase=PENDING)
    await create(service, namespace="ns", type="b", initial_phase=PENDING)

    async def listed(**fields: Any) -> list[str]:
        return [run.run_id for run in await store.pages("ListDrivenRuns", "runs", namespace="ns", **fields)]

    assert len(await listed()) == 2
    assert await listed(type="a") == [first]
    assert len(await listed(phases=[PENDING])) == 2
    await store.call("SetRunPhase", namespace="ns", run_id=first, phase=RUNNING)
    assert await listed(phases=[RUNNING]) == [first]


async def test_assay_7_workflow_task_dispatch(service: Service, store: Store) -> None:
    run_id = await create(service, task_queue="q")

    async def task(worker: str) -> str:
        return str((await store.call("ClaimRunTask", task_queue="q", worker_id=worker)).run.run_id)

    assert await task("w1") == ""
    assert (await store.call("MarkRunDispatchable", run_id=run_id)).changed
    assert not (await store.call("MarkRunDispatchable", run_id=run_id)).changed
    assert await task("w1") == run_id
    assert await task("w2") == ""
    assert not (await store.call("ReleaseRunTask", run_id=run_id, worker_id="w2")).released
    assert (await store.call("ReleaseRunTask", run_id=run_id, worker_id="w1")).released
    assert await task("w2") == ""
    await store.call("MarkRunDispatchable", run_id=run_id)
    assert await task("w2") == run_id


async def test_assay_28_child_workflows_listing(service: Service, store: Store) -> None:
    parent = await create(service, workflow_id="parent")
    children = {await create(service, parent_workflow_id="parent") for _ in range(2)}
    children.add(await create(service, parent_run_id=parent))
    await create(service)
    listed = await store.pages("ListChildRuns", "runs", workflow_id="parent", page_size=2)
    assert {run.run_id for run in listed} == children
    assert {run.parent_run_id for run in listed} == {parent}
    assert await store.pages("ListChildRuns", "runs", workflow_id="unknown") == []
    await store.call("MarkRunCompleted", run_id=next(iter(children)))
    assert (await refusal(store.call("CreateRun", type="t", parent_workflow_id="none")))[1] == "RUN_NOT_FOUND"
