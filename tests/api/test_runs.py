"""Runs over the wire: starting them once, finding and listing them, and what is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from tests.api.run_calls import create_namespace, listed, refused, start, started
from tests.service import TIMEOUT, Service, reason_of, refusal, serving

from stepwell.v1 import runs_pb2, types_pb2

PENDING, CANCELLED = types_pb2.RUN_PHASE_PENDING, types_pb2.RUN_PHASE_CANCELLED
TERMINATED = types_pb2.RUN_PHASE_TERMINATED
ALLOW_IF_FAILED, REJECT = runs_pb2.WORKFLOW_ID_REUSE_POLICY_ALLOW_IF_FAILED, runs_pb2.WORKFLOW_ID_REUSE_POLICY_REJECT
USE_EXISTING = runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
GIVEN_ID = "0b6d54b0-8c1c-4c57-9b0e-0d5a1b7d9f11"
SOME_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


# --- starting ---------------------------------------------------------------------------------------------------------


async def test_a_started_run_is_as_it_was_asked_for(service: Service) -> None:
    """Every field that a start gives can be read back, with the defaults for the others."""
    request = start(
        workflow_id="order-17",
        run_id=GIVEN_ID,
        task_queue="q",
        input=types_pb2.Payload(json='{"a": 1}', metadata={"encoding": "plain"}),
        priority=0,
        correlation_id="c",
        run_timeout={"seconds": 60},
        cancellation_policy={"maximum_run_duration": {"seconds": 90}},
    )
    metadata = (("traceparent", SOME_TRACE),)
    assert (await service.runs.StartRun(request, timeout=TIMEOUT, metadata=metadata)).run_id == GIVEN_ID
    run = await service.get(GIVEN_ID)
    assert (run.namespace, run.workflow_id, run.type, run.task_queue) == ("main", "order-17", "t", "q")
    assert (run.input, run.priority, run.correlation_id) == (request.input, 0, "c")
    assert (run.phase, run.managed, run.driven, run.event_count, run.cursor) == (PENDING, True, False, 1, 0)
    assert run.deadline.ToDatetime() - run.create_time.ToDatetime() == request.run_timeout.ToTimedelta()
    assert run.cancellation_policy == request.cancellation_policy
    assert run.traceparent == SOME_TRACE
    assert not run.HasField("end_time")
    other = await service.get(await service.begin())
    assert (other.task_queue, other.priority, other.workflow_id) == ("default", 4, "")
    assert other.traceparent.startswith("00-")


async def test_a_value_is_kept_as_json(service: Service) -> None:
    run_id = await service.begin(input=types_pb2.Payload(value=ParseDict({"n": 2}, Value())))
    assert (await service.get(run_id)).input.json == '{"n":2}'


async def test_one_workflow_id_has_one_open_run(service: Service) -> None:
    """The second start is refused, or finds the first, as its conflict policy says."""
    first = await service.begin(workflow_id="w")
    assert await refused(service, workflow_id="w") == "WORKFLOW_ID_IN_USE"
    assert await started(service, workflow_id="w", conflict_policy=USE_EXISTING) == (first, False)
    await service.end(first)
    second, is_new = await started(service, workflow_id="w", conflict_policy=USE_EXISTING)
    assert is_new
    assert second != first


async def test_reuse_is_as_the_policy_says(service: Service) -> None:
    """After an end that was no success: REJECT refuses, ALLOW_IF_FAILED and ALLOW start; the latest run is found."""
    first = await service.begin(workflow_id="w")
    await service.end(first)
    assert await refused(service, workflow_id="w", reuse_policy=REJECT) == "RUN_EXISTS"
    second, is_new = await started(service, workflow_id="w", reuse_policy=ALLOW_IF_FAILED)
    assert is_new
    await service.end(second)
    third, is_new = await started(service, workflow_id="w")
    assert is_new
    found = await service.runs.GetRun(runs_pb2.GetRunRequest(workflow_id="w"), timeout=TIMEOUT)
    assert found.run.run_id == third


async def test_a_run_id_is_unique_for_ever(service: Service) -> None:
    await service.begin(run_id=GIVEN_ID)
    assert await refused(service, run_id=GIVEN_ID) == "RUN_EXISTS"
    await service.end(GIVEN_ID)
    assert await refused(service, run_id=GIVEN_ID) == "RUN_EXISTS"
    await create_namespace(service, "other")
    assert await started(service, run_id=GIVEN_ID, namespace="other") == (GIVEN_ID, True)


@pytest.mark.parametrize("run_id", ["", GIVEN_ID])
async def test_a_repeat_is_recognised(service: Service, run_id: str) -> None:
    """The same request id and content find the run, also after its end; another content is refused."""
    content = {"request_id": "r", "run_id": run_id, "workflow_id": "w", "input": {"json": "1"}}
    first, is_new = await started(service, **content)
    assert is_new
    assert await started(service, **content) == (first, False)
    await service.end(first)
    assert await started(service, **content) == (first, False)
    assert await started(service, **content, namespace="main") == (first, False)
    assert await refused(service, **{**content, "input": {"json": "2"}}) == "REQUEST_ID_REUSED"
    other, is_new = await started(service, **{**content, "request_id": "r2", "run_id": ""})
    assert is_new
    assert other != first


async def test_request_ids_are_of_their_namespace(service: Service) -> None:
    await create_namespace(service, "other")
    first = await service.begin(request_id="r")
    second, is_new = await started(service, request_id="r", namespace="other")
    assert is_new
    assert second != first


async def test_starts_at_the_same_time_make_one_run(service: Service) -> None:
    """Of many calls with one request id one starts the run, whichever committers and replicas they meet."""
    async with serving(service.settings.database_url or "") as other:
        calls = [started(each, request_id="r", workflow_id="w") for each in (service, other) * 20]
        answers = await asyncio.gather(*calls)
    assert len({run_id for run_id, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1


async def test_half_of_a_batch_are_duplicates(service: Service) -> None:
    """Each of the batch has its own answer: started once, found the other time; the refused disturb nobody."""
    items = [start(workflow_id=f"w{n // 2}", conflict_policy=USE_EXISTING) for n in range(200)]
    items[7].type = ""
    items[20].namespace = "other"
    items[33].conflict_policy = runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_FAIL
    request = runs_pb2.BatchStartRunsRequest(requests=items)
    results = (await service.runs.BatchStartRuns(request, timeout=TIMEOUT)).results
    assert len(results) == 200
    reasons = {place: reason_of(result.error) for place, result in enumerate(results) if result.HasField("error")}
    assert reasons == {7: "INVALID_FIELD", 20: "INVALID_FIELD", 33: "WORKFLOW_ID_IN_USE"}
    assert "requests[7].type" in results[7].error.message
    assert sum(result.started.started for result in results) == 100
    assert len(await listed(service, page_size=1000)) == 100
    assert results[0].started.run_id == results[1].started.run_id


async def test_batches_are_bounded(service: Service) -> None:
    for count in (0, 257):
        request = runs_pb2.BatchStartRunsRequest(requests=[start()] * count)
        assert (await refusal(service.runs.BatchStartRuns(request)))[1] == "INVALID_FIELD"


# --- hostile requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"type": ""},
        {"type": "a\0b"},
        {"type": "x" * 256},
        {"type": "é" * 128},
        {"workflow_id": "a\nb"},
        {"task_queue": "x" * 256},
        {"correlation_id": "\x85"},
        {"request_id": "x" * 256},
        {"run_id": "17"},
        {"run_id": "0b6d54b0-8c1c-4c57-9b0e-0d5a1b7d9f1g"},
        {"priority": 10},
        {"priority": -1},
        {"reuse_policy": 99},
        {"conflict_policy": -1},
        {"run_timeout": {"seconds": -1}},
        {"start_delay": {"seconds": 10**12}},
        {"namespace": "-"},
        {"namespace": "a b"},
        {"input": {"json": "x" * (2 * 1024 * 1024 + 1)}},
        {"input": {"metadata": {str(n): "" for n in range(17)}}},
        {"input": types_pb2.Payload(value=Value(number_value=math.nan))},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_wrong_field_is_refused(shared: Service, fields: dict[str, Any]) -> None:
    """The answer is INVALID_ARGUMENT with a reason, and nothing was started."""
    assert await refusal(shared.runs.StartRun(start(**fields))) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await listed(shared) == []


async def test_the_largest_payload_is_kept(service: Service) -> None:
    largest = types_pb2.Payload(data=bytes(2 * 1024 * 1024))
    run_id = await service.begin(input=largest)
    assert (await service.get(run_id)).input == largest


async def test_nothing_crosses_namespaces(service: Service) -> None:
    """A run of another namespace is not found, signalled or ended by its id; `-` finds it, unless it is in two."""
    await create_namespace(service, "other")
    run_id = await service.begin(namespace="other", workflow_id="w", run_id=GIVEN_ID)
    calls = {
        service.runs.GetRun: runs_pb2.GetRunRequest(run_id=run_id),
        service.runs.WaitRun: runs_pb2.WaitRunRequest(run_id=run_id),
        service.runs.SignalRun: runs_pb2.SignalRunRequest(run_id=run_id, signal_name="s"),
        service.runs.CancelRun: runs_pb2.CancelRunRequest(run_id=run_id),
        service.runs.TerminateRun: runs_pb2.TerminateRunRequest(workflow_id="w"),
        service.runs.PauseRun: runs_pb2.PauseRunRequest(workflow_id="w"),
        service.runs.ResumeRun: runs_pb2.ResumeRunRequest(workflow_id="w"),
        service.runs.ListRunSteps: runs_pb2.ListRunStepsRequest(workflow_id="w"),
    }
    for call, request in calls.items():
        assert await refusal(call(request, timeout=TIMEOUT)) == ("NOT_FOUND", "RUN_NOT_FOUND")
    assert await listed(service) == []
    assert (await service.get(run_id, "-")).namespace == "other"
    await service.begin(run_id=GIVEN_ID)
    request = runs_pb2.GetRunRequest(namespace="-", run_id=run_id)
    assert await refusal(service.runs.GetRun(request)) == ("FAILED_PRECONDITION", "RUN_AMBIGUOUS")


async def test_an_unknown_namespace_or_an_unnamed_run_is_refused(service: Service) -> None:
    assert await refused(service, namespace="none") == "NAMESPACE_NOT_FOUND"
    request = runs_pb2.GetRunRequest(namespace="none", workflow_id="w")
    assert (await refusal(service.runs.GetRun(request)))[1] == "NAMESPACE_NOT_FOUND"
    assert (await refusal(service.runs.GetRun(runs_pb2.GetRunRequest())))[1] == "INVALID_FIELD"


# --- listing ----------------------------------------------------------------------------------------------------------


async def test_pages_hold_every_run_once_while_runs_end(service: Service) -> None:
    """Open and ended runs are in one order: a run that ends between two pages is neither missed nor shown twice."""
    ids = [await service.begin(workflow_id=f"w{n}") for n in range(40)]
    for run_id in ids[::3]:
        await service.end(run_id)
    seen: list[str] = []
    token = ""
    left = [run_id for run_id in ids if run_id not in ids[::3]]
    while True:
        request = runs_pb2.ListRunsRequest(page_size=7, page_token=token)
        response = await service.runs.ListRuns(request, timeout=TIMEOUT)
        seen += [run.run_id for run in response.runs]
        token = response.next_page_token
        if not token:
            break
        for _ in range(4):
            await service.end(left.pop(len(left) // 2))
    assert sorted(seen) == sorted(ids)


async def test_newest_come_first(database_url: str) -> None:
    async with serving(database_url, committers=1) as service:
        ids = [await service.begin() for _ in range(5)]
        await service.end(ids[2])
        assert [run.run_id for run in await listed(service, page_size=2)] == ids[::-1]
        assert [run.run_id for run in await listed(service, page_size=2, skip=3)] == ids[1::-1]


async def test_lists_are_filtered(service: Service) -> None:
    kept = await service.begin(type="a", workflow_id="w", task_queue="q", correlation_id="c")
    ended = await service.begin(type="b")
    await service.end(ended)
    for filter_ in ({"type": "a"}, {"workflow_id": "w"}, {"task_queue": "q"}, {"correlation_id": "c"}):
        assert [run.run_id for run in await listed(service, **filter_)] == [kept]
    assert [run.run_id for run in await listed(service, phases=[TERMINATED])] == [ended]
    assert [run.run_id for run in await listed(service, phases=[PENDING, CANCELLED])] == [kept]
    assert await listed(service, parent_run_id=kept) == []
    assert await listed(service, parent_run_id=GIVEN_ID) == []


async def test_a_wrong_page_is_refused(service: Service) -> None:
    for _ in range(3):
        await service.begin()
    first = await service.runs.ListRuns(runs_pb2.ListRunsRequest(page_size=1))
    token = first.next_page_token
    for wrong, reason in (
        ({"page_size": -1}, "INVALID_FIELD"),
        ({"skip": 10_001}, "INVALID_FIELD"),
        ({"phases": [0]}, "INVALID_FIELD"),
        ({"page_token": "x"}, "PAGE_TOKEN_INVALID"),
        ({"page_token": token, "type": "t"}, "PAGE_TOKEN_INVALID"),
        ({"page_token": token[:-2] + "AA"}, "PAGE_TOKEN_INVALID"),
    ):
        assert await refusal(service.runs.ListRuns(runs_pb2.ListRunsRequest(**wrong))) == ("INVALID_ARGUMENT", reason)
    steps = runs_pb2.ListRunStepsRequest(run_id=first.runs[0].run_id, page_token=token)
    assert (await refusal(service.runs.ListRunSteps(steps)))[1] == "PAGE_TOKEN_INVALID"


async def test_a_call_that_its_caller_gives_up_harms_nobody(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await service.runs.StartRun(start(), timeout=0.000_001)
    await service.begin()
