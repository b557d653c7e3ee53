"""Code that waits for people, as the SDK has it: outputs, timeouts, cancellation, branches, and going back."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests.mending.kit import happened, stepwell, suspended
from tests.sdk.live import Live, live
from tests.stream.kit import until

from stepwell import Context, RunCancelled, RunFailed, UserTaskCancelled, WaitTimeout, sync, workflow
from stepwell.runs import RunHandle
from stepwell.v1 import runs_pb2, user_tasks_pb2


@dataclass
class Verdict:
    """What a person comes to."""

    approved: bool


@workflow
async def order(ctx: Context, amount: int) -> bool:
    wanted = {"amount": amount}
    verdict = await ctx.user_task(
        "approve",
        wanted,
        title="Approve an order",
        description="It is\nlarge.",
        schema_type="order-form",
        role="clerk",
        group="desk",
        priority="high",
        due=3_600,
        as_type=Verdict,
    )
    return verdict.approved


@workflow
async def impatient(ctx: Context) -> str:
    try:
        return str(await ctx.user_task("approve", role="clerk", timeout=0.05))
    except WaitTimeout as late:
        return f"{late.step_name} was late"


@workflow
async def careful(ctx: Context) -> str:
    try:
        return str(await ctx.user_task("approve", role="clerk"))
    except UserTaskCancelled as told:
        return f"{told.step_name}: {told.failure.message if told.failure else ''}"
    except RunCancelled as told:
        reason = told.reason
        return str(await ctx.step("undo", lambda: reason))


@workflow
async def wide(ctx: Context) -> list[Any]:
    async def branch(user: str) -> Any:
        first = await ctx.user_task("first", user=user)
        return [first, await ctx.user_task("second", first, user=user)]

    return await ctx.gather(branch("ann"), branch("bob"))


@workflow
async def racing(ctx: Context) -> Any:
    return (await ctx.race(ctx.user_task("a", user="ann"), ctx.user_task("b", user="bob"))).value


@workflow
async def brittle(ctx: Context) -> Any:
    got = await ctx.user_task("approve", role="clerk")
    if not repaired:
        raise ValueError("not yet")
    return got


repaired: list[bool] = []
ALL = [order, impatient, careful, wide, racing, brittle]


@pytest_asyncio.fixture
async def here(database_url: str) -> AsyncIterator[Live]:
    repaired.clear()
    async with live(database_url) as made:
        yield made


async def inbox(here: Live, count: int = 1, **whose: Any) -> list[user_tasks_pb2.UserTask]:
    """So many tasks, as soon as they are there."""

    async def found() -> list[user_tasks_pb2.UserTask]:
        return [task async for task in here.client.user_tasks.inbox(**(whose or {"roles": ["clerk"]}))]

    tasks: list[user_tasks_pb2.UserTask] = await until(found, lambda tasks: len(tasks) >= count)
    return tasks


async def answer(here: Live, task: user_tasks_pb2.UserTask, value: Any, user: str = "ann") -> None:
    await here.client.user_tasks.claim(task.task_id, user)
    await here.client.user_tasks.complete(task.task_id, user, value)


async def test_the_output_comes_back_with_its_type(here: Live) -> None:
    before = dt.datetime.now(dt.UTC)
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(order, 7, workflow_id="w")
        (task,) = await inbox(here)
        spec = task.spec
        assert (task.run_id, task.workflow_id, task.step_name) == (handle.run_id, "w", "approve")
        assert (spec.title, spec.description, spec.schema_type) == ("Approve an order", "It is\nlarge.", "order-form")
        assert (spec.assigned_group_id, spec.priority) == ("desk", user_tasks_pb2.USER_TASK_PRIORITY_HIGH)
        assert here.client.user_tasks.input_of(task) == {"amount": 7}
        assert spec.due_time.ToDatetime(dt.UTC) - before >= dt.timedelta(seconds=3_599)
        await answer(here, task, Verdict(approved=True))
        assert await handle.result() is True
        done = await here.client.user_tasks.get(task.task_id)
        assert here.client.user_tasks.output_of(done, Verdict) == Verdict(approved=True)
        assert [name for name in await happened(handle) if name.startswith("UserTask")] == [
            *("UserTaskCreated", "UserTaskChanged", "UserTaskCompleted")
        ]


async def test_arrival_and_timeout_are_told_apart(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(impatient)
        assert await handle.result() == "approve was late"
        (task,) = [task async for task in here.client.user_tasks.list(run_id=handle.run_id)]
        assert task.status == user_tasks_pb2.USER_TASK_STATUS_CANCELLED


async def test_a_worker_that_leaves_is_not_missed(here: Live) -> None:
    """Nobody holds the run while people think; whoever takes it up is answered from the record."""
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(order, 7)
        (task,) = await inbox(here)
        await suspended(handle)
    await answer(here, task, Verdict(approved=False))
    async with here.working(workflows=ALL):
        assert await handle.result() is False


async def test_a_cancelled_task_is_heard_of(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(careful)
        (task,) = await inbox(here)
        await here.client.user_tasks.cancel(task.task_id, "on holiday")
        assert await handle.result() == "approve: on holiday"
        handle = await here.client.start_run(careful)
        await inbox(here)
        assert await here.client.user_tasks.cancel_run(run_id=handle.run_id, reason="all off") == 1
        assert await handle.result() == "approve: all off"


async def test_cancellation_of_the_run_takes_the_task_back(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(careful)
        (task,) = await inbox(here)
        await handle.cancel("changed my mind")
        assert await handle.result() == "changed my mind"
        status = (await here.client.user_tasks.get(task.task_id)).status
        assert status == user_tasks_pb2.USER_TASK_STATUS_CANCELLED
        assert "UserTaskCancelled" in await happened(handle)


async def test_branches_get_what_each_waits_for(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(wide)
        for user in ("bob", "ann"):
            for value in (1, 2):
                (task,) = await inbox(here, user=user)
                await answer(here, task, [user, value], user)
        assert await handle.result() == [[["ann", 1], ["ann", 2]], [["bob", 1], ["bob", 2]]]


async def test_the_loser_of_a_race_is_asked_no_more(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(racing)
        (task,) = await inbox(here, user="bob")
        await answer(here, task, "first", "bob")
        assert await handle.result() == "first"
        assert [task async for task in here.client.user_tasks.inbox(user="ann")] == []


@pytest.mark.parametrize("how", ["retry", "rewind"])
async def test_a_retry_keeps_what_people_did_and_a_rewind_asks_anew(here: Live, how: str) -> None:
    async with here.working(workflows=ALL):
        handle: RunHandle[Any] = await here.client.start_run(brittle)
        (task,) = await inbox(here)
        await answer(here, task, 1)
        with pytest.raises(RunFailed):
            await handle.result()
        repaired.append(True)
        if how == "retry":
            await handle.retry(reason="mended")
        else:
            await handle.rewind("approve", reason="mended")
            (again,) = await inbox(here)
            assert again.task_id != task.task_id
            await answer(here, again, 2)
        assert await here.client.run(handle.run_id).result() == (1 if how == "retry" else 2)


async def test_without_asyncio(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(order, 1)
        await inbox(here)

        def work() -> list[str]:
            with sync.Client.connect(here.client.address) as client:
                tasks = client.user_tasks
                (task,) = tasks.inbox(roles=["clerk"], groups=["desk"])
                assert tasks.active("approve", run_id=task.run_id) == task
                tasks.claim(task.task_id, "bob")
                tasks.unclaim(task.task_id)
                changed = tasks.update(task.task_id, user="ann", expected_version=3)
                assert [each.task_id for each in tasks.inbox(user="ann")] == [task.task_id]
                tasks.claim(task.task_id, "ann")
                done = tasks.complete(task.task_id, "ann", Verdict(approved=True))
                found = tasks.list(statuses=["COMPLETED"], query="ORDER", user="ann", order_by="create_time")
                assert tasks.input_of(changed) == {"amount": 1}
                assert tasks.output_of(done) == {"approved": True}
                listed = [each.task_id for each in found]
                assert tasks.delete(task.task_id)
                assert not tasks.delete(task.task_id)
                return listed

        assert len(await asyncio.to_thread(work)) == 1
        assert await handle.result() is True


async def test_a_driven_run_s_task_through_the_client(here: Live) -> None:
    from tests.api.stores import Reached, create  # noqa: PLC0415 - for this test alone

    run_id, tasks = await create(Reached(here.client.address)), here.client.user_tasks
    due = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)
    first = await tasks.create("s", {"n": 1}, run_id=run_id, role="clerk", due=due, signal_name="x")
    assert first == await tasks.create("s", run_id=run_id, unless_active=True)
    assert (first.spec.due_time.ToDatetime(dt.UTC), first.spec.signal_name) == (due, "x")
    with pytest.raises(ValueError, match="no time zone"):
        await tasks.create("s", run_id=run_id, due=dt.datetime(2031, 1, 1))  # noqa: DTZ001 - what is refused


async def test_the_command(here: Live) -> None:
    """Lists, shows, claims, completes and cancels, and tells what a run waits for."""
    client = here.client
    async with here.working(workflows=ALL):
        handle = await client.start_run(order, 7, workflow_id="order")
        await suspended(handle)
        (task,) = await inbox(here)
        task_id = task.task_id
        assert f"user task approve ({task_id})" in await stepwell(client, "run", "show", "order")
        listed = await stepwell(client, "task", "list", "--inbox", "--role", "clerk")
        assert task_id in listed
        assert "Approve an order" in listed
        assert task_id in await stepwell(client, "task", "list", "--status", "pending", "--query", "large")
        assert "role clerk, group desk" in await stepwell(client, "task", "show", task_id)
        assert "ann has the task" in await stepwell(client, "task", "claim", task_id, "--user", "ann")
        assert "nobody has" in await stepwell(client, "task", "unclaim", task_id)
        given = ("--user", "ann", "--claim", "-i", '{"approved": true}')
        printed = await stepwell(client, "task", "complete", task_id, *given, "-o", "json")
        assert json.loads(printed) == {"task_id": task_id, "status": "COMPLETED"}
        assert await handle.result() is True
        shown = json.loads(await stepwell(client, "task", "show", task_id, "-o", "json"))
        assert (shown["status"], shown["completed_by"]) == ("USER_TASK_STATUS_COMPLETED", "ann")
        assert "nothing is to do" in await stepwell(client, "task", "list", "--inbox", "--user", "ann")
        await client.start_run(careful, workflow_id="other")
        (task,) = await inbox(here)
        assert "is cancelled" in await stepwell(client, "task", "cancel", task.task_id, "--reason", "no")
        assert "UserTaskCancelled" in await stepwell(client, "run", "history", "other")


async def test_the_step_names_its_task(here: Live) -> None:
    async with here.working(workflows=ALL):
        handle = await here.client.start_run(careful)
        (task,) = await inbox(here)
        (step,) = [step async for step in handle.steps()]
        assert isinstance(step, runs_pb2.Step)
        assert (step.user_task_id, step.name) == (task.task_id, "approve")
