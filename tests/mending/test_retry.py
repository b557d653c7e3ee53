"""Runs that failed for a fault since mended: retried, they go on without doing again what was done."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.mending.conftest import Working
from tests.mending.kit import QUEUE, ended, happened, recorded, stepwell
from tests.stream.kit import until

from stepwell import Client, Context, RetryPolicy, RunFailed, activity, errors, reasons, sync, workflow
from stepwell.runs import RunHandle
from stepwell.v1 import types_pb2

done: Counter[str] = Counter()
faults: set[str] = set()
ONCE = RetryPolicy(maximum_attempts=1)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    done.clear()
    faults.clear()


@activity
async def work(name: str) -> str:
    done[name] += 1
    if name in faults:
        raise ValueError(f"{name} is broken")
    return name.upper()


def note(name: str) -> str:
    done[name] += 1
    return name


@workflow(name="flow")
async def flow(ctx: Context) -> Any:
    first = await ctx.step("first", note, "first")
    parts = await ctx.map(lambda name: ctx.activity(work, name, retry=ONCE), "abc")
    if "code" in faults:
        raise TypeError("a fault of the code")
    said = await ctx.wait_signal("go")
    return [first, *parts, said, await ctx.step("last", note, "last")]


async def test_failed_steps_are_done_anew_and_completed_ones_stay(client: Client, working: Working) -> None:
    """Of three activities one failed: it is done again, and so is nothing else."""
    faults.add("b")
    handle = await client.start_run(flow, task_queue=QUEUE)
    await handle.signal("go", "now")
    async with working(flow, activities=[work]):
        with pytest.raises(RunFailed):
            await handle.result()
        assert ("2", "work", "FAILED") in await recorded(handle)
        faults.clear()
        response = await handle.retry(reason="b was mended")
        assert [(step.scope, step.name) for step in response.removed] == [("2", "work")]
        assert await handle.result() == ["first", "A", "B", "C", "now", "last"]
    assert done == {"first": 1, "a": 1, "b": 2, "c": 1, "last": 1}
    events = [event async for event in handle.history()]
    (retried,) = [event for event in events if event.type == "RunRetried"]
    assert dict(retried.attributes) == {"phase": "FAILED", "reason": "b was mended", "removed": "1"}
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert (await handle.describe()).run_id == handle.run_id


async def test_a_fault_of_the_code_is_mended_and_nothing_is_done_twice(client: Client, working: Working) -> None:
    """All steps are recorded: the mended code is answered from the record, and goes on beyond it."""
    faults.add("code")
    handle = await client.start_run(flow, task_queue=QUEUE)
    async with working(flow, activities=[work]):
        with pytest.raises(RunFailed):
            await handle.result()
    faults.clear()
    shown = await stepwell(client, "run", "retry", handle.run_id, "--reason", "mended")
    assert "over the whole of its record" in shown
    async with working(flow, activities=[work]):
        await handle.signal("go", 1)
        again: RunHandle[Any] = client.run(handle.run_id)
        assert await again.result() == ["first", "A", "B", "C", 1, "last"]
    assert set(done.values()) == {1}


async def test_what_was_open_at_the_end_is_done_anew(client: Client, working: Working) -> None:
    """A terminated run waits again for its signal, which came and went with its end."""
    handle = await client.start_run(flow, task_queue=QUEUE, workflow_id="w")
    async with working(flow, activities=[work]):
        await ended_by_terminating(handle)
        await handle.retry()
        await handle.signal("go", "late")
        assert (await handle.result())[4] == "late"
    assert done["first"] == 1
    assert (await happened(handle)).count("WaitStarted") == 2


async def ended_by_terminating(handle: Any) -> None:
    await until(lambda: recorded(handle), lambda steps: ("", "go", "WAITING") in steps)
    await handle.terminate("enough")
    assert (await ended(handle)).phase == types_pb2.RUN_PHASE_TERMINATED


async def test_what_cannot_be_retried_says_why(client: Client, working: Working) -> None:
    """A run that is open, one whose name a newer run bears, steps that did not fail, fields that are wrong."""
    handle = await client.start_run(flow, task_queue=QUEUE, workflow_id="w")
    with pytest.raises(reasons.RunPhaseConflict):
        await handle.retry()
    await handle.terminate()
    newer = await client.start_run(flow, task_queue=QUEUE, workflow_id="w")
    with pytest.raises(reasons.WorkflowIdInUse):
        await handle.retry()
    await newer.terminate()
    for steps in ([0], [1 << 17], [1] * 257):
        with pytest.raises(errors.InvalidArgument):
            await handle.retry(steps=steps)
    with pytest.raises(reasons.StepNotFound):
        await handle.retry(steps=[1])
    with pytest.raises(reasons.RunNotFound):
        await client.run(workflow_id="other").retry()
    await handle.retry()
    assert (await client.run(workflow_id="w").describe()).run_id == handle.run_id
    async with working(flow, activities=[work]):
        await handle.signal("go")
        await handle.result()


async def test_programs_without_asyncio(client: Client, working: Working) -> None:
    """The same, from another thread."""
    faults.add("b")
    handle = await client.start_run(flow, task_queue=QUEUE)
    await handle.signal("go", "now")

    def mend() -> Any:
        with sync.Client.connect(client.address) as other:
            run: sync.RunHandle[Any] = other.run(handle.run_id)
            with pytest.raises(RunFailed):
                run.result(10)
            faults.clear()
            assert run.retry(reason="mended").removed_count == 1
            assert run.result(10)[2] == "B"
            return run.rewind("last", reason="once more").removed_count, run.result(10)[2]

    async with working(flow, activities=[work]):
        assert await asyncio.to_thread(mend) == (1, "B")
    assert done["last"] == 2
