"""Tasks of driven runs: what each call does, answers and refuses, and what becomes of them with their run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.api.stores import COMPLETED as RUN_COMPLETED
from tests.api.stores import Store
from tests.people.kit import CANCELLED, CLAIMED, COMPLETED, HIGH, PENDING, People, create, history, json
from tests.service import TIMEOUT, Service, refusal, serving

from stepwell.v1 import runs_pb2, types_pb2

CONFLICT = ("FAILED_PRECONDITION", "USER_TASK_STATE_CONFLICT")
NOTED = "UserTaskChanged"
MISSING = ("NOT_FOUND", "USER_TASK_NOT_FOUND")


@pytest_asyncio.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with serving(database_url, committers=2) as running:
        yield running


@pytest.fixture
def people(service: Service) -> People:
    return People(service)


async def happened(service: Service, run_id: str) -> list[str]:
    return [event.type for event in await history(service, run_id) if event.type.startswith("UserTask")]


async def test_a_task_is_a_step_of_its_run(service: Service, people: People) -> None:
    run_id = await create(service, workflow_id="order")
    task = await people.made(run_id, title="Approve", input=json("1"), assigned_role_id="clerk")
    assert (task.run_id, task.workflow_id, task.step_name, task.status) == (run_id, "order", "approve", PENDING)
    assert (task.spec.title, task.spec.input.json, task.version) == ("Approve", "1", 1)
    assert task == await people.get(task.task_id)
    steps = (await service.runs.ListRunSteps(runs_pb2.ListRunStepsRequest(run_id=run_id), timeout=TIMEOUT)).steps
    (step,) = steps
    assert (step.kind, step.state) == (types_pb2.STEP_KIND_USER_TASK, types_pb2.STEP_STATE_WAITING)
    assert (step.user_task_id, step.ordinal, step.name) == (task.task_id, task.step_ordinal, "approve")
    assert (await people.made(run_id)).spec.title == "approve"


async def test_it_is_claimed_and_completed_and_its_run_is_left_alone(service: Service, people: People) -> None:
    run_id = await create(service)
    task = await people.claimed(run_id)
    assert (task.status, task.claimed_by, task.version) == (CLAIMED, "ann", 2)
    request = {"task_id": task.task_id, "user_id": "ann", "output": json('{"ok":true}')}
    done = (await people.call("CompleteUserTask", **request)).user_task
    assert (done.status, done.completed_by, done.output.json, done.version) == (COMPLETED, "ann", '{"ok":true}', 3)
    assert done == await people.get(task.task_id)
    run = await service.get(run_id)
    assert run.phase == types_pb2.RUN_PHASE_RUNNING
    events = await history(service, run_id)
    assert await happened(service, run_id) == ["UserTaskCreated", "UserTaskChanged", "UserTaskCompleted"]
    assert dict(events[-2].attributes) == {"task_id": task.task_id, "change": "claimed", "by": "ann"}
    assert (events[-1].payload.json, dict(events[-1].attributes)["by"]) == ('{"ok":true}', "ann")
    signals = await Store(service, "signal").call("ConsumeSignals", run_id=run_id, signal_name="approve")
    assert not signals.signals
    # The same again is the same; another output, or user, is not.
    assert (await people.call("CompleteUserTask", **request)).user_task == done
    assert await refusal(people.call("CompleteUserTask", **(request | {"output": json("1")}))) == CONFLICT
    assert await refusal(people.call("CompleteUserTask", **(request | {"user_id": "bob"}))) == CONFLICT
    assert await refusal(people.call("ClaimUserTask", task_id=task.task_id, user_id="ann")) == CONFLICT
    assert await refusal(people.call("CancelUserTask", task_id=task.task_id)) == CONFLICT


async def test_completion_is_a_signal_where_the_task_names_one(service: Service, people: People) -> None:
    """Kept for the engine, which takes it as any other."""
    run_id = await create(service)
    task = await people.claimed(run_id, signal_name="approved")
    await people.call("CompleteUserTask", task_id=task.task_id, user_id="ann", output=json("7"))
    taken = await Store(service, "signal").call("ConsumeSignals", run_id=run_id, signal_name="approved")
    assert [signal.payload.json for signal in taken.signals] == ["7"]


async def test_only_who_has_it_completes_it(service: Service, people: People) -> None:
    task = await people.made(await create(service))
    complete = {"task_id": task.task_id, "user_id": "ann"}
    assert await refusal(people.call("CompleteUserTask", **complete)) == CONFLICT
    await people.call("ClaimUserTask", task_id=task.task_id, user_id="bob")
    assert await refusal(people.call("CompleteUserTask", **complete)) == CONFLICT
    assert (await people.get(task.task_id)).status == CLAIMED


async def test_a_claim_is_taken_back_by_who_has_it(service: Service, people: People) -> None:
    task = await people.claimed(await create(service))
    assert await refusal(people.call("UnclaimUserTask", task_id=task.task_id, user_id="bob")) == CONFLICT
    free = (await people.call("UnclaimUserTask", task_id=task.task_id, user_id="ann")).user_task
    assert (free.status, free.claimed_by, free.HasField("claim_time")) == (PENDING, "", False)
    assert (await people.call("UnclaimUserTask", task_id=task.task_id)).user_task == free
    assert (await people.call("ClaimUserTask", task_id=task.task_id, user_id="bob")).user_task.claimed_by == "bob"
    assert (await people.call("UnclaimUserTask", task_id=task.task_id)).user_task.status == PENDING


async def test_another_user_s_task_is_not_claimed(service: Service, people: People) -> None:
    task = await people.made(await create(service), assigned_user_id="ann", assigned_role_id="clerk")
    refused = await refusal(people.call("ClaimUserTask", task_id=task.task_id, user_id="bob"))
    assert refused == ("PERMISSION_DENIED", "USER_TASK_ASSIGNED_ELSEWHERE")
    assert (await people.call("ClaimUserTask", task_id=task.task_id, user_id="ann")).user_task.claimed_by == "ann"


async def test_an_update_changes_what_its_mask_names(service: Service, people: People) -> None:
    run_id = await create(service)
    task = await people.made(run_id, title="a", description="b", input=json("1"))
    spec = {"title": "c", "description": "d", "priority": HIGH, "input": json("2")}

    async def updated(*paths: str, **fields: Any) -> Any:
        request = {"task_id": task.task_id, "spec": spec, "update_mask": {"paths": paths}, **fields}
        return (await people.call("UpdateUserTask", **request)).user_task

    first = await updated("title", "priority")
    assert (first.spec.title, first.spec.description, first.spec.priority) == ("c", "b", HIGH)
    assert (first.spec.input.json, first.version) == ("1", 2)
    stale = refusal(updated("title", expected_version=1))
    assert await stale == ("ABORTED", "USER_TASK_VERSION_CONFLICT")
    assert (await updated("input", expected_version=2)).spec.input.json == "2"
    spec["title"] = ""
    assert (await updated("title")).spec.title == "approve"
    await people.call("CancelUserTask", task_id=task.task_id)
    assert await refusal(updated("title")) == CONFLICT


@pytest.mark.parametrize(("to", "status"), [("ann", CLAIMED), ("bob", PENDING), ("", CLAIMED)])
async def test_who_is_named_anew_ends_another_s_claim(service: Service, people: People, to: str, status: int) -> None:
    task = await people.claimed(await create(service), assigned_role_id="clerk")
    mask = {"paths": ["assigned_user_id", "assigned_role_id"]}
    spec = {"assigned_user_id": to, "assigned_role_id": "clerk"}
    changed = await people.call("UpdateUserTask", task_id=task.task_id, spec=spec, update_mask=mask)
    assert changed.user_task.status == status


async def test_one_is_created_unless_one_is_active(service: Service, people: People) -> None:
    run_id = await create(service)
    wanted = {"run_id": run_id, "step_name": "approve", "unless_active": True}
    first = await people.call("CreateUserTask", **wanted)
    again = await people.call("CreateUserTask", **wanted, spec={"title": "other"})
    assert (first.created, again.created, again.user_task) == (True, False, first.user_task)
    await people.call("CancelUserTask", task_id=first.user_task.task_id)
    assert not (await people.call("GetActiveUserTask", run_id=run_id, step_name="approve")).found
    third = await people.call("CreateUserTask", **wanted)
    assert third.created
    assert (await people.call("GetActiveUserTask", run_id=run_id, step_name="approve")).user_task == third.user_task


async def test_an_id_is_given_once(service: Service, people: People) -> None:
    """In its namespace, whichever run it is for, until the task is deleted."""
    first, other = await create(service), await create(service)
    task_id = str(uuid.uuid4())
    wanted = {"step_name": "s", "task_id": task_id}
    await people.call("CreateUserTask", run_id=first, **wanted)
    taken = ("ALREADY_EXISTS", "USER_TASK_EXISTS")
    assert await refusal(people.call("CreateUserTask", run_id=other, **wanted)) == taken
    assert (await people.call("DeleteUserTask", task_id=task_id)).deleted
    assert await refusal(people.get(task_id)) == MISSING
    assert (await people.call("CreateUserTask", run_id=other, **wanted)).user_task.run_id == other


async def test_its_end_ends_the_tasks_of_a_run(service: Service, people: People) -> None:
    run_id, store = await create(service), Store(service, "run")
    free, has, done = await people.made(run_id), await people.claimed(run_id), await people.claimed(run_id)
    await people.call("CompleteUserTask", task_id=done.task_id, user_id="ann")
    await store.call("MarkRunCompleted", run_id=run_id)
    assert (await service.get(run_id)).phase == RUN_COMPLETED
    assert [(await people.get(each.task_id)).status for each in (free, has, done)] == [CANCELLED, CANCELLED, COMPLETED]
    assert await refusal(people.call("ClaimUserTask", task_id=free.task_id, user_id="ann")) == CONFLICT
    assert (await people.call("CancelRunUserTasks", run_id=run_id)).cancelled_count == 0
    # What is over may still be deleted, once.
    assert (await people.call("DeleteUserTask", task_id=done.task_id)).deleted
    assert not (await people.call("DeleteUserTask", task_id=done.task_id)).deleted
    assert await refusal(people.call("CreateUserTask", run_id=run_id, step_name="s")) == (
        "FAILED_PRECONDITION",
        "RUN_TERMINAL",
    )


async def test_a_rewind_takes_tasks_back(service: Service, people: People) -> None:
    run_id = await create(service)
    await Store(service, "step").call("SaveStep", run_id=run_id, step_name="before", value=json("1"))
    task = await people.claimed(run_id)
    await Store(service, "run").call("RewindToStep", run_id=run_id, step_name="before")
    assert (await people.get(task.task_id)).status == CANCELLED


async def test_repeats_under_a_request_id_change_nothing(service: Service, people: People) -> None:
    run_id = await create(service)
    wanted = {"run_id": run_id, "step_name": "s", "request_id": "r"}
    first = (await people.call("CreateUserTask", **wanted)).user_task
    assert (await people.call("CreateUserTask", **wanted)).user_task == first
    claim = {"task_id": first.task_id, "user_id": "ann", "request_id": "c"}
    claimed = (await people.call("ClaimUserTask", **claim)).user_task
    await people.call("UnclaimUserTask", task_id=first.task_id)
    assert (await people.call("ClaimUserTask", **claim)).user_task == claimed
    assert (await people.get(first.task_id)).status == PENDING
    gone = {"task_id": first.task_id, "request_id": "d"}
    assert [(await people.call("DeleteUserTask", **gone)).deleted for _ in range(2)] == [True, True]
    assert not (await people.call("DeleteUserTask", task_id=first.task_id)).deleted


async def test_a_code_run_s_tasks_are_its_code_s(service: Service, people: People) -> None:
    refused = await refusal(people.call("CreateUserTask", run_id=await service.begin(), step_name="s"))
    assert refused == ("FAILED_PRECONDITION", "RUN_NOT_DRIVEN")


async def test_a_leased_run_wants_its_token(service: Service, people: People) -> None:
    run_id = await create(service)
    lease = {"run_id": run_id, "owner_id": "o", "lease_duration": {"seconds": 60}}
    token = (await Store(service, "run").call("ClaimRun", **lease)).token
    wanted = {"run_id": run_id, "step_name": "s"}
    assert await refusal(people.call("CreateUserTask", **wanted)) == ("FAILED_PRECONDITION", "LEASE_LOST")
    assert (await people.call("CreateUserTask", **wanted, token=token)).created


async def test_a_full_history_keeps_nobody_from_finishing(database_url: str) -> None:
    """People claim and complete what there is, though history says less of it; new work is refused."""
    async with serving(database_url, limits={"run_events": 3}) as service:
        people, run_id = People(service), await create(service)
        task = await people.made(run_id)
        await people.made(run_id)
        wanted = people.call("CreateUserTask", run_id=run_id, step_name="s")
        assert await refusal(wanted) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
        claimed = (await people.call("ClaimUserTask", task_id=task.task_id, user_id="ann")).user_task
        assert claimed.status == CLAIMED
        done = await people.call("CompleteUserTask", task_id=task.task_id, user_id="ann", output=json("1"))
        assert done.user_task.output.json == "1"
        assert await happened(service, run_id) == ["UserTaskCreated", "UserTaskCreated", "UserTaskCompleted"]


async def test_claims_for_ever_do_not_fill_history(database_url: str) -> None:
    """History tells of the first changes of a task; people go on, but for an input that it would have to keep."""
    async with serving(database_url, limits={"user_task_changes": 3}) as service:
        people, run_id = People(service), await create(service)
        task, other = await people.made(run_id), await people.made(run_id)
        for _ in range(4):
            await people.call("ClaimUserTask", task_id=task.task_id, user_id="ann")
            shown = (await people.call("UnclaimUserTask", task_id=task.task_id)).user_task
        assert (shown.status, shown.version) == (PENDING, 9)
        changed = [dict(event.attributes)["change"] for event in await history(service, run_id) if event.type == NOTED]
        assert changed == ["claimed", "unclaimed", "claimed"]
        update: dict[str, Any] = {"spec": {"input": json("1")}, "update_mask": {"paths": ["input"]}}
        refused = people.call("UpdateUserTask", task_id=task.task_id, **update)
        assert await refusal(refused) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
        await people.call("UpdateUserTask", task_id=other.task_id, **update)
        await people.call("ClaimUserTask", task_id=task.task_id, user_id="ann")
        await people.call("CompleteUserTask", task_id=task.task_id, user_id="ann")
        assert (await happened(service, run_id))[-2:] == [NOTED, "UserTaskCompleted"]
