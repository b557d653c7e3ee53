"""Cancellation: requested of runs, and pushed to activities whose step nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.stream.code import Code, scheduled
from tests.stream.kit import ACCEPTED, ACTIVITY, DUPLICATE, RUN, Replica, capacity, error_reason, payload, until
from tests.stream.wire import wire

from stepwell.v1 import workers_pb2
from stepwell.v1.workers_pb2 import CancelledActivity


async def test_a_heartbeat_is_told_of_a_cancelled_run(one: Replica) -> None:
    run_id = await scheduled(one)
    async with wire(one, capacity=capacity(activities=1)) as stream:
        task = await stream.task(ACTIVITY)
        assert not (await stream.beat(task)).cancel_requested
        await one.cancel(run_id)
        result = await stream.beat(task)
        assert result.cancel_requested
        assert not result.lost


async def test_a_cancelled_run_s_holder_hears(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("never"))
        await one.cancel(run_id, "enough")
        news = await code.advance()
        assert (news.cancel_requested, news.cancel_reason) == (True, "enough")
        result = await code.tell(cancelled=workers_pb2.CancelledRun(details=payload("cleaned")))
        assert result.status == ACCEPTED
    assert await one.count(run_id, "RunCancelled") == 1


async def test_a_cancelled_run_that_nobody_holds_is_assigned_with_the_word(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1, resident=0)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.wait(code.wait_for("never"))
        await stream.next("revokes")
        await one.cancel(run_id, "enough")
        task = await stream.task(RUN)
        assert (task.cancel_requested, task.cancel_reason) == (True, "enough")


def given_up(code: Code, ordinal: int) -> Any:
    return code.tell(cancel_ordinals=[ordinal])


@pytest.mark.parametrize("how", ["given up", "ended"])
async def test_a_cancelled_step_s_activity_is_told_at_once(one: Replica, how: str) -> None:
    await one.start(queue="runs")
    async with (
        wire(one, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(one, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        (ordinal,) = (await code.tell(code.activity(task_queue="q"))).ordinals
        task = await acts.task(ACTIVITY)
        if how == "given up":
            assert (await given_up(code, ordinal)).status == ACCEPTED
        else:
            assert (await code.complete()).status == ACCEPTED
        assert (await acts.next("cancels")).ref == task.ref
        assert (await acts.report(task.ref, cancelled=CancelledActivity())).status == DUPLICATE
        await scheduled(one)
        await acts.task(ACTIVITY)


async def test_a_cancelled_step_that_was_not_sent_yet_is_withdrawn(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the word to stop would overtake the task, and be lost on the worker."""
    await one.start(queue="runs")
    reader = one.service.dispatcher.reader
    read: Callable[..., Any] = reader.assignments
    may_read = asyncio.Event()

    async def slow(grants: Any) -> Any:
        if any(grant.step is not None for grant in grants):
            await may_read.wait()
        return await read(grants)

    monkeypatch.setattr(reader, "at_hand", lambda _: None)
    monkeypatch.setattr(reader, "assignments", slow)
    async with (
        wire(one, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs,
        wire(one, "acts", capacity=capacity(activities=1)) as acts,
    ):
        code = Code(runs, await runs.task(RUN))
        (ordinal,) = (await code.tell(code.activity(task_queue="q"))).ordinals
        session = next(each for each in one.service.dispatcher.sessions.values() if each.hello.worker_id == "acts")
        await until(lambda: session.held)
        await given_up(code, ordinal)
        await until(lambda: not session.held)
        may_read.set()
        await acts.settled()
        assert not acts.got.get("assigns")
        assert not acts.got.get("cancels")
        await scheduled(one)
        assert (await acts.task(ACTIVITY)).attempt == 1


async def test_a_terminated_run_is_revoked(one: Replica) -> None:
    run_id = await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        await one.end(run_id)
        revoked = await stream.next("revokes")
        assert (revoked.ref, revoked.reason) == (task.ref, "RUN_ENDED")
        assert error_reason(await Code(stream, task).complete()) == "LEASE_LOST"


async def test_code_that_changed_is_refused_and_the_run_revoked(one: Replica) -> None:
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.tell(code.local(1, "first"))
        other = Code(stream, code.task)
        assert error_reason(await other.tell(other.local(1, "different"))) == "STEP_ORDER_CHANGED"
        assert (await stream.next("revokes")).reason == "RUN_PAUSED"
