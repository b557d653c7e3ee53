"""A run that is replaced under its worker's hands, by a start or by another run's child."""

from __future__ import annotations

from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, ACTIVITY, RUN, Replica, capacity, error_reason, until
from tests.stream.wire import wire

from stepwell.v1 import runs_pb2, types_pb2, workers_pb2

REPLACE = runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING


def child(code: Code, **fields: object) -> workers_pb2.NewStep:
    step = workers_pb2.ChildStep(type="wf", workflow_id="w", **fields)  # type: ignore[arg-type]
    return code.step("child", child=step)


async def test_who_holds_the_old_run_loses_it(two: tuple[Replica, Replica]) -> None:
    """On whatever replica the new one is started: revoked, its activity cancelled, its progress refused."""
    left, right = two
    await left.start(workflow_id="w")
    async with wire(left, capacity=capacity(runs=1, activities=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.tell(code.activity())
        activity = await stream.task(ACTIVITY)
        late = code.progress(code.activity())
        after = await right.start(workflow_id="w", conflict_policy=REPLACE)
        revoke = await stream.next("revokes", lambda told: told.ref == code.task.ref)
        assert revoke.reason == "RUN_ENDED"
        assert (await stream.next("cancels")).ref == activity.ref
        assert error_reason(await stream.report(code.task.ref, progress=late)) == "LEASE_LOST"
        assert (await stream.task(RUN)).run_id == after
    assert await left.count(code.task.run_id, "ActivityScheduled") == 1


async def test_a_child_replaces_the_open_run_of_its_name(one: Replica) -> None:
    """Its parent goes on with the new one; the old one's parent hears that its child was terminated."""
    async with wire(one, capacity=capacity(runs=4)) as stream:
        await one.start()
        first = Code(stream, await stream.task(RUN))
        (ordinal,) = (await first.wait(child(first))).ordinals
        old = await stream.task(RUN)
        await one.start()
        second = Code(stream, await stream.task(RUN))
        assert (await second.wait(child(second, conflict_policy=REPLACE))).status == ACCEPTED
        (ended,) = (await first.advance()).steps
        assert (ended.ordinal, ended.state, ended.failure.type) == (ordinal, types_pb2.STEP_STATE_FAILED, "Terminated")
        assert (await stream.next("revokes")).ref == old.ref
        new = Code(stream, await stream.task(RUN))
        await new.complete(value=1)
        (ended,) = (await second.advance()).steps
        assert ended.state == types_pb2.STEP_STATE_COMPLETED
    request = runs_pb2.GetRunRequest(run_id=old.run_id)
    replaced = (await one.runs.GetRun(request)).run
    assert replaced.failure.message == f"replaced by run {new.task.run_id}"


async def test_a_child_can_t_be_what_its_parent_has_not_started(one: Replica) -> None:
    """USE_EXISTING, and what contradicts itself, are refused; the run is still held."""
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        task = await stream.task(RUN)
        for fields in (
            {"conflict_policy": runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING},
            {"conflict_policy": REPLACE, "reuse_policy": runs_pb2.WORKFLOW_ID_REUSE_POLICY_REJECT},
            {"reuse_policy": 17},
        ):
            code = Code(stream, task)
            assert error_reason(await code.tell(child(code, **fields))) == "INVALID_FIELD"
        code = Code(stream, task)
        assert (await code.complete()).status == ACCEPTED
        await until(lambda: one.count(task.run_id, "RunCompleted"))
