"""What time does to code runs, on a clock that the test moves: deadlines, and the patience of cancellation policies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.ends.conftest import Advance, Working
from tests.mending.kit import QUEUE, described, suspended
from tests.service import refusal
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, ACTIVITY, RUN, SECONDS, Replica, capacity, error_reason, payload, until
from tests.stream.wire import wire

from stepwell import CancellationPolicy, ChildFailed, Client, Context, RunCancelled, RunFailed, workflow
from stepwell.policies import duration
from stepwell.v1 import runs_pb2, types_pb2, workers_pb2

MINUTE = 60
TIMED_OUT, CANCELLED = types_pb2.RUN_PHASE_TIMED_OUT, types_pb2.RUN_PHASE_CANCELLED
SUSPENDED = types_pb2.RUN_PHASE_SUSPENDED
WITHIN_A_MINUTE: dict[str, Any] = {"run_timeout": {"seconds": MINUTE}}
cleaned: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    cleaned.clear()


def limited(**seconds: float) -> dict[str, Any]:
    """A cancellation policy, as a field of a start."""
    policy = CancellationPolicy(**{f"maximum_{name}_duration": value for name, value in seconds.items()})
    return {"cancellation_policy": policy.to_proto()}


async def ended(one: Replica, run_id: str) -> Any:
    """The run once it has ended."""
    response = await one.runs.WaitRun(runs_pb2.WaitRunRequest(run_id=run_id), timeout=SECONDS)
    assert response.ended
    return response.run


@workflow(name="patient")
async def patient(ctx: Context) -> Any:
    """Waits for what never comes, and says if it was asked to clean up."""
    try:
        return await ctx.wait_signal("never")
    except RunCancelled:
        cleaned.append(ctx.info.run_id)
        raise


async def test_a_resident_run_times_out_and_its_activities_are_told(one: Replica, advance: Advance) -> None:
    """Its worker loses it, who is at its activity is told to stop, and nothing that either reports is recorded."""
    run_id = await one.start(**WITHIN_A_MINUTE)
    async with wire(one, capacity=capacity(runs=1, activities=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        assert (await code.wait(code.activity(), code.activity(task_queue="nobody"))).status == ACCEPTED
        task = await stream.task(ACTIVITY)
        await advance(MINUTE - 1)
        assert (await one.run(run_id)).phase == SUSPENDED
        await advance(1)
        run = await ended(one, run_id)
        assert (run.phase, run.failure.type) == (TIMED_OUT, "Timeout")
        revoke = await stream.next("revokes")
        assert (revoke.ref, revoke.reason) == (code.task.ref, "RUN_ENDED")
        cancel = await stream.next("cancels")
        assert (cancel.ref, cancel.reason) == (task.ref, "run ended: TIMED_OUT")
        assert (await stream.beat(task)).lost
        assert error_reason(await stream.complete(task)) == "LEASE_LOST"
        assert error_reason(await code.tell(code.local(1))) == "LEASE_LOST"
    kinds = [event.type for event in await one.events(run_id)]
    assert kinds[-3:] == ["ActivityCancelled", "ActivityCancelled", "RunTimedOut"]
    assert await one.waiting() == 0


async def test_a_run_at_work_times_out(one: Replica, advance: Advance) -> None:
    """Its deadline does not wait for its code."""
    run_id = await one.start(**WITHIN_A_MINUTE)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await advance(MINUTE)
        assert (await stream.next("revokes")).reason == "RUN_ENDED"
        done = workers_pb2.CompleteRun(result=payload(1))
        assert error_reason(await code.tell(complete=done)) == "LEASE_LOST"
    assert (await one.run(run_id)).phase == TIMED_OUT


@pytest.mark.parametrize("fields", [{}, {"start_delay": {"seconds": 2 * MINUTE}}], ids=["queued", "delayed"])
async def test_a_run_that_nobody_has_begun_times_out(one: Replica, advance: Advance, fields: dict[str, Any]) -> None:
    """While it waits in its queue, or for its time."""
    run_id = await one.start(**WITHIN_A_MINUTE, **fields)
    await advance(MINUTE)
    assert (await ended(one, run_id)).phase == TIMED_OUT
    assert await one.waiting() == 0


async def test_a_paused_run_times_out(one: Replica, advance: Advance) -> None:
    """Time goes on for it."""
    run_id = await one.start(**WITHIN_A_MINUTE)
    await one.runs.PauseRun(runs_pb2.PauseRunRequest(run_id=run_id))
    await advance(MINUTE)
    assert (await ended(one, run_id)).phase == TIMED_OUT


async def test_who_waits_hears_of_a_timeout(client: Client, working: Working, advance: Advance) -> None:
    """Code of the SDK has no say in it: there is no clean-up."""
    handle = await client.start_run(patient, task_queue=QUEUE, run_timeout=MINUTE)
    async with working(patient):
        await suspended(handle)
        await advance(MINUTE)
        with pytest.raises(RunFailed) as failed:
            await handle.result()
    assert failed.value.phase == "TIMED_OUT"
    assert not cleaned


async def test_a_childs_timeout_is_its_parents_to_catch(client: Client, working: Working, advance: Advance) -> None:
    """It comes as a failure of the child, and tells what it was."""

    @workflow(name="parent")
    async def parent(ctx: Context) -> str:
        try:
            return str(await ctx.child(patient, run_timeout=MINUTE))
        except ChildFailed as error:
            return error.failure.message if error.failure is not None else ""

    handle = await client.start_run(parent, task_queue=QUEUE)
    async with working(parent, patient):
        (child,) = await until(lambda: children_of(client, handle.run_id), bool)
        await described(client.run(child), lambda run: run.phase == SUSPENDED)
        await advance(MINUTE)
        async with asyncio.timeout(60):
            assert await handle.result() == "the run's deadline passed"


async def test_no_time_is_no_limit(one: Replica, advance: Advance) -> None:
    """A timeout or a limit of 0 is none, of a run and of a child."""
    await one.start(run_timeout={"seconds": 0}, **limited(run=0, suspend=0))
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        child = workers_pb2.ChildStep(type="kid", run_timeout=duration(0))
        assert (await code.wait(code.step("kid", child=child))).status == ACCEPTED
        await advance(MINUTE)
        runs = (await one.runs.ListRuns(runs_pb2.ListRunsRequest())).runs
        assert [run.HasField("deadline") for run in runs] == [False, False]
        assert not any(run.HasField("end_time") for run in runs)


async def children_of(client: Client, run_id: str) -> list[str]:
    return [run.run_id async for run in client.list_runs(parent_run_id=run_id)]


async def test_each_run_of_a_chain_has_the_whole_time(one: Replica, advance: Advance) -> None:
    """A run that continues as new hands the length of its time on, and not what is left of it."""
    await one.start(workflow_id="w", **WITHIN_A_MINUTE)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await advance(MINUTE - 1)
        assert (await code.tell(continue_as_new=workers_pb2.ContinueAsNew())).status == ACCEPTED
        task = await stream.task(RUN)
        await advance(MINUTE - 1)
        code = Code(stream, task)
        assert (await code.tell(code.local(1))).status == ACCEPTED
        await advance(1)
        assert (await ended(one, task.run_id)).phase == TIMED_OUT


async def test_a_run_that_takes_too_long_is_cancelled(one: Replica, advance: Advance) -> None:
    """By its policy, at work or not, with what is under way; the reason says which limit it was."""
    run_id = await one.start(**limited(run=MINUTE))
    async with wire(one, capacity=capacity(runs=1, activities=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        assert (await code.tell(code.activity())).status == ACCEPTED
        task = await stream.task(ACTIVITY)
        await advance(MINUTE)
        run = await ended(one, run_id)
        assert (run.phase, run.cancel_request.reason) == (CANCELLED, "maxRunDuration")
        assert (await stream.next("revokes")).ref == code.task.ref
        assert (await stream.next("cancels")).ref == task.ref
    kinds = [event.type for event in await one.events(run_id)]
    assert kinds[-3:] == ["RunCancelRequested", "ActivityCancelled", "RunCancelled"]


@pytest.mark.parametrize("resident", [0, 10], ids=["given back", "resident"])
async def test_a_run_that_is_suspended_too_long_is_cancelled(one: Replica, advance: Advance, resident: int) -> None:
    """At a stretch, wherever it waits: while its code is at work nothing is counted, and then it is anew."""
    run_id = await one.start(**limited(suspend=MINUTE))
    async with wire(one, capacity=capacity(runs=1, resident=resident)) as stream:
        code = Code(stream, await stream.task(RUN))
        assert (await code.wait(code.wait_for("s"))).status == ACCEPTED
        await advance(MINUTE - 1)
        await one.signal(run_id, "s")
        if resident:
            await code.advance()
        else:
            task = await stream.task(RUN)
            replayed = Code(stream, task)
            replayed.progress(replayed.wait_for("s"))
            code = replayed
        await advance(2 * MINUTE)
        await until(lambda: overdue(one), lambda found: found == 0)
        assert (await code.wait(code.wait_for("s"))).status == ACCEPTED
        await advance(MINUTE - 1)
        assert (await one.run(run_id)).phase == SUSPENDED
        await advance(1)
        run = await ended(one, run_id)
        assert (run.phase, run.cancel_request.reason) == (CANCELLED, "maxSuspendDuration")


async def overdue(one: Replica) -> int:
    """How many runs are due to be looked at."""
    async with one.service.dispatcher.reader.connection() as connection:
        query = "SELECT count(*) FROM runs WHERE wake_time <= $1"
        found: int = await connection.raw.fetchval(query, one.service.clock.now())
        return found


async def test_code_at_work_is_not_suspended(one: Replica, advance: Advance) -> None:
    """However long it takes."""
    run_id = await one.start(**limited(suspend=MINUTE))
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await advance(10 * MINUTE)
        assert (await code.complete()).status == ACCEPTED
    assert (await one.run(run_id)).phase == types_pb2.RUN_PHASE_COMPLETED


async def test_a_policys_cancellation_leaves_no_time_to_clean_up(
    client: Client, working: Working, advance: Advance
) -> None:
    """As stem's does: the run has ended, and its waiting client hears which limit it was."""
    policy = CancellationPolicy(maximum_suspend_duration=MINUTE)
    handle = await client.start_run(patient, task_queue=QUEUE, cancellation_policy=policy)
    async with working(patient):
        await suspended(handle)
        await advance(MINUTE)
        with pytest.raises(RunFailed) as failed:
            await handle.result()
    assert failed.value.phase == "CANCELLED"
    assert (await handle.describe()).cancel_request.reason == "maxSuspendDuration"
    assert not cleaned


async def test_an_ended_run_hears_no_signal(one: Replica, advance: Advance) -> None:
    """Timed out or cancelled by a policy, it is over."""
    for fields in (WITHIN_A_MINUTE, limited(run=MINUTE)):
        run_id = await one.start(**fields)
        await advance(MINUTE)
        await ended(one, run_id)
        request = runs_pb2.SignalRunRequest(run_id=run_id, signal_name="s")
        assert await refusal(one.runs.SignalRun(request)) == ("FAILED_PRECONDITION", "SIGNAL_REFUSED")
