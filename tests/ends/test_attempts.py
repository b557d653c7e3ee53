"""Runs with a retry policy, by the client: their code fails, and they begin anew until it does not."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from typing import Any

import pytest
from tests.ends.conftest import Advance, Working
from tests.mending.kit import QUEUE, described, happened, recorded, stepwell
from tests.stream.kit import until

from stepwell import ApplicationError, Client, Context, RetryPolicy, RunFailed, activity, sync, workflow
from stepwell.runs import RunHandle
from stepwell.v1 import runs_pb2, types_pb2

HOUR = 3_600
AT_ONCE = RetryPolicy(initial_interval=0, maximum_attempts=3)
HOURLY = RetryPolicy(initial_interval=HOUR, maximum_attempts=3)
PENDING = types_pb2.RUN_PHASE_PENDING

done: Counter[str] = Counter()
begun: list[int] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    done.clear()
    begun.clear()


class BrokenError(Exception):
    """What the code stumbles over."""


@activity
async def work(name: str) -> str:
    done[name] += 1
    return name.upper()


@workflow(name="flow")
async def flow(ctx: Context, faults: int) -> list[Any]:
    """Fails so many attempts, behind steps that were recorded."""
    begun.append(ctx.info.run_attempt)
    parts = await ctx.map(work, "ab")
    said = await ctx.wait_signal("go")
    if ctx.info.run_attempt <= faults:
        raise BrokenError(f"fault {ctx.info.run_attempt}")
    return [*parts, said]


@workflow(name="stubborn")
async def stubborn(ctx: Context, options: dict[str, Any]) -> int:
    """Fails its first attempt as told."""
    if ctx.info.run_attempt == 1:
        raise ApplicationError("no", **options)
    return ctx.info.run_attempt


async def backing_off(handle: RunHandle[Any]) -> runs_pb2.Run:
    """The run once an attempt has failed and the next has not begun."""
    return await described(handle, lambda run: run.phase == PENDING and run.attempt > 1)


async def test_a_run_begins_anew_until_it_succeeds(client: Client, working: Working) -> None:
    """It is one run to whoever waits for it: one id, one name, one signal sent; its steps are done each time."""
    handle = await client.start_run(flow, 2, task_queue=QUEUE, workflow_id="w", retry=AT_ONCE)
    await handle.signal("go", "now")
    async with working(flow, activities=[work]):
        async with asyncio.timeout(60):
            assert await handle.result() == ["A", "B", "now"]
    assert begun == [1, 2, 3]
    assert done == {"a": 3, "b": 3}
    run = await client.run(workflow_id="w").describe()
    assert (run.run_id, run.attempt, run.phase) == (handle.run_id, 3, types_pb2.RUN_PHASE_COMPLETED)
    assert (run.last_failure.type, run.last_failure.message) == ("BrokenError", "fault 2")
    assert (run.HasField("failure"), run.HasField("begin_time")) == (False, False)
    assert [name for _, name, _ in await recorded(handle)] == ["work", "work", "go"]
    kinds = await happened(handle)
    assert (kinds.count("RunAttemptFailed"), kinds.count("RunStarted"), kinds[-1]) == (2, 1, "RunCompleted")
    assert [each.run_id async for each in client.list_runs()] == [handle.run_id]


async def test_what_people_see_while_it_waits(client: Client, working: Working, advance: Advance) -> None:
    """Which attempt is next, when it may begin, and why the last one failed; in history, and by the command."""
    handle = await client.start_run(flow, 1, task_queue=QUEUE, retry=HOURLY)
    await handle.signal("go", "now")
    async with working(flow, activities=[work]):
        run = await backing_off(handle)
        (event,) = [each async for each in handle.history() if each.type == "RunAttemptFailed"]
        assert run.begin_time.ToDatetime() - event.time.ToDatetime() == dt.timedelta(seconds=HOUR)
        assert (event.attributes["attempt"], event.failure.message) == ("1", "fault 1")
        assert dt.datetime.fromisoformat(event.attributes["next_attempt_time"]) == run.begin_time.ToDatetime(dt.UTC)
        assert (run.attempt, run.retry.maximum_attempts, run.last_failure.message) == (2, 3, "fault 1")
        shown = await stepwell(client, "run", "show", handle.run_id)
        assert "2 of 3" in shown
        assert "BrokenError: fault 1" in shown
        await advance(HOUR - 60)
        assert (await handle.describe()).phase == PENDING
        await advance(60)
        async with asyncio.timeout(60):
            assert await handle.result() == ["A", "B", "now"]


async def test_the_last_failure_is_the_runs(client: Client, working: Working) -> None:
    """Who waits hears of it, and of none before."""
    handle = await client.start_run(flow, 9, task_queue=QUEUE, retry=AT_ONCE)
    await handle.signal("go", "now")
    async with working(flow, activities=[work]):
        with pytest.raises(RunFailed) as failed:
            await handle.result()
    assert failed.value.failure is not None
    assert failed.value.failure.message == "fault 3"
    run = await handle.describe()
    assert (run.attempt, run.last_failure.message) == (3, "fault 2")
    assert begun == [1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (RetryPolicy(initial_interval=0, non_retryable=("Final",)), {"type": "Final"}),
        (RetryPolicy(initial_interval=0), {"non_retryable": True}),
        (None, {}),
    ],
)
async def test_final_failures(
    client: Client, working: Working, policy: RetryPolicy | None, options: dict[str, Any]
) -> None:
    """By their type, by what the code says, or for want of a policy."""
    chosen: Any = {} if policy is None else {"retry": policy}
    handle = await client.start_run(stubborn, options, task_queue=QUEUE, **chosen)
    async with working(stubborn):
        with pytest.raises(RunFailed):
            await handle.result()
    assert (await handle.describe()).attempt == 1


async def test_the_code_chooses_the_delay(client: Client, working: Working, advance: Advance) -> None:
    """Once, in place of the policy's."""
    handle = await client.start_run(stubborn, {"retry_after": 2 * HOUR}, task_queue=QUEUE, retry=HOURLY)
    async with working(stubborn):
        await backing_off(handle)
        await advance(HOUR + 60)
        assert (await handle.describe()).phase == PENDING
        await advance(HOUR)
        async with asyncio.timeout(60):
            assert await handle.result() == 2


@pytest.mark.parametrize(("verb", "phase"), [("cancel", "CANCELLED"), ("terminate", "TERMINATED")])
async def test_it_is_stopped_while_it_waits(client: Client, working: Working, verb: str, phase: str) -> None:
    """At once, by the id that its start gave."""
    handle = await client.start_run(stubborn, {}, task_queue=QUEUE, retry=HOURLY)
    async with working(stubborn):
        await backing_off(handle)
        assert await getattr(handle, verb)("enough")
        with pytest.raises(RunFailed) as failed:
            await handle.result()
    assert failed.value.phase == phase


async def test_a_deadline_before_the_next_attempt_makes_a_failure_final(client: Client, working: Working) -> None:
    """The run has failed for its own reason, and not for want of time."""
    handle = await client.start_run(stubborn, {}, task_queue=QUEUE, retry=HOURLY, run_timeout=HOUR)
    async with working(stubborn):
        with pytest.raises(RunFailed) as failed:
            await handle.result()
    assert failed.value.phase == "FAILED"


async def test_a_child_begins_anew_unseen_by_its_parent(client: Client, working: Working) -> None:
    """Its parent gets the result of the last attempt."""

    @workflow(name="parent")
    async def parent(ctx: Context) -> int:
        return await ctx.child(stubborn, {}, retry=AT_ONCE)

    handle = await client.start_run(parent, task_queue=QUEUE)
    async with working(parent, stubborn):
        async with asyncio.timeout(60):
            assert await handle.result() == 2
    kinds = await happened(handle)
    assert (kinds.count("ChildStarted"), kinds.count("ChildCompleted"), kinds.count("ChildFailed")) == (1, 1, 0)


async def test_a_run_that_continues_keeps_its_policy(client: Client, working: Working) -> None:
    """The next run of the chain counts its attempts from 1."""

    @workflow(name="chained")
    async def chained(ctx: Context, left: int) -> list[int]:
        begun.append(ctx.info.run_attempt)
        if ctx.info.run_attempt == 1:
            raise BrokenError("first")
        if left:
            ctx.continue_as_new(left - 1)
        return begun

    handle = await client.start_run(chained, 1, task_queue=QUEUE, retry=AT_ONCE)
    async with working(chained):
        async with asyncio.timeout(60):
            assert await handle.result() == [1, 2, 1, 2]


async def test_the_sync_client_and_the_command_start_with_a_policy(client: Client, working: Working) -> None:
    """The same options as the client's; the command takes the number of attempts."""

    def start() -> tuple[str, int]:
        with sync.Client.connect(client.address) as connected:
            handle = connected.start_run(stubborn, {}, task_queue=QUEUE, retry=AT_ONCE)
            return handle.run_id, handle.result(timeout=60)

    async with working(stubborn):
        run_id, result = await asyncio.to_thread(start)
        assert (result, (await client.run(run_id).describe()).attempt) == (2, 2)
        out = await stepwell(
            client, "run", "start", "stubborn", "-i", "{}", "--task-queue", QUEUE, "--attempts", "2", "--wait"
        )
        assert out.split()[-1] == "2"


async def test_a_schedules_runs_have_its_policy(client: Client) -> None:
    """It is shown with the schedule, changed with it, and given to what it starts."""
    await client.schedules.create("nightly", stubborn, {}, cron="@daily", retry=HOURLY, task_queue=QUEUE)
    schedule = await client.schedules.get("nightly")
    assert schedule.run.retry.initial_interval.seconds == HOUR
    started = await client.schedules.trigger("nightly")
    assert (await client.run(started.run_id).describe()).retry == schedule.run.retry
    changed = await client.schedules.update("nightly", retry=AT_ONCE)
    assert (changed.run.retry.initial_interval.seconds, changed.run.type) == (0, "stubborn")


async def test_an_update_goes_to_the_next_attempt(client: Client, working: Working, advance: Advance) -> None:
    """One that was accepted, and was not done when its attempt failed: its caller waits on, and is answered.

    Meanwhile what was last published answers queries.
    """

    @workflow(name="asked")
    async def asked(ctx: Context) -> None:
        attempt, is_done = ctx.info.run_attempt, False

        async def add(number: int) -> list[int]:
            nonlocal is_done
            if attempt == 1:
                await ctx.wait_signal("never")
            is_done = True
            return [attempt, number]

        ctx.on_query("attempt", lambda: attempt, publish=True)
        ctx.on_update("add", add)
        if attempt == 1:
            await ctx.wait_signal("fail")
            raise BrokenError("first")
        await ctx.wait_until(lambda: is_done)

    handle = await client.start_run(asked, task_queue=QUEUE, retry=HOURLY)
    async with working(asked):
        update = asyncio.create_task(handle.update("add", 7))
        await until(lambda: happened(handle), lambda kinds: "UpdateAccepted" in kinds)
        await handle.signal("fail")
        await backing_off(handle)
        answer = await handle.query("attempt")
        assert (answer.value, answer.is_live) == (1, False)
        await advance(HOUR)
        async with asyncio.timeout(60):
            assert await update == [2, 7]
            await handle.result()
    assert (await happened(handle)).count("UpdateAccepted") == 2
