"""Events over the wire: appended together, found by number, deleted, and pruned by age."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from tests.api.stores import Store, create, json, span
from tests.api.test_retention import ended, later
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import history_pb2, namespaces_pb2, repairs_pb2, retention_pb2

CALLERS, ENDED = retention_pb2.PruneEventsRequest.SCOPE_CALLERS, retention_pb2.PruneEventsRequest.SCOPE_ENDED_RUNS


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def store(service: Service) -> Store:
    return Store(service, "event")


async def prune(service: Service, scope: Any, **fields: Any) -> Any:
    request = retention_pb2.PruneEventsRequest(**{"cutoff": await later(service), "scope": scope, **fields})
    return await service.retention.PruneEvents(request, timeout=TIMEOUT)


async def kinds(service: Service, run_id: str) -> list[str]:
    request = history_pb2.ListEventsRequest(run_id=run_id)
    return [event.type for event in (await service.history.ListEvents(request, timeout=TIMEOUT)).events]


async def test_all_or_none_and_each_number_once(service: Service, store: Store) -> None:
    run_id = await create(service)
    batch = [{"type": "a", "caller_seq": 1}, {"type": "b", "caller_seq": 2}]
    appended = await store.call("AppendEvents", run_id=run_id, events=batch, request_id="once")
    assert [each.number for each in appended.events] == [2, 3]
    assert await store.call("AppendEvents", run_id=run_id, events=batch, request_id="once") == appended
    again = [{"type": "c", "caller_seq": 3}, {"type": "d", "caller_seq": 2}]
    refused = store.call("AppendEvents", run_id=run_id, events=again)
    assert await refusal(refused) == ("ALREADY_EXISTS", "EVENT_SEQ_EXISTS")
    twice = [{"type": "c", "caller_seq": 3}, {"type": "d", "caller_seq": 3}]
    assert (await refusal(store.call("AppendEvents", run_id=run_id, events=twice)))[1] == "EVENT_SEQ_EXISTS"
    assert await kinds(service, run_id) == ["RunStarted", "a", "b"]
    claim = await Store(service, "run").call("ClaimRun", run_id=run_id, owner_id="o", lease_duration=span(60))
    assert (await refusal(store.call("AppendEvents", run_id=run_id, events=[{"type": "e"}])))[1] == "LEASE_LOST"
    await store.call("AppendEvents", run_id=run_id, events=[{"type": "e"}], token=claim.token)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [{"type": "a"}, {"type": ""}],
        [{"type": "a", "caller_seq": -1}],
        [{"type": "a", "attributes": {"": "x"}}],
        [{"type": "a", "attributes": {"k": "\0"}}],
        [{"type": "a", "attributes": {str(n): "x" for n in range(17)}}],
        [{"type": "a"}] * 257,
    ],
)
async def test_one_bad_event_refuses_all(shared: Service, events: list[Any]) -> None:
    run_id = await create(shared)
    assert await refusal(Store(shared, "event").call("AppendEvents", run_id=run_id, events=events)) == (
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
    )
    assert await kinds(shared, run_id) == ["RunStarted"]


async def test_an_event_is_found_in_its_namespace_alone(service: Service, store: Store) -> None:
    await service.namespace_calls.CreateNamespace(namespaces_pb2.CreateNamespaceRequest(namespace="other"))
    run_id = await create(service, workflow_id="w")
    number = (await store.call("AppendEvent", run_id=run_id, type="a", payload=json("1"))).event_number
    for namespace in ("", "-"):
        found = await store.call("GetEvent", namespace=namespace, event_number=number)
        assert (found.event.type, found.run_id, found.workflow_id) == ("a", run_id, "w")
    assert not (await store.call("GetEvent", namespace="other", event_number=number)).HasField("event")
    for wrong in (0, -1):
        assert (await refusal(store.call("GetEvent", event_number=wrong)))[1] == "INVALID_FIELD"


async def test_by_attributes_page_by_page(service: Service, store: Store) -> None:
    run_id = await create(service)
    for place in range(9):
        attributes = {"node": "n" if place % 3 else "m", "place": str(place)}
        await store.call("AppendEvent", run_id=run_id, type="a", attributes=attributes)
    fields: dict[str, Any] = {"run_id": run_id, "attributes": {"node": "n"}, "page_size": 2}
    found = await store.pages("ReadEvents", "events", **fields)
    assert [event.attributes["place"] for event in found] == ["1", "2", "4", "5", "7", "8"]
    found = await store.pages("ReadEvents", "events", **fields, skip=3, descending=True)
    assert [event.attributes["place"] for event in found] == ["4", "2", "1"]
    assert await store.pages("ReadEvents", "events", run_id=run_id, attributes={"node": "n", "place": "3"}) == []


async def test_deleted_events_are_callers_and_a_repeat_deletes_no_more(service: Service, store: Store) -> None:
    run_id = await create(service)
    await store.call("AppendEvents", run_id=run_id, events=[{"type": "a", "caller_seq": 1}, {"type": "b"}])
    assert (await store.call("DeleteEvents", run_id=run_id, request_id="once")).count == 2
    await store.call("AppendEvent", run_id=run_id, type="c")
    assert (await store.call("DeleteEvents", run_id=run_id, request_id="once")).count == 2
    assert await kinds(service, run_id) == ["RunStarted", "c"]
    # A number that was used stays used.
    assert (await refusal(store.call("AppendEvent", run_id=run_id, type="a", caller_seq=1)))[1] == "EVENT_SEQ_EXISTS"
    assert (await refusal(store.call("DeleteEvents", workflow_id="unknown")))[1] == "RUN_NOT_FOUND"


async def test_callers_events_are_pruned_a_few_runs_at_a_time(service: Service, store: Store) -> None:
    runs = [await create(service, workflow_id=f"w{n}") for n in range(5)]
    for run_id in runs:
        await store.call("AppendEvents", run_id=run_id, events=[{"type": "a"}, {"type": "b"}])
    await service.end(runs[0])
    counts, token, cutoff = [], "", await later(service)
    while True:
        pruned = await prune(service, CALLERS, cutoff=cutoff, page_size=2, page_token=token)
        counts.append(pruned.count)
        token = pruned.next_page_token
        if not token:
            break
    assert counts == [4, 4, 2]
    assert await kinds(service, runs[0]) == ["RunStarted", "RunTerminated"]
    assert await kinds(service, runs[4]) == ["RunStarted"]


async def test_histories_of_ended_runs_are_pruned_and_these_stay_ended(service: Service) -> None:
    opened, (run_id,) = await service.begin(), await ended(service)
    end = (await service.get(run_id)).end_time
    assert (await prune(service, ENDED, cutoff=end)).count == 0
    assert (await prune(service, ENDED)).count == 2
    assert (await prune(service, ENDED)).count == 0
    run = await service.get(run_id)
    assert (await kinds(service, run_id), run.archive_uri, run.HasField("archive_time")) == ([], "", False)
    assert await kinds(service, opened) == ["RunStarted"]
    retry = service.runs.RetryRun(repairs_pb2.RetryRunRequest(run_id=run_id))
    assert await refusal(retry) == ("FAILED_PRECONDITION", "RUN_PURGED")
    archivable = retention_pb2.ListArchivableRunsRequest(cutoff=await later(service))
    assert not (await service.retention.ListArchivableRuns(archivable)).runs


@pytest.mark.parametrize("fields", [{"scope": 0}, {"scope": 9}, {"cutoff": None}, {"cutoff": Timestamp(seconds=-1)}])
async def test_a_bad_pruning_is_refused(shared: Service, fields: dict[str, Any]) -> None:
    assert (await refusal(prune(shared, **{"scope": CALLERS, **fields})))[1] == "INVALID_FIELD"
