"""What an engine does by the client that none of the mirrored stores has a method for, against a whole service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.stream.kit import Replica, replica

from stepwell import reasons
from stepwell.stores.assay import WorkflowRecord, WorkflowStore
from stepwell.stores.engine import EngineStore
from stepwell.stores.flow_orchestrator import FlowRunStore
from stepwell.v1 import run_store_pb2, step_store_pb2
from stepwell.v1.run_store_pb2_grpc import RunStoreStub
from stepwell.v1.step_store_pb2_grpc import StepStoreStub

MINUTE = timedelta(minutes=1)


@pytest_asyncio.fixture
async def server(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url) as made:
        yield made


@pytest_asyncio.fixture
async def store(server: Replica) -> AsyncIterator[WorkflowStore]:
    async with WorkflowStore.connect(server.service.address) as made:
        await made.create_workflow(WorkflowRecord(id="w", workflow_type="t", task_queue="q", input='{"a": 1}'))
        yield made


@pytest.fixture
def engine(store: WorkflowStore) -> EngineStore:
    return store.part(EngineStore)


async def read(store: WorkflowStore, **named: str) -> Any:
    return (await store.call(RunStoreStub(store.channel).ReadRun, run_store_pb2.ReadRunRequest(**named))).run


async def test_data_is_set_and_taken_away(store: WorkflowStore, engine: EngineStore) -> None:
    first = await engine.set_data({"a": 1, "b": [2]}, workflow_id="w", expected_version=0)
    second = await engine.set_data({"a": {"c": None}}, workflow_id="w", removed=["b"], expected_version=first)
    assert second > first
    with pytest.raises(reasons.RunDataChanged):
        await engine.set_data({"a": 2}, workflow_id="w", expected_version=first)
    request = run_store_pb2.GetRunDataRequest(workflow_id="w")
    data = (await store.call(RunStoreStub(store.channel).GetRunData, request)).data
    assert {name: payload.json for name, payload in data.items()} == {"a": '{"c":null}'}
    with pytest.raises(reasons.RunNotFound):
        await engine.set_data({"a": 1}, workflow_id="none")


async def test_a_run_s_task_is_renewed_by_who_has_it(store: WorkflowStore, engine: EngineStore) -> None:
    await store.mark_workflow_dispatchable("w")
    assert await store.claim_workflow_task("q", "one") is not None
    assert await engine.renew_run_task("one", workflow_id="w")
    assert not await engine.renew_run_task("other", workflow_id="w")


async def test_a_run_is_made_as_another_was(store: WorkflowStore, engine: EngineStore) -> None:
    run_id = await engine.rerun(workflow_id="w", new_workflow_id="again")
    again, source = await read(store, run_id=run_id), await read(store, workflow_id="w")
    assert (again.workflow_id, again.type, again.source_run_id) == ("again", "t", source.run_id)
    with pytest.raises(reasons.RunNotFound):
        await engine.rerun(workflow_id="none")


async def test_a_step_s_claim_is_prolonged_under_its_token(store: WorkflowStore, engine: EngineStore) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    claim = step_store_pb2.ClaimStepRequest(workflow_id="w", step_name="ship", owner_id="one")
    claim.lease_duration.FromTimedelta(MINUTE)
    claim.now.FromDatetime(now)
    claimed = await store.call(StepStoreStub(store.channel).ClaimStep, claim)
    assert claimed.claimed
    held: Any = ("ship", "one", claimed.claim_token, MINUTE)
    assert await engine.renew_step_claim(*held, workflow_id="w", now=now + MINUTE / 2) == now + 1.5 * MINUTE
    stale: Any = ("ship", "one", claimed.claim_token + 1, MINUTE)
    assert await engine.renew_step_claim(*stale, workflow_id="w", now=now) is None


async def test_dispatches_that_nobody_claimed_are_taken_once(store: WorkflowStore, engine: EngineStore) -> None:
    run_id = "0190b0a4-7e11-7b6e-8000-000000000001"
    ledger = store.part(FlowRunStore)
    for step in ("pack", "ship"):
        assert await ledger.TryRecordDispatchAsync(run_id, step)
    later = datetime.now(UTC) + 10 * MINUTE
    (first,) = await engine.take_unclaimed_dispatches(MINUTE, limit=1, now=later)
    (second,) = await engine.take_unclaimed_dispatches(MINUTE, now=later)
    assert {first.step_name, second.step_name} == {"pack", "ship"}
    assert await engine.take_unclaimed_dispatches(MINUTE, now=later) == []


async def test_snapshots_are_listed_without_their_state(store: WorkflowStore, engine: EngineStore) -> None:
    for number in (3, 7, 5):
        await store.create_snapshot("w", number, '{"x": 1}')
    listed = await engine.list_snapshots(workflow_id="w")
    assert [(each.event_seq, each.HasField("state")) for each in listed] == [(7, False), (5, False), (3, False)]
    assert await engine.list_snapshots(workflow_id="none") == []
