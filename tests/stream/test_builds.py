"""Runs go to workers of their build on every way there is: straight away, from the queue, by unary calls, on resume."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest
from tests.service import refusal
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN, SECONDS, Replica, capacity, hello, until
from tests.stream.wire import Wire, wire

from stepwell.v1 import runs_pb2, workers_pb2

Two = tuple[Replica, Replica]
Reason = runs_pb2.Run.TaskWait


def builder(one: Replica, build_id: str, *compatible: str, runs: int = 10, resident: int = 100) -> Any:
    """A worker of a build."""
    room = capacity(runs=runs, resident=resident)
    return wire(one, f"of {build_id}", build_id=build_id, compatible_build_ids=compatible, capacity=room)


async def begun(one: Replica, stream: Wire) -> tuple[str, Code]:
    """A run of which the only worker has recorded a step."""
    run_id = await one.start()
    code = Code(stream, await stream.task(RUN, run_id=run_id))
    assert (await code.tell(code.local(1))).status == ACCEPTED
    return run_id, code


async def leave(stream: Wire) -> None:
    """What the worker holds goes back at once."""
    await stream.say(drain=True)
    await stream.half_close()
    await stream.end()


async def pin(one: Replica, build_id: str, **run: str) -> runs_pb2.PinRunResponse:
    answer: runs_pb2.PinRunResponse = await one.runs.PinRun(
        runs_pb2.PinRunRequest(build_id=build_id, **run), timeout=SECONDS
    )
    return answer


async def waits(one: Replica, run_id: str, reason: int) -> runs_pb2.Run:
    """The run, once it waits for that reason."""
    found: runs_pb2.Run = await until(lambda: one.run(run_id), lambda run: run.task_wait.reason == reason)
    return found


async def test_a_run_waits_for_its_build_until_a_compatible_one_comes(one: Replica) -> None:
    async with builder(one, "v1") as old:
        run_id, _ = await begun(one, old)
        async with builder(one, "v2") as other:
            await leave(old)
            run = await waits(one, run_id, Reason.REASON_NO_BUILD)
            assert run.build_id == "v1"
            assert run.task_wait.ready_time.seconds
            assert run.task_wait.details == (
                "no live worker takes build v1; of other builds 1 take type wf from queue q"
            )
            async with builder(one, "v3", "v0", "v1") as new:
                code = Code(new, await new.task(RUN, run_id=run_id))
                code.progress(code.local(1))
                assert not (await one.run(run_id)).HasField("task_wait")
                assert (await code.tell(code.local(2))).status == ACCEPTED
                assert (await one.run(run_id)).build_id == "v3"
            assert not other.got.get("assigns")
    (event,) = [each for each in await one.events(run_id) if each.type == "RunPinned"]
    assert dict(event.attributes) == {"build_id": "v3", "previous_build_id": "v1"}


async def test_a_run_that_goes_on_goes_straight_to_its_build(one: Replica) -> None:
    """The other worker has as much room, and its turn."""
    async with builder(one, "v1", resident=0) as old:
        runs = []
        for number in range(4):
            run_id, code = await begun(one, old)
            await code.wait(code.wait_for(f"go {number}"))
            runs.append(run_id)
        async with builder(one, "v2") as other:
            for number, run_id in enumerate(runs):
                await one.signal(run_id, f"go {number}")
                assert (await old.task(RUN, run_id=run_id)).run_id == run_id
            fresh = [await one.start() for _ in range(2)]
            took = {(await each.task(RUN)).run_id for each in (old, other)}
            assert took == set(fresh), "a run of no build goes to either in turn"


async def test_unary_calls_claim_runs_of_their_build(one: Replica) -> None:
    async with builder(one, "v1") as old:
        run_id, _ = await begun(one, old)
        await leave(old)

    async def claimed(**build: Any) -> list[str]:
        opened = await one.workers.OpenSession(workers_pb2.OpenSessionRequest(hello=hello("unary", **build)))
        claim = workers_pb2.ClaimTasksRequest(session_id=opened.welcome.session_id, max_tasks=5)
        return [task.run_id for task in (await one.workers.ClaimTasks(claim)).tasks]

    await until(one.waiting)
    assert await claimed() == []
    assert await claimed(build_id="v2") == []
    assert await claimed(build_id="v2", compatible_build_ids=["v1"]) == [run_id]


async def test_a_session_resumed_under_another_build_loses_its_runs(one: Replica) -> None:
    async with builder(one, "v1") as old:
        run_id, code = await begun(one, old)
        await old.cut()
        greeting = hello("other", session_id=old.welcome.session_id, held=[code.task.ref], build_id="v2")
        greeting.capacity.CopyFrom(capacity(runs=10))
        again = await Wire(one, greeting).open()
        assert not again.welcome.held
        await waits(one, run_id, Reason.REASON_NO_BUILD)
        assert not again.got.get("assigns")
        await again.cut()


async def test_news_of_a_pinned_run_reaches_its_build_on_another_replica(two: Two) -> None:
    async with builder(two[0], "v1", resident=0) as old:
        run_id, code = await begun(two[0], old)
        await code.wait(code.wait_for("go"))
        await leave(old)
    async with builder(two[0], "v2") as other, builder(two[1], "v1") as there:
        await two[0].signal(run_id, "go")
        await there.task(RUN, run_id=run_id)
        assert not other.got.get("assigns")


async def test_a_held_run_is_pinned_elsewhere_and_back_to_none(one: Replica) -> None:
    async with builder(one, "v1") as old:
        run_id, code = await begun(one, old)
        answer = await pin(one, "v2", run_id=run_id)
        assert (answer.accepted, answer.previous_build_id) == (True, "v1")
        revoked = await old.next("revokes")
        assert (revoked.ref, revoked.reason) == (code.task.ref, "RUN_PINNED")
        assert (await waits(one, run_id, Reason.REASON_NO_BUILD)).build_id == "v2"
        assert not (await pin(one, "v2", run_id=run_id)).accepted
        assert (await pin(one, "", run_id=run_id)).previous_build_id == "v2"
        assert (await old.task(RUN, run_id=run_id)).ref.token > code.task.ref.token
    assert await one.count(run_id, "RunPinned") == 2


async def test_a_run_that_is_pinned_before_it_begins_waits_for_that_build(one: Replica) -> None:
    run_id = await one.start(workflow_id="mine")
    assert (await pin(one, "v1", workflow_id="mine")).accepted
    async with builder(one, "v2") as other:
        await waits(one, run_id, Reason.REASON_NO_BUILD)
        async with builder(one, "v1") as stream:
            await stream.task(RUN, run_id=run_id)
        assert not other.got.get("assigns")


async def test_why_a_task_waits(one: Replica) -> None:
    run_id = await one.start()
    run = await waits(one, run_id, Reason.REASON_NO_WORKER)
    assert run.task_wait.details == "no live worker takes type wf from queue q"
    async with wire(one, "other", workflow_types=["other"], capacity=capacity(runs=1)) as other:
        await other.settled()
        assert (await one.run(run_id)).task_wait.reason == Reason.REASON_NO_WORKER
        async with builder(one, "v1", runs=0) as full:
            await waits(one, run_id, Reason.REASON_NO_ROOM)
            await full.say(capacity=capacity(runs=1))
            await full.task(RUN)
    listed = await one.runs.ListRuns(runs_pb2.ListRunsRequest())
    assert not any(each.HasField("task_wait") for each in listed.runs)


@pytest.mark.parametrize(
    ("compatible", "field"),
    [([f"v{n}" for n in range(17)], "compatible_build_ids"), (["v\0"], "compatible_build_ids[0]"), ([""], "[0]")],
)
async def test_builds_that_cannot_be_are_refused(shared: Replica, compatible: list[str], field: str) -> None:
    greeting = hello(build_id="v", compatible_build_ids=compatible)
    call = shared.workers.OpenSession(workers_pb2.OpenSessionRequest(hello=greeting))
    with pytest.raises(grpc.aio.AioRpcError, match=field.replace("[", r"\[")) as refused:
        await call
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_pin_that_cannot_be_is_refused(one: Replica) -> None:
    run_id = await one.start()
    for wrong in ("v\0", "v" * 256):
        assert await refusal(pin(one, wrong, run_id=run_id)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert await refusal(pin(one, "v1")) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    await one.namespace("other")
    assert (await refusal(pin(one, "v1", run_id=run_id, namespace="other")))[1] == "RUN_NOT_FOUND"
    await one.end(run_id)
    assert (await refusal(pin(one, "v1", run_id=run_id)))[1] == "RUN_TERMINAL"
