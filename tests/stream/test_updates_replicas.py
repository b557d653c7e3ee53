"""Updates asked at one replica of a run whose worker is at another."""

from __future__ import annotations

import asyncio

from tests.stream.asking import LONG, accept, holding, reject, rows, told
from tests.stream.code import Code
from tests.stream.kit import RUN, Replica, capacity, hello, until
from tests.stream.wire import Wire, wire

from stepwell.v1 import types_pb2

Two = tuple[Replica, Replica]


async def test_the_other_replica_s_worker_is_told_and_its_record_answers(two: Two) -> None:
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(second.update(run_id, "u1"))
        await accept(code, await told(code), 3)
        assert (await asked).result.json == "3"
        assert (await first.update(run_id, "u1")).result.json == "3"
    await until(lambda: rows(first), lambda found: not found)


async def test_a_rejection_crosses_too(two: Two) -> None:
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(second.update(run_id, "u1"))
        await reject(code, await told(code))
        assert (await asked).rejection.message == "no"


async def test_hints_among_replicas_may_get_lost(looks_often: None, two: Two) -> None:
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        for each in two:
            each.service.dispatcher.pushes.start(None)
        asked = asyncio.create_task(second.update(run_id, "u1", wait=LONG))
        await accept(code, await told(code), 3)
        assert (await asked).result.json == "3"


async def test_both_replicas_may_be_asked_at_once(two: Two) -> None:
    """The worker hears of one update twice, and does it once."""
    first, _second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = [asyncio.create_task(each.update(run_id, "u1")) for each in two]
        both = [await told(code) for _ in two]
        assert both[0] == both[1]
        await accept(code, both[0], 3)
        assert [(await each).result.json for each in asked] == ["3", "3"]
    assert await first.count(run_id, "UpdateAccepted") == 1


async def test_who_asked_waits_for_the_next_holder_at_another_replica(two: Two) -> None:
    first, second = two
    run_id = await first.start()
    async with wire(first, "dying", is_lively=False, capacity=capacity(runs=1)) as dying:
        await holding(dying)
        asked = asyncio.create_task(first.update(run_id, "u1", wait=LONG))
        await dying.next("advances")
        await dying.cut()
    async with wire(second, "next", capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        code = Code(stream, task)
        code.progress(code.wait_for("go"))
        await accept(code, task.updates[0] if task.updates else await told(code), 3)
        assert (await asked).result.json == "3"


async def test_a_session_that_goes_on_elsewhere_is_told_again(two: Two) -> None:
    first, second = two
    run_id = await first.start()
    async with wire(first, capacity=capacity(runs=1)) as stream:
        code = await holding(stream)
        asked = asyncio.create_task(first.update(run_id, "u1", wait=LONG))
        await stream.next("advances")
        opening = hello(session_id=stream.welcome.session_id, held=[code.task.ref], capacity=capacity(runs=1))
        code.stream = again = await Wire(second, opening).open()
        await accept(code, await told(code), 3)
        assert (await asked).result.json == "3"
        await again.cut()


async def test_a_run_that_nobody_holds_is_taken_at_any_replica(two: Two) -> None:
    """The update waits in the table, and the grant looks there, wherever it is."""
    first, second = two
    run_id = await first.start(queue="late")
    asked = asyncio.create_task(first.update(run_id, "u1", wait=LONG))
    await until(lambda: rows(first), lambda found: found == 1)
    for each in two:
        each.service.dispatcher.pushes.start(None)
    async with wire(second, task_queues=["late"], capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        (update,) = task.updates
        await accept(Code(stream, task), update, 3)
        assert (await asked).result.json == "3"
        assert (await second.run(run_id)).phase == types_pb2.RUN_PHASE_SUSPENDED
