"""RunControlStore, and where runs come from: FlowOrchestrator's contract on its control records and keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from msgspec.structs import replace
from tests.api.stores import CANCELLED, RUNNING, START, Store, at, create, json, read
from tests.api.test_definitions import create as define
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import retention_pb2, runs_pb2, search_attributes_pb2
from stepwell_server.engine.driven_runs import MarkRunCompleted
from stepwell_server.engine.run_controls import ConfigureRun
from stepwell_server.engine.starts import NewRun, Reuse, StartRun
from stepwell_server.errors import WorkflowIdInUse
from stepwell_server.model.driven import RunOrigin
from stepwell_server.model.payloads import NULL
from stepwell_server.model.runs import RunRef
from stepwell_server.store import dispatches


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


@pytest_asyncio.fixture
async def other(service: Service, database_url: str) -> AsyncIterator[Service]:
    """A second replica."""
    async with serving(database_url) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "run_control")


@pytest_asyncio.fixture
async def run_id(service: Service) -> str:
    return await create(service)


def key(run_id: str | None = None, **fields: Any) -> dict[str, Any]:
    given = {"type": "flow", "trigger_key": "manual", "idempotency_key": "k", **fields}
    return {**given, "run_id": run_id or str(uuid4())}


async def control(store: Store, run_id: str) -> Any:
    answer = await store.call("GetRunControl", run_id=run_id)
    assert answer.found
    return answer.control


# --- idempotency keys -------------------------------------------------------------------------------------------------


async def test_a_key_is_registered_once(store: Store) -> None:
    first, second = key(), key()
    assert (await store.call("RegisterIdempotencyKey", **first)).registered
    late = await store.call("RegisterIdempotencyKey", **second)
    assert (late.registered, late.run_id) == (False, first["run_id"])
    del second["run_id"]
    found = await store.call("GetRunByIdempotencyKey", **second)
    assert (found.found, found.run_id, found.run_found) == (True, first["run_id"], False)


async def test_triggers_and_types_are_apart_and_case_is_not(store: Store) -> None:
    first = key()
    await store.call("RegisterIdempotencyKey", **first)
    assert (await store.call("RegisterIdempotencyKey", **key(trigger_key="webhook"))).registered
    assert (await store.call("RegisterIdempotencyKey", **key(type="another"))).registered
    folded = key(trigger_key=" MANUAL ", idempotency_key="\u2003K ")
    assert (await store.call("RegisterIdempotencyKey", **folded)).run_id == first["run_id"]
    blank = store.call("RegisterIdempotencyKey", **key(idempotency_key="  "))
    assert (await refusal(blank))[0] == "INVALID_ARGUMENT"


async def test_32_registrations_at_once_are_one(service: Service, other: Service) -> None:
    stores = (Store(service, "run_control"), Store(other, "run_control"))
    calls = [stores[place % 2].call("RegisterIdempotencyKey", **key()) for place in range(32)]
    answers = await asyncio.gather(*calls)
    assert sum(answer.registered for answer in answers) == 1
    assert len({answer.run_id for answer in answers}) == 1


async def test_a_run_and_its_key_come_together(service: Service, other: Service, store: Store) -> None:
    """Of many that create a run under one key, on two replicas, one does, and the others hear of it."""
    origin = {"trigger_key": "manual", "idempotency_key": "K", "title": "Pay"}
    stores = (Store(service, "run"), Store(other, "run"))
    calls = [stores[place % 2].call("CreateRun", type="flow", origin=origin) for place in range(32)]
    answers = await asyncio.gather(*calls)
    (run_id,) = {answer.run_id for answer in answers}
    assert sum(answer.created for answer in answers) == 1
    found = await store.call("GetRunByIdempotencyKey", type="flow", trigger_key="manual", idempotency_key="k")
    assert (found.run_id, found.run_found) == (run_id, True)
    assert len(await stores[0].pages("ListDrivenRuns", "runs")) == 1
    assert (await read(service, run_id)).origin.idempotency_key == "K"


async def test_a_key_of_two_replicas_at_once(service: Service, other: Service) -> None:
    """Neither batch sees the key of the other: the second learns of it at the key, and decides once more."""
    waiting = asyncio.Event()
    insert_keys, met = dispatches.insert_keys, asyncio.Barrier(2)

    async def together(connection: Any, keys: Any) -> None:
        if not waiting.is_set():
            await met.wait()
            waiting.set()
        await insert_keys(connection, keys)

    origin = {"trigger_key": "manual", "idempotency_key": "k"}
    with patch.object(dispatches, "insert_keys", together):
        calls = [Store(each, "run").call("CreateRun", type="flow", origin=origin) for each in (service, other)]
        answers = await asyncio.gather(*calls)
    assert sorted(answer.created for answer in answers) == [False, True]
    assert len({answer.run_id for answer in answers}) == 1


async def test_a_key_that_waits_for_its_run_is_its_own(service: Service, store: Store) -> None:
    waiting = key()
    await store.call("RegisterIdempotencyKey", **waiting)
    origin = {"trigger_key": "manual", "idempotency_key": "k"}
    made = await Store(service, "run").call("CreateRun", type="flow", run_id=waiting["run_id"], origin=origin)
    assert (made.created, made.run_id) == (True, waiting["run_id"])
    again = await Store(service, "run").call("CreateRun", type="flow", origin=origin)
    assert (again.created, again.run_id) == (False, waiting["run_id"])


async def test_a_run_that_is_refused_registers_nothing(service: Service, store: Store) -> None:
    await create(service, workflow_id="w")
    origin = RunOrigin(0, 1, trigger_key="manual", idempotency_key="k")
    new = NewRun(1, "main", "flow", "q", run_id=uuid4(), workflow_id="w", driven=True, managed=False, origin=origin)
    refused = service.committers.submit(StartRun(new, reuse=Reuse.REJECT))
    # Of the same batch, so that there is something to write.
    await service.committers.submit(StartRun(replace(new, run_id=uuid4(), workflow_id="v", origin=None)))
    with pytest.raises(WorkflowIdInUse):
        await refused
    found = await store.call("GetRunByIdempotencyKey", type="flow", trigger_key="manual", idempotency_key="k")
    assert not found.found


# --- run control ------------------------------------------------------------------------------------------------------


async def test_configure_and_read(service: Service, store: Store, run_id: str) -> None:
    fields = {"trigger_key": "manual", "idempotency_key": "K", "deadline": at(60)}
    assert (await store.call("ConfigureRun", run_id=run_id, **fields)).run_id == run_id
    shown = await control(store, run_id)
    assert (shown.run_id, shown.type, shown.trigger_key, shown.idempotency_key) == (run_id, "t", "manual", "K")
    assert shown.deadline == at(60)
    assert (shown.HasField("cancel_request"), shown.HasField("timed_out_time")) == (False, False)
    assert (await read(service, run_id)).deadline == at(60)
    assert not (await store.call("GetRunControl", run_id=str(uuid4()))).found


async def test_configuring_again_leaves_requests_to_stop(store: Store, run_id: str) -> None:
    await store.call("RequestRunCancel", run_id=run_id, reason="r")
    await store.call("ConfigureRun", run_id=run_id, trigger_key="cron")
    shown = await control(store, run_id)
    assert (shown.trigger_key, shown.cancel_request.reason) == ("cron", "r")


async def test_what_is_configured_stays_with_an_ended_run(service: Service, store: Store, run_id: str) -> None:
    """Both come in one batch."""
    ref, deadline = RunRef(1, "main", run_id=UUID(run_id)), START + timedelta(seconds=60)
    configured = service.committers.submit(ConfigureRun(ref, "manual", "", deadline, 0))
    await service.committers.submit(MarkRunCompleted(ref, NULL, 0))
    assert configured.done()
    shown = await control(store, run_id)
    assert (shown.trigger_key, shown.deadline) == ("manual", at(60))
    assert (await refusal(store.call("ConfigureRun", run_id=run_id)))[1] == "RUN_TERMINAL"


async def test_the_first_request_to_cancel_counts(service: Service, store: Store, run_id: str) -> None:
    first, second = [await store.call("RequestRunCancel", run_id=run_id, reason=reason) for reason in ("a", "b")]
    assert (first.accepted, first.phase, second.accepted) == (True, RUNNING, False)
    shown = await control(store, run_id)
    assert (shown.cancel_request.reason, shown.cancel_request.HasField("time")) == ("a", True)
    run = await read(service, run_id)
    assert (run.phase, run.cancel_request.reason) == (RUNNING, "a")


async def test_the_first_note_of_a_timeout_counts(store: Store, run_id: str) -> None:
    assert (await store.call("MarkRunTimedOut", run_id=run_id)).marked
    shown = await control(store, run_id)
    assert not (await store.call("MarkRunTimedOut", run_id=run_id, reason="again")).marked
    assert (await control(store, run_id)) == shown
    assert shown.cancel_request.reason == "Run timed out."
    assert shown.HasField("timed_out_time")


async def test_cancel_and_time_out_in_either_order(service: Service, store: Store) -> None:
    first = await create(service)
    assert (await store.call("RequestRunCancel", run_id=first, reason="mine")).accepted
    assert (await store.call("MarkRunTimedOut", run_id=first, reason="late")).marked
    shown = await control(store, first)
    assert (shown.cancel_request.reason, shown.HasField("timed_out_time")) == ("mine", True)
    second = await create(service)
    assert (await store.call("MarkRunTimedOut", run_id=second, reason="late")).marked
    assert not (await store.call("RequestRunCancel", run_id=second, reason="mine")).accepted
    shown = await control(store, second)
    assert (shown.cancel_request.reason, shown.HasField("timed_out_time")) == ("late", True)


async def test_an_ended_run_is_asked_nothing(service: Service, store: Store, run_id: str) -> None:
    await Store(service, "run").call("SetRunPhase", run_id=run_id, phase=CANCELLED)
    assert not (await store.call("RequestRunCancel", run_id=run_id)).accepted
    assert not (await store.call("MarkRunTimedOut", run_id=run_id)).marked
    unknown = store.call("RequestRunCancel", run_id=str(uuid4()))
    assert (await refusal(unknown))[1] == "RUN_NOT_FOUND"


async def test_many_at_once_are_one(service: Service, other: Service, run_id: str) -> None:
    stores = (Store(service, "run_control"), Store(other, "run_control"))
    for method, field in (("RequestRunCancel", "accepted"), ("MarkRunTimedOut", "marked")):
        calls = [stores[place % 2].call(method, run_id=run_id, reason=str(place)) for place in range(16)]
        assert sum(getattr(answer, field) for answer in await asyncio.gather(*calls)) == 1


async def test_code_runs_are_not_controlled_so(service: Service, store: Store) -> None:
    run_id = await service.begin()
    for method in ("ConfigureRun", "RequestRunCancel", "MarkRunTimedOut"):
        assert (await refusal(store.call(method, run_id=run_id)))[1] == "RUN_NOT_DRIVEN"


# --- re-runs ----------------------------------------------------------------------------------------------------------


async def test_a_re_run_is_as_the_run_was_but_for_its_key(service: Service) -> None:
    runs = Store(service, "run")
    origin = {"title": "Pay", "trigger_key": "manual", "idempotency_key": "k"}
    fields = {"type": "flow", "task_queue": "q", "input": json("[1]"), "correlation_id": "c", "origin": origin}
    source = await create(service, **fields)
    await runs.call("MarkRunCompleted", run_id=source)
    made = [await runs.call("RerunRun", run_id=source, request_id="r", initial_phase=RUNNING) for _ in range(2)]
    assert [each.created for each in made] == [True, False]
    run = await read(service, made[0].run_id)
    assert (run.type, run.task_queue, run.input.json, run.correlation_id) == ("flow", "q", "[1]", "c")
    assert (run.origin.title, run.origin.trigger_key, run.origin.idempotency_key) == ("Pay", "manual", "")
    assert (run.source_run_id, run.phase) == (source, RUNNING)
    assert (await refusal(runs.call("RerunRun", run_id=str(uuid4()))))[1] == "RUN_NOT_FOUND"


async def test_a_re_run_has_the_attributes_and_the_definition_of_the_run(service: Service) -> None:
    """The attributes as they are now; each run has its own from then on."""
    runs = Store(service, "run")
    definition = await define(service, version=1)
    follows = {"code": definition.code, "version": 1}
    source = await create(service, type="", definition=follows, search_attributes={"env": {"text": "prod"}})
    score = {"score": search_attributes_pb2.SearchAttribute(integer=3)}
    request = search_attributes_pb2.UpsertSearchAttributesRequest(run_id=source, attributes=score)
    await service.runs.UpsertSearchAttributes(request, timeout=TIMEOUT)
    await runs.call("MarkRunCompleted", run_id=source)
    again = await read(service, (await runs.call("RerunRun", run_id=source)).run_id)
    assert again.search_attributes["env"].text == "prod"
    assert again.search_attributes["score"].integer == 3
    assert again.definition.definition_id == definition.definition_id
    listing = runs_pb2.ListRunsRequest(filter='attribute.env = "prod"')
    found = (await service.runs.ListRuns(listing, timeout=TIMEOUT)).runs
    assert [run.run_id for run in found] == [again.run_id, source]


async def test_a_run_whose_input_is_gone_is_not_created_again(service: Service) -> None:
    source = await create(service, type="flow", input=json("[1]"))
    await Store(service, "run").call("MarkRunCompleted", run_id=source)
    request = retention_pb2.MarkRunArchivedRequest(run_id=source, archive_uri="there")
    await service.retention.MarkRunArchived(request, timeout=TIMEOUT)
    assert (await refusal(Store(service, "run").call("RerunRun", run_id=source)))[1] == "RUN_PURGED"


async def test_runs_derived_from_a_run_newest_first(service: Service) -> None:
    """Children of children are not among them; the source need not be there."""
    runs, source = Store(service, "run"), str(uuid4())
    derived = [await create(service, source_run_id=source) for _ in range(5)]
    await create(service, source_run_id=derived[0])
    await runs.call("MarkRunCompleted", run_id=derived[1])
    listed = await runs.pages("ListDerivedRuns", "runs", run_id=source, page_size=2)
    assert [run.run_id for run in listed] == derived[::-1]
    assert {run.source_run_id for run in listed} == {source}
    assert await runs.pages("ListDerivedRuns", "runs", run_id=str(uuid4())) == []
