"""A run that is asked to cancel while its activities are at work: who is told, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, ACTIVITY, RUN, Replica, capacity, hello, payload, until
from tests.stream.wire import Wire, wire

from stepwell.v1 import types_pb2, workers_pb2
from stepwell.v1.workers_pb2 import CancelledActivity, Task

CANCELLED, COMPLETED = types_pb2.STEP_STATE_CANCELLED, types_pb2.STEP_STATE_COMPLETED


@asynccontextmanager
async def at_work(runs: Replica, acts: Replica, **fields: Any) -> AsyncIterator[tuple[Code, Wire, Task]]:
    """A run that waits in its worker's memory for an activity, which another worker has."""
    await runs.start(queue="runs")
    async with (
        wire(runs, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as holder,
        wire(acts, "acts", capacity=capacity(activities=4)) as other,
    ):
        code = Code(holder, await holder.task(RUN))
        await code.wait(code.activity(task_queue="q", **fields))
        yield code, other, await other.task(ACTIVITY)


def nobody_compares(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a round of comparing finds later would hide what is not told at once."""

    async def nothing() -> None:
        pass

    monkeypatch.setattr(replica.service.dispatcher._upkeep, "reconcile", nothing)
    monkeypatch.setattr(replica.service.dispatcher._upkeep, "_return_unknown", nothing)


@pytest.mark.parametrize("said", ["cancelled", "complete"])
async def test_the_worker_is_told_at_once_and_has_the_last_word(two: tuple[Replica, Replica], said: str) -> None:
    """On whatever replica it is; its report ends the step, and the run's code hears of it."""
    left, right = two
    async with at_work(left, right) as (code, acts, task):
        await left.cancel(code.task.run_id, "enough")
        told = await acts.next("cancels")
        assert (told.ref, told.reason) == (task.ref, "enough")
        assert (await code.advance()).cancel_requested
        outcome: dict[str, Any] = {"cancelled": CancelledActivity(details=payload("half"))}
        if said == "complete":
            outcome = {"complete": workers_pb2.CompleteActivity(result=payload("all"))}
        assert (await acts.report(task.ref, **outcome)).status == ACCEPTED
        (ended,) = (await code.advance(lambda news: news.steps)).steps
        assert ended.state == (CANCELLED if said == "cancelled" else COMPLETED)


async def test_what_waits_is_never_begun(one: Replica) -> None:
    """Its end comes with the word that the run was asked to cancel."""
    await one.start(queue="runs")
    async with wire(one, "runs", task_queues=["runs"], capacity=capacity(runs=1)) as runs:
        code = Code(runs, await runs.task(RUN))
        await code.wait(code.activity(task_queue="q"))
        await one.cancel(code.task.run_id)
        news = await code.advance()
        assert news.cancel_requested
        assert [(step.ordinal, step.state) for step in news.steps] == [(1, CANCELLED)]
        assert await one.waiting() == 0


async def test_what_is_shielded_or_comes_later_is_left_alone(one: Replica) -> None:
    """Neither told by a push nor by the answers to its heartbeats; the code itself may ask it to stop."""
    async with at_work(one, one, shielded=True) as (code, acts, shielded):
        await one.cancel(code.task.run_id)
        await code.advance()
        await code.tell(code.activity(task_queue="q", name="clean up"), waiting=True)
        later = await acts.task(ACTIVITY)
        for task in (shielded, later):
            assert not (await acts.beat(task)).cancel_requested
        assert not acts.got.get("cancels")
        await code.tell(stop_ordinals=[shielded.step_ordinal], waiting=True)
        assert (await acts.next("cancels")).ref == shielded.ref
        assert (await acts.beat(shielded)).cancel_requested
        assert not (await acts.beat(later)).cancel_requested


async def test_what_was_not_sent_yet_is_withdrawn_and_ends(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the word to stop would overtake the task; its step ends, since nobody will ever report on it."""
    nobody_compares(one, monkeypatch)
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
        await code.wait(code.activity(task_queue="q"))
        session = next(each for each in one.service.dispatcher.sessions.values() if each.hello.worker_id == "acts")
        await until(lambda: session.held)
        await one.cancel(code.task.run_id)
        (ended,) = (await code.advance(lambda news: news.steps)).steps
        assert ended.state == CANCELLED
        may_read.set()
        await acts.settled()
        assert not acts.got.get("assigns")


async def test_a_resumed_worker_is_told_again(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its stream should have told it may have been lost with it."""
    nobody_compares(one, monkeypatch)
    async with at_work(one, one) as (code, acts, task):
        await acts.cut()
        await one.cancel(code.task.run_id)
        resumed = hello("acts", session_id=acts.welcome.session_id, held=[task.ref], capacity=capacity(activities=4))
        again = await Wire(one, resumed).open()
        try:
            assert (await again.next("cancels")).ref == task.ref
            report = await again.report(task.ref, cancelled=CancelledActivity())
            assert report.status == ACCEPTED
        finally:
            await again.cut()


async def test_a_lost_word_is_found_by_comparing(two: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints between replicas may be lost; who is told once is not told again."""
    left, right = two
    async with at_work(left, right) as (code, acts, task):
        monkeypatch.setattr(left.service.dispatcher.pushes, "hint", lambda kind, data: None)
        await left.cancel(code.task.run_id)
        for _ in range(2):
            await right.service.dispatcher._upkeep.reconcile()
        assert (await acts.next("cancels")).ref == task.ref
        await acts.settled()
        assert not acts.got.get("cancels")


async def test_a_worker_that_dies_while_it_should_stop_ends_the_step(one: Replica) -> None:
    """Nobody begins again what was asked to stop."""
    async with at_work(one, one) as (code, acts, _):
        await one.cancel(code.task.run_id)
        await acts.next("cancels")
        await acts.cut()
        (ended,) = (await code.advance(lambda news: news.steps)).steps
        assert ended.state == CANCELLED
        assert await one.waiting() == 0
