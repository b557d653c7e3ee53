"""Several writes in one transaction: all of them or none, decided and answered as the single calls are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from tests.api.stores import COMPLETED, FAILED, RUNNING, Store, at, create, json, read
from tests.service import TIMEOUT, Service, refusal, serving, soon

from stepwell.v1 import transactions_pb2, user_tasks_pb2
from stepwell_server.api.transactions import Result, Write, write_methods

STARTS = {"start_run", "create_run"}


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url) as running:
        yield running


async def commit(service: Service, *writes: dict[str, Any], **fields: Any) -> list[Any]:
    """Commits writes, each given by its name and fields; answers their responses."""
    request = transactions_pb2.CommitRequest(writes=[Write(**write) for write in writes], **fields)
    response = await service.transactions.Commit(request, timeout=TIMEOUT)
    return [getattr(result, result.WhichOneof("result")) for result in response.results]


async def refused(call: Any) -> tuple[str, str, str]:
    """The reason of a refusal, which write it was, and the field at fault."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailers = dict(caught.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    fields = []
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return info.reason, info.metadata.get("at", ""), "".join(fields)


async def history(service: Service, run_id: str) -> list[str]:
    return [event.type for event in await Store(service, "event").pages("ReadEvents", "events", run_id=run_id)]


def event(run_id: str, kind: str = "Paid", **fields: Any) -> dict[str, Any]:
    return {"append_event": {"run_id": run_id, "type": kind, **fields}}


def test_each_write_is_a_call_and_has_its_answer() -> None:
    """By name, number and message."""
    writes: list[Any] = list(Write.DESCRIPTOR.oneofs_by_name["write"].fields)
    results: list[Any] = list(Result.DESCRIPTOR.oneofs_by_name["result"].fields)
    methods = write_methods()
    assert [(field.name, field.number) for field in writes] == [(field.name, field.number) for field in results]
    assert [field.message_type.name for field in results] == [f"{methods[field.name]}Response" for field in writes]


async def test_writes_of_several_runs_are_answered_in_their_order(service: Service) -> None:
    """Later writes see what earlier ones did, also a run that was made by one of them."""
    old, new = await create(service), str(uuid4())
    begun = await Store(service, "step").call("BeginStep", run_id=old, step_name="charge", input=json("1"))
    answers = await commit(
        service,
        {"create_run": {"run_id": new, "type": "t", "initial_phase": RUNNING}},
        {"save_step": {"run_id": new, "step_name": "s", "value": json('"a"')}},
        {"save_step": {"run_id": new, "step_name": "s", "value": json('"b"')}},
        event(new, payload=json("7")),
        {"complete_step": {"step_number": begun.step.number, "result": json("2")}},
        {"send_signal": {"run_id": old, "signal_name": "go"}},
        {"create_timer": {"run_id": old, "seq": 1, "fire_time": at(9)}},
        {"mark_run_completed": {"run_id": old, "result": json("3")}},
        {"start_run": {"type": "t", "workflow_id": "w"}},
    )
    created, first, second, appended, completed, signalled, timer, _, started = answers
    assert (created.run_id, created.created, started.started) == (new, True, True)
    assert (first.replaced, second.replaced, signalled.recorded, timer.created) == (False, True, True, True)
    assert (completed.step.input, completed.step.result) == (json("1"), json("2"))
    assert await history(service, new) == ["RunStarted", "StepCompleted", "StepCompleted", "Paid"]
    assert appended.number == 4
    assert (await read(service, old)).phase == COMPLETED
    assert (await service.get(started.run_id)).workflow_id == "w"


async def test_a_refusal_at_the_last_write_leaves_nothing(service: Service) -> None:
    """It keeps its own reason and code, and says which write it was."""
    runs = [await create(service) for _ in range(3)]
    ended = await create(service)
    await Store(service, "run").call("MarkRunCompleted", run_id=ended)
    before = {run_id: await history(service, run_id) for run_id in runs}
    new = str(uuid4())
    writes: list[dict[str, Any]] = [{"create_run": {"run_id": new, "type": "t"}}]
    writes += [event(runs[place % 3], f"E{place}") for place in range(98)]
    last = {"save_step": {"run_id": ended, "step_name": "s"}}
    assert await refused(commit(service, *writes, last)) == ("RUN_TERMINAL", "writes[99].save_step", "")
    assert await refusal(commit(service, *writes, last)) == ("FAILED_PRECONDITION", "RUN_TERMINAL")
    assert {run_id: await history(service, run_id) for run_id in runs} == before
    assert not (await Store(service, "run").call("ReadRun", run_id=new)).found
    assert len(await commit(service, *writes)) == 99


async def test_the_first_refused_write_is_named(service: Service) -> None:
    run_id = await create(service)
    unknown = event(str(uuid4()))
    twice = {"create_run": {"run_id": run_id, "type": "t"}}
    assert await refused(commit(service, event(run_id), unknown, twice)) == (
        "RUN_NOT_FOUND",
        "writes[1].append_event",
        "",
    )
    assert await refused(commit(service, twice, unknown)) == ("RUN_EXISTS", "writes[0].create_run", "")


@pytest.mark.parametrize(
    ("write", "field"),
    [
        (event("", ""), "writes[1].append_event.type"),
        (event("nonsense"), "writes[1].append_event.run_id"),
        ({**event(str(uuid4())), "expected_version": 1}, ""),
        ({"append_event": {"namespace": "other", "type": "t"}}, "writes[1].append_event.namespace"),
        ({"append_event": {"namespace": "-", "type": "t"}}, "writes[1].append_event.namespace"),
        ({"create_timer": {"run_id": str(uuid4()), "seq": 1}}, "writes[1].create_timer.fire_time"),
        (event(str(uuid4()), request_id="r"), "writes[1].append_event.request_id"),
        ({"start_run": {"type": "t"}, "expected_version": 1}, "writes[1].expected_version"),
        ({}, "writes[1]"),
    ],
)
async def test_a_field_at_fault_is_named_by_its_path(shared: Service, write: dict[str, Any], field: str) -> None:
    run_id = await create(shared)
    reason, _, found = await refused(commit(shared, event(run_id), write))
    assert (reason, found) == ("INVALID_FIELD" if field else "RUN_NOT_FOUND", field)
    assert await history(shared, run_id) == ["RunStarted"]


@pytest.mark.parametrize("count", [0, 101])
async def test_how_many_writes_there_may_be(service: Service, count: int) -> None:
    run_id = await create(service)
    assert await refused(commit(service, *[event(run_id)] * count)) == ("INVALID_FIELD", "", "writes")


async def test_a_version_guards_what_was_read(service: Service) -> None:
    """It is the run's before the commit, whatever the commit's own writes do."""
    run_id = await create(service)
    seen = (await read(service, run_id)).version
    first = {**event(run_id, "A"), "expected_version": seen}
    await commit(service, first, {**event(run_id, "B"), "expected_version": seen})
    stale = {**event(run_id, "C"), "expected_version": seen}
    assert await refused(commit(service, event(run_id), stale)) == ("RUN_VERSION_CHANGED", "writes[1].append_event", "")
    assert await history(service, run_id) == ["RunStarted", "A", "B"]
    new = str(uuid4())
    fresh: list[dict[str, Any]] = [{"create_run": {"run_id": new, "type": "t"}}, {**event(new), "expected_version": 1}]
    assert (await refused(commit(service, *fresh)))[0] == "RUN_VERSION_CHANGED"


async def test_a_version_of_a_run_that_has_ended(service: Service) -> None:
    run_id = await create(service)
    await Store(service, "run").call("MarkRunFailed", run_id=run_id, failure={"message": "no"}, terminal=True)
    version = (await read(service, run_id)).version
    cancel: dict[str, Any] = {"cancel_driven_run": {"run_id": run_id}, "expected_version": version}
    (answer,) = await commit(service, cancel)
    assert (answer.accepted, answer.phase) == (False, FAILED)
    cancel["expected_version"] += 1
    assert (await refused(commit(service, cancel)))[0] == "RUN_VERSION_CHANGED"


async def test_a_repeat_is_answered_as_the_first_was(service: Service) -> None:
    """On another replica too; another commit under that id is refused."""
    run_id = await create(service)
    writes: list[dict[str, Any]] = [
        {"start_run": {"type": "t"}},
        {"begin_step": {"run_id": run_id, "step_name": "s", "input": json("1")}},
        {"create_timer": {"run_id": run_id, "seq": 1, "fire_time": at(9)}},
        {"cancel_pending_timers": {"run_id": run_id}},
        event(run_id),
    ]
    async with serving(service.settings.database_url or "") as other:
        answers = await asyncio.gather(
            *(commit(replica, *writes, request_id="r") for replica in (service, other) for _ in range(5))
        )
        assert all(answer == answers[0] for answer in answers)
        recorded = await history(service, run_id)
        assert recorded == ["RunStarted", "StepStarted", "TimerStarted", "TimerCancelled", "Paid"]
        assert await commit(other, *writes, request_id="r") == answers[0]
        assert await refusal(commit(other, *writes[1:], request_id="r")) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
        assert await history(service, run_id) == recorded


async def test_a_refused_commit_may_be_repeated(service: Service) -> None:
    """A refusal is not kept: nothing was done."""
    run_id = str(uuid4())
    assert (await refused(commit(service, event(run_id), request_id="r")))[0] == "RUN_NOT_FOUND"
    await create(service, run_id=run_id)
    assert len(await commit(service, event(run_id), request_id="r")) == 1


async def test_a_name_that_is_freed_may_be_given_in_the_same_commit(service: Service) -> None:
    """Writes are decided one after another, though they are about different runs."""
    old = await create(service, workflow_id="w")
    await Store(service, "step").call("BeginStep", run_id=old, step_name="s", input=json("1"))
    cancel, anew = {"cancel_driven_run": {"run_id": old}}, {"start_run": {"type": "t", "workflow_id": "w"}}
    assert await refused(commit(service, anew, cancel)) == ("WORKFLOW_ID_IN_USE", "writes[0].start_run", "")
    _, started = await commit(service, cancel, anew)
    assert started.started


async def test_nothing_crosses_the_namespace(service: Service) -> None:
    run_id = await create(service)
    begun = await Store(service, "step").call("BeginStep", run_id=run_id, step_name="s", input=json("1"))
    await service.namespaces.create("other", service.clock.now(), None)
    step = {"complete_step": {"step_number": begun.step.number}}
    for write in (event(run_id), step):
        assert (await refused(commit(service, write, namespace="other")))[0] == "RUN_NOT_FOUND"
    assert await refusal(commit(service, event(run_id), namespace="none")) == ("NOT_FOUND", "NAMESPACE_NOT_FOUND")


async def test_an_answer_that_would_be_too_large_leaves_payloads_out(database_url: str) -> None:
    limits = {"message_bytes": 300_000, "payload_bytes": 100_000}
    async with serving(database_url, limits=limits) as service:
        run_id = await create(service)
        steps = Store(service, "step")
        large = json('"' + "x" * 60_000 + '"')
        begun = [await steps.call("BeginStep", run_id=run_id, step_name=f"s{n}", input=large) for n in range(6)]
        writes: Any = [{"complete_step": {"step_number": each.step.number}} for each in begun]
        response = await service.transactions.Commit(transactions_pb2.CommitRequest(writes=writes), timeout=TIMEOUT)
        assert response.payloads_omitted
        inputs = [result.complete_step.step.HasField("input") for result in response.results]
        assert inputs == [True, True, True, False, False, False]
        assert all(result.complete_step.step.number for result in response.results)


async def test_a_commit_of_code_runs_wakes_them(service: Service) -> None:
    """Their tasks are made in the same transaction."""
    run_id = await service.begin()

    async def stopped() -> bool:
        return bool((await service.get(run_id)).HasField("end_time"))

    (started, cancelled) = await commit(service, {"start_run": {"type": "t"}}, {"cancel_run": {"run_id": run_id}})
    assert started.started
    assert cancelled.accepted
    await soon(stopped)


async def test_tasks_for_people_data_and_control_are_writes_too(service: Service) -> None:
    run_id, task_id = await create(service), str(uuid4())
    made, *_, data, control, moved = await commit(
        service,
        {"create_user_task": {"run_id": run_id, "step_name": "approve", "task_id": task_id, "spec": {"title": "x"}}},
        {"create_user_task": {"run_id": run_id, "step_name": "look", "spec": {"title": "y", "input": json("1")}}},
        {"set_run_data": {"run_id": run_id, "changes": [{"name": "tokens", "set": json("[1]")}]}},
        {"request_run_cancel": {"run_id": run_id, "reason": "no need"}},
        {"update_driven_run": {"run_id": run_id, "changes": [{"name": "output", "set": json("2")}]}},
    )
    assert (made.created, made.user_task.task_id, data.data_version) == (True, task_id, 1)
    assert (control.DESCRIPTOR.name, moved.data_version) == ("RequestRunCancelResponse", 2)
    claimed, completed, rest = await commit(
        service,
        {"claim_user_task": {"task_id": task_id, "user_id": "ann"}},
        {"complete_user_task": {"task_id": task_id, "user_id": "ann", "output": json("true")}},
        {"cancel_run_user_tasks": {"run_id": run_id}},
    )
    assert (claimed.user_task.claimed_by, completed.user_task.output) == ("ann", json("true"))
    assert rest.cancelled_count == 1
    late = {"claim_user_task": {"task_id": task_id, "user_id": "bob"}}
    assert (await refused(commit(service, event(run_id), late)))[:2] == (
        "USER_TASK_STATE_CONFLICT",
        "writes[1].claim_user_task",
    )


async def test_a_user_task_is_made_claimed_and_completed_in_one_commit(service: Service) -> None:
    """Also one of a run that the commit makes; by what comes before only, and only by its own id."""
    run_id, task_id, other = str(uuid4()), str(uuid4()), str(uuid4())
    creation: dict[str, Any] = {"create_run": {"run_id": run_id, "type": "t", "initial_phase": RUNNING}}
    named = {"run_id": run_id, "step_name": "approve"}
    making: dict[str, Any] = {"create_user_task": {**named, "task_id": task_id.upper()}}
    claiming: dict[str, Any] = {"claim_user_task": {"task_id": task_id, "user_id": "ann"}}
    completing: dict[str, Any] = {"complete_user_task": {"task_id": task_id, "user_id": "ann", "output": json("true")}}
    for writes, place in ([creation, claiming, making], 1), ([creation, making, completing], 2):
        at_fault = f"writes[{place}].{next(iter(writes[place]))}"
        assert (await refused(commit(service, *writes)))[1] == at_fault
    found: dict[str, Any] = {"create_user_task": {**named, "task_id": other, "unless_active": True}}
    last = {"cancel_user_task": {"task_id": other}}
    reason = ("USER_TASK_NOT_FOUND", "writes[3].cancel_user_task", "")
    assert await refused(commit(service, creation, making, found, last)) == reason
    answers = await commit(service, creation, making, claiming, completing, request_id="once")
    assert [answer.user_task.task_id for answer in answers[1:]] == [task_id] * 3
    assert answers[3].user_task.completed_by == "ann"
    assert answers[3].user_task.output == json("true")
    assert await commit(service, creation, making, claiming, completing, request_id="once") == answers
    again = {"create_user_task": {"run_id": run_id, "step_name": "look", "task_id": other}}
    *_, gone = await commit(service, again, {"cancel_user_task": {"task_id": other}})
    assert gone.user_task.status == user_tasks_pb2.USER_TASK_STATUS_CANCELLED


async def test_several_events_are_one_write(service: Service) -> None:
    run_id = await create(service)
    both = {"append_events": {"run_id": run_id, "events": [{"type": "a", "caller_seq": 1}, {"type": "b"}]}}
    first, appended = await commit(service, event(run_id), both, request_id="once")
    assert [each.number for each in appended.events] == [first.number + 1, first.number + 2]
    assert await commit(service, event(run_id), both, request_id="once") == [first, appended]
    assert await refused(commit(service, event(run_id), both)) == ("EVENT_SEQ_EXISTS", "writes[1].append_events", "")
    assert await history(service, run_id) == ["RunStarted", "Paid", "a", "b"]
