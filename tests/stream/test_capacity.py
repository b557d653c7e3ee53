"""Capacity is absolute: tasks in work never exceed the one number, waiting runs in memory never the other."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.stream.code import Code, scheduled
from tests.stream.kit import ACCEPTED, ACTIVITY, RUN, Replica, capacity, hello, replica
from tests.stream.wire import Wire, wire

from stepwell.v1.workers_pb2 import ReleaseTask
from stepwell_server import errors
from stepwell_server.engine.committer import Claim


async def waiting_run(stream: Wire, signal: str = "go") -> Code:
    """A run in the worker's memory that waits for a signal."""
    code = Code(stream, await stream.task(RUN))
    assert (await code.wait(code.wait_for(signal))).status == ACCEPTED
    return code


async def test_assignments_in_work_never_exceed_the_outstanding(one: Replica) -> None:
    await scheduled(one, 12)
    async with wire(one, capacity=capacity(activities=3)) as stream:
        for _ in range(12):
            await stream.complete(await stream.task(ACTIVITY))
        assert stream.most[ACTIVITY] == 3


async def test_fresh_tasks_never_exceed_it_either(one: Replica) -> None:
    """Those go straight to the worker, past the table."""
    async with wire(one, capacity=capacity(runs=1, activities=2)) as stream:
        await one.start()
        code = Code(stream, await stream.task(RUN))
        await code.tell(*[code.activity() for _ in range(6)])
        for _ in range(6):
            await stream.complete(await stream.task(ACTIVITY))
        assert stream.most[ACTIVITY] == 2


async def test_queues_that_share_a_capacity_do_not_exceed_it_together(one: Replica) -> None:
    await scheduled(one, fields=[{"task_queue": f"q{place % 3}"} for place in range(9)])
    async with wire(one, task_queues=["q0", "q1", "q2"], capacity=capacity(activities=2)) as stream:
        seen = [await stream.task(ACTIVITY) for _ in range(2)]
        for _ in range(7):
            await stream.complete(seen.pop(0))
            seen.append(await stream.task(ACTIVITY))
        assert stream.most[ACTIVITY] == 2


async def test_a_queue_has_the_capacity_that_names_it(one: Replica) -> None:
    await scheduled(one, fields=[{"task_queue": "q"}] * 3 + [{"task_queue": "p"}] * 3)
    both = capacity(activities=1, queue="q")
    both.MergeFrom(capacity(activities=2, queue="p"))
    async with wire(one, task_queues=["q", "p"], capacity=both) as stream:
        for rounds in ({"q": 1, "p": 2}, {"q": 1, "p": 1}, {"q": 1}):
            tasks = [await stream.task(ACTIVITY) for _ in range(sum(rounds.values()))]
            await stream.settled()
            assert Counter(task.task_queue for task in stream.working.values()) == rounds
            for task in tasks:
                await stream.complete(task)


async def test_capacity_stated_anew_replaces_what_was_stated(one: Replica) -> None:
    """What is held goes on counting: three under way and room for two means none until two are done."""
    await scheduled(one, 8)
    async with wire(one, capacity=capacity(activities=3)) as stream:
        first = [await stream.task(ACTIVITY) for _ in range(3)]
        await stream.say(capacity=capacity(activities=2))
        await stream.complete(first[0])
        await stream.settled()
        assert not stream.got.get("assigns")
        await stream.complete(first[1])
        await stream.task(ACTIVITY)
        await stream.say(capacity=capacity(activities=5, queue="q"))
        for _ in range(3):
            await stream.task(ACTIVITY)
        await stream.settled()
        assert len(stream.working) == 5
        assert stream.most[ACTIVITY] == 5


async def test_a_waiting_run_costs_no_slot(one: Replica) -> None:
    await one.start_many(5)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        for _ in range(5):
            await waiting_run(stream)
        assert stream.most[RUN] == 1


async def test_waiting_runs_beyond_the_residents_are_evicted_and_come_back_when_due(one: Replica) -> None:
    runs = await one.start_many(4)
    async with wire(one, capacity=capacity(runs=4, resident=2)) as stream:
        codes = [Code(stream, await stream.task(RUN)) for _ in range(4)]
        # All at once: what each is told must not rest on what the others were before.
        results = await asyncio.gather(*(code.wait(code.wait_for("go")) for code in codes))
        assert [result.status for result in results] == [ACCEPTED] * 4
        evicted = {(await stream.next("revokes")).ref.task_id for _ in range(2)}
        await stream.settled()
        assert not stream.got.get("revokes")
        # Signalled, a resident one hears; an evicted one is given out again, with all its steps.
        for run_id in runs:
            await one.signal(run_id, "go", 7)
        for code in codes:
            if code.task.ref.task_id in evicted:
                task = await stream.task(RUN, run_id=code.task.run_id)
                assert task.ref.token > code.task.ref.token
                assert [step.result.json for step in task.steps] == ["7"]
            else:
                assert [step.result.json for step in (await code.advance()).steps] == ["7"]


async def test_a_waiting_run_that_finds_no_slot_is_evicted_and_queued(database_url: str) -> None:
    async with replica(database_url, resident_advance_seconds=0.3) as one:
        run_id = await one.start()
        async with wire(one, "first", capacity=capacity(runs=1)) as stream:
            code = await waiting_run(stream)
            await one.start("wf")
            busy = await stream.task(RUN)
            await one.signal(run_id, "go")
            revoked = await stream.next("revokes")
            assert (revoked.ref, revoked.reason) == (code.task.ref, "EVICTED")
            async with wire(one, "second", capacity=capacity(runs=1)) as other:
                assert (await other.task(RUN)).run_id == run_id
            assert busy.ref.task_id in stream.working


async def test_a_slot_that_comes_free_goes_to_a_waiting_run_first(database_url: str) -> None:
    async with replica(database_url, resident_advance_seconds=10.0) as one:
        run_id = await one.start()
        async with wire(one, capacity=capacity(runs=1)) as stream:
            code = await waiting_run(stream)
            await one.start()
            busy = Code(stream, await stream.task(RUN))
            await one.start()
            await one.signal(run_id, "go")
            await busy.complete()
            await code.advance()
            await stream.settled()
            assert stream.most[RUN] == 1
            await code.complete()
            await stream.task(RUN)


async def test_a_slot_freed_by_a_revoke_goes_to_a_waiting_run(database_url: str) -> None:
    async with replica(database_url, resident_advance_seconds=10.0) as one:
        run_id = await one.start()
        async with wire(one, capacity=capacity(runs=1)) as stream:
            code = await waiting_run(stream)
            busy = await one.start()
            await stream.task(RUN)
            await one.signal(run_id, "go")
            await one.end(busy)
            await code.advance()


async def test_waiting_runs_of_a_resumed_session_cost_no_slot(one: Replica) -> None:
    await one.start_many(3)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        codes = [await waiting_run(stream) for _ in range(3)]
        await stream.cut()
        held = [code.task.ref for code in codes]
        again = hello(session_id=stream.welcome.session_id, held=held, capacity=capacity(runs=1))
        resumed = await Wire(one, again).open()
        assert len(resumed.welcome.held) == 3
        await one.start()
        await resumed.task(RUN)
        await resumed.cut()


async def test_a_claim_under_way_keeps_no_slot_from_a_waiting_run(database_url: str) -> None:
    """The pump takes all places while it asks; a run that goes on meanwhile hears as soon as they are back."""
    async with replica(database_url, resident_advance_seconds=10.0, dispatch_poll_seconds=0.01) as one:
        runs = await one.start_many(10)
        async with wire(one, capacity=capacity(runs=1)) as stream:
            codes = [await waiting_run(stream) for _ in runs]
            for code in codes:
                await one.signal(code.task.run_id, "go")
            for _ in codes:
                news = await stream.next("advances")
                code = next(each for each in codes if each.task.ref == news.ref)
                await code.complete()


async def test_a_released_run_gives_its_slot_back(one: Replica) -> None:
    await one.start_many(2)
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        result = await stream.report(task.ref, release=ReleaseTask(reason="no room"))
        assert result.status == ACCEPTED
        await stream.task(RUN)


async def test_claims_that_are_refused_give_back_the_places_they_had_taken(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scheduled(one, 3)
    committers, refused = one.service.committers, asyncio.Event()
    submit = committers.submit

    def full(order: Any, *rest: Any) -> Any:
        if isinstance(order, Claim):
            refused.set()
            raise errors.QueueFull(queue="committer")
        return submit(order, *rest)

    monkeypatch.setattr(committers, "submit", full)
    async with wire(one, capacity=capacity(activities=3)) as stream:
        await refused.wait()
        monkeypatch.undo()
        for _ in range(3):
            await stream.task(ACTIVITY)
