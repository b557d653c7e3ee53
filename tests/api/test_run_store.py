"""RunStore: the stores' own contract cases by name, claims with tokens, and hand-outs over many callers."""

from __future__ import annotations

import asyncio
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


async def claimed(store: Store, run_id: str, owner: str, seconds: float = 0, lease: float = 5) -> Any:
    return await store.call("ClaimRun", run_id=run_id, owner_id=owner, lease_duration=span(lease), now=at(seconds))


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


# --- beyond them ------------------------------------------------------------------------------------------------------


async def test_a_task_marked_while_it_is_claimed_is_handed_out_again(service: Service, store: Store) -> None:
    run_id = await create(service, task_queue="q")
    await store.call("MarkRunDispatchable", run_id=run_id)
    await store.call("ClaimRunTask", task_queue="q", worker_id="w1")
    assert (await store.call("MarkRunDispatchable", run_id=run_id)).changed
    assert not (await store.call("ClaimRunTask", task_queue="q", worker_id="w2")).claimed
    await store.call("ReleaseRunTask", run_id=run_id, worker_id="w1")
    assert (await store.call("ClaimRunTask", task_queue="q", worker_id="w2")).claimed


async def test_stale_tasks_return_and_ended_runs_have_none(service: Service, store: Store) -> None:
    first, second = await create(service, task_queue="q"), await create(service, task_queue="q")
    for run_id in (first, second):
        await store.call("MarkRunDispatchable", run_id=run_id)
    assert (await store.call("ClaimRunTask", task_queue="q", worker_id="w")).run.run_id == first
    assert (await store.call("ReleaseStaleRunTasks", timeout=span(600))).released_count == 0
    await asyncio.sleep(0.01)
    assert (await store.call("ReleaseStaleRunTasks", timeout=span(0.001))).released_count == 1
    await store.call("MarkRunCompleted", run_id=second)
    assert (await store.call("ClaimRunTask", task_queue="q", worker_id="w")).run.run_id == first
    assert not (await store.call("ClaimRunTask", task_queue="q", worker_id="w")).claimed


async def test_each_task_goes_to_one_of_many_workers(service: Service, store: Store) -> None:
    created = {await create(service, task_queue="q") for _ in range(6)}
    for run_id in created:
        await store.call("MarkRunDispatchable", run_id=run_id)
    claims = [store.call("ClaimRunTask", task_queue="q", worker_id=f"w{number}") for number in range(8)]
    got = [response.run.run_id for response in await asyncio.gather(*claims) if response.claimed]
    assert sorted(got) == sorted(created)


async def test_two_engines_claim_once(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas on one database."""
    created = [await create(service) for _ in range(5)]
    async with serving(database_url) as other:
        stores = (store, Store(other, "run"))
        for run_id in created:
            answers = await asyncio.gather(*(claimed(each, run_id, str(id(each))) for each in stores for _ in range(2)))
            assert sum(answer.claimed for answer in answers) == 1


async def test_due_runs_are_disjoint_over_many_pollers(service: Service, store: Store) -> None:
    created = {await create(service) for _ in range(20)}
    for run_id in created:
        await store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(-1))
    polls = await asyncio.gather(*(store.call("TakeDueRuns", now=at(0), limit=5) for _ in range(8)))
    taken = [run.run_id for poll in polls for run in poll.runs]
    assert sorted(taken) == sorted(created)


async def test_a_due_run_is_not_lost_with_its_poller(service: Service, store: Store) -> None:
    """Handed out and not resumed, it is due again when the hand-out is over; cancelled, it is not."""
    run_id = await create(service)
    await store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(-1))
    (due,) = (await store.call("TakeDueRuns", now=at(0), hand_out_duration=span(10))).runs
    assert due.hand_out_expire_time == at(10)
    assert not (await store.call("TakeDueRuns", now=at(9))).runs
    assert [run.run_id for run in (await store.call("TakeDueRuns", now=at(10))).runs] == [run_id]
    await store.call("CancelDrivenRun", run_id=run_id)
    assert not (await store.call("TakeDueRuns", now=at(100))).runs


async def test_a_stale_token_is_refused_everywhere(service: Service, store: Store, steps: Store) -> None:
    """No token, an old one, and a made-up one; the present one is accepted even after its lease has expired."""
    run_id = await create(service)
    old = (await claimed(store, run_id, "a")).token
    token = (await claimed(store, run_id, "b", 6)).token
    begun = await steps.call("BeginStep", run_id=run_id, step_name="s", token=token)
    for stale in (0, old, token + 1):
        writes = [
            store.call("SetRunPhase", run_id=run_id, phase=COMPLETED, token=stale),
            store.call("MarkRunRunning", run_id=run_id, token=stale),
            store.call("MarkRunCompleted", run_id=run_id, token=stale),
            store.call("MarkRunFailed", run_id=run_id, terminal=True, token=stale),
            store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(1), token=stale),
            store.call("RewindToStep", run_id=run_id, step_name="s", token=stale),
            steps.call("BeginStep", run_id=run_id, step_name="x", token=stale),
            steps.call("ScheduleStep", run_id=run_id, step_name="x", token=stale),
            steps.call("SaveStep", run_id=run_id, step_name="x", token=stale),
            steps.call("CompleteStep", step_number=begun.step.number, token=stale),
            steps.call("FailStep", step_number=begun.step.number, token=stale),
        ]
        assert {await refusal(write) for write in writes} == {("FAILED_PRECONDITION", "LEASE_LOST")}
    assert (await refusal(store.call("ResumeRunWith", run_id=run_id, token=old)))[1] == "LEASE_LOST"
    await store.call("MarkRunCompleted", run_id=run_id, token=token)


async def test_an_expired_lease_may_be_renewed_while_nobody_took_it(service: Service, store: Store) -> None:
    run_id = await create(service)
    token = (await claimed(store, run_id, "a")).token
    renewal = {"run_id": run_id, "owner_id": "a", "token": token, "lease_duration": span(5)}
    assert (await store.call("RenewRunLease", now=at(100), **renewal)).lease_expire_time == at(105)
    assert not (await claimed(store, run_id, "b", 104)).claimed
    assert (await claimed(store, run_id, "b", 105)).claimed
    assert not (await store.call("RenewRunLease", now=at(106), **renewal)).renewed


async def test_what_has_ended_stays_as_it_is(service: Service, store: Store, steps: Store) -> None:
    run_id = await create(service)
    begun = await steps.call("BeginStep", run_id=run_id, step_name="s")
    await store.call("MarkRunCompleted", run_id=run_id, result=json("1"))
    writes = [
        store.call("SetRunPhase", run_id=run_id, phase=RUNNING),
        store.call("MarkRunRunning", run_id=run_id),
        store.call("MarkRunCompleted", run_id=run_id),
        store.call("MarkRunFailed", run_id=run_id),
        store.call("ResumeRunWith", run_id=run_id),
        store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(1)),
        store.call("RewindToStep", run_id=run_id, step_name="s"),
        store.call("MarkRunDispatchable", run_id=run_id),
        steps.call("BeginStep", run_id=run_id, step_name="s"),
        steps.call("SaveStep", run_id=run_id, step_name="s"),
    ]
    assert {(await refusal(write))[1] for write in writes} == {"RUN_TERMINAL"}
    late = steps.call("CompleteStep", step_number=begun.step.number)
    assert (await refusal(late))[1] == "STEP_STATE_CONFLICT"
    assert not (await claimed(store, run_id, "a")).claimed
    assert (await read(service, run_id)).result.json == "1"


async def test_only_legal_moves_of_driven_runs(service: Service, store: Store) -> None:
    run_id = await create(service)
    assert (await refusal(store.call("SetRunPhase", run_id=run_id, phase=PENDING)))[1] == "RUN_PHASE_CONFLICT"
    early = store.call("SetRunPhase", run_id=run_id, phase=RUNNING, result=json("1"))
    assert (await refusal(early))[1] == "INVALID_FIELD"
    code_run = await service.begin()
    assert (await refusal(store.call("MarkRunCompleted", run_id=code_run)))[1] == "RUN_NOT_DRIVEN"
    assert (await refusal(store.call("ClaimRun", run_id=code_run, owner_id="a")))[1] == "RUN_NOT_DRIVEN"


async def test_a_creation_may_be_repeated(store: Store) -> None:
    request = {"type": "t", "workflow_id": "w", "request_id": "r"}
    first, again = await store.call("CreateRun", **request), await store.call("CreateRun", **request)
    assert (first.created, again.created, again.run_id) == (True, False, first.run_id)
    other = store.call("CreateRun", type="t", workflow_id="v", request_id="r")
    assert (await refusal(other))[1] == "REQUEST_ID_REUSED"


async def test_nothing_crosses_a_namespace(service: Service, store: Store) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="ns"))
    run_id = await create(service, task_queue="q")
    assert not (await store.call("ReadRun", namespace="ns", run_id=run_id)).found
    assert (await store.call("ReadRun", namespace="-", run_id=run_id)).found
    assert (await refusal(store.call("ClaimRun", namespace="ns", run_id=run_id, owner_id="a")))[1] == "RUN_NOT_FOUND"
    await store.call("MarkRunDispatchable", run_id=run_id)
    assert not (await store.call("ClaimRunTask", namespace="ns", task_queue="q", worker_id="w")).claimed
    assert await store.pages("ListRunnableRuns", "runs", namespace="ns") == []
    await store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(-1))
    assert not (await store.call("TakeDueRuns", namespace="ns", now=at(0))).runs
