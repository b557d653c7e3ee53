"""Driven runs over RunStore: claims with tokens, hand-outs over many callers, and what has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.api.stores import COMPLETED, PENDING, RUNNING, Store, at, claimed, create, json, read, span
from tests.service import Service, refusal, serving

from stepwell.v1 import namespaces_pb2


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
    # The claim grows older than the time after which it counts as stale.
    await asyncio.sleep(0.01)
    assert (await store.call("ReleaseStaleRunTasks", timeout=span(0.001))).released_count == 1
    await store.call("MarkRunCompleted", run_id=second)
    assert (await store.call("ClaimRunTask", task_queue="q", worker_id="w")).run.run_id == first
    assert not (await store.call("ClaimRunTask", task_queue="q", worker_id="w")).claimed


async def test_each_task_goes_to_one_of_many_workers(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas."""
    created = {await create(service, task_queue="q") for _ in range(6)}
    for run_id in created:
        await store.call("MarkRunDispatchable", run_id=run_id)
    async with serving(database_url) as other:
        stores = (store, Store(other, "run"))
        claims = [
            stores[number % 2].call("ClaimRunTask", task_queue="q", worker_id=f"w{number}") for number in range(8)
        ]
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


async def test_due_runs_are_disjoint_over_many_pollers(service: Service, store: Store, database_url: str) -> None:
    """Over two replicas."""
    created = {await create(service) for _ in range(20)}
    for run_id in created:
        await store.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(-1))
    async with serving(database_url) as other:
        stores = (store, Store(other, "run"))
        polls = await asyncio.gather(*(stores[n % 2].call("TakeDueRuns", now=at(0), limit=5) for n in range(8)))
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
