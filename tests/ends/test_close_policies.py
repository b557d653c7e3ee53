"""What becomes of children when their parent ends first: by the policy that each was started with, however it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.ends.conftest import Advance, Working
from tests.mending.kit import QUEUE, suspended
from tests.stream.code import Code
from tests.stream.kit import ACCEPTED, RUN, SECONDS, Replica, capacity, payload, until
from tests.stream.wire import Wire, wire

from stepwell import Client, Context, RunCancelled, RunHandle, workflow
from stepwell.v1 import runs_pb2, types_pb2, workers_pb2

MINUTE = 60
POLICIES = ("TERMINATE", "REQUEST_CANCEL", "ABANDON")
COMPLETED, TERMINATED = types_pb2.RUN_PHASE_COMPLETED, types_pb2.RUN_PHASE_TERMINATED
FAIL = workers_pb2.FailRun(failure=types_pb2.Failure(message="no"))
AGAIN: Any = types_pb2.RetryPolicy(maximum_attempts=2)
AT_ONCE: Any = types_pb2.RetryPolicy(initial_interval={"seconds": 0}, maximum_attempts=2)  # type: ignore[arg-type]


@dataclass
class Scene:
    """A parent whose code is at work, and what may end it."""

    one: Replica
    code: Code
    advance: Advance

    async def tells(self, **end: Any) -> None:
        assert (await self.code.tell(**end)).status == ACCEPTED

    async def terminates(self) -> None:
        await self.one.end(self.code.task.run_id)


@dataclass
class Ending:
    """A way to end a parent, how it was started for that, and the phase that it ends in."""

    end: Callable[[Scene], Awaitable[None]]
    phase: str
    fields: dict[str, Any]
    reason: str = "parent ended"


ENDINGS = {
    "completes": Ending(lambda scene: scene.tells(complete=workers_pb2.CompleteRun()), "COMPLETED", {}),
    "fails": Ending(lambda scene: scene.tells(fail=FAIL), "FAILED", {}),
    "cancels": Ending(lambda scene: scene.tells(cancelled=workers_pb2.CancelledRun()), "CANCELLED", {}),
    "continues": Ending(lambda scene: scene.tells(continue_as_new=workers_pb2.ContinueAsNew()), "COMPLETED", {}),
    "is terminated": Ending(Scene.terminates, "TERMINATED", {}),
    "times out": Ending(lambda scene: scene.advance(MINUTE), "TIMED_OUT", {"run_timeout": {"seconds": MINUTE}}),
    "takes too long": Ending(
        lambda scene: scene.advance(MINUTE),
        "CANCELLED",
        {"cancellation_policy": {"maximum_run_duration": {"seconds": MINUTE}}},
    ),
    "begins anew": Ending(
        lambda scene: scene.tells(fail=FAIL),
        "PENDING",
        {"retry": AGAIN},
        "parent gave it up: attempt 1 of the run failed",
    ),
}


def child_of(code: Code, policy: str) -> workers_pb2.NewStep:
    chosen = types_pb2.ParentClosePolicy.Value(f"PARENT_CLOSE_POLICY_{policy}")
    return code.step(policy, child=workers_pb2.ChildStep(type="kid", task_queue="kids", parent_close_policy=chosen))


async def named(stream: Wire, children: dict[str, str]) -> dict[str, workers_pb2.Task]:
    """The children's tasks, by their policies."""
    tasks = {policy: await stream.task(RUN, run_id=run_id) for policy, run_id in children.items()}
    assert len({task.ref.task_id for task in tasks.values()}) == len(POLICIES)
    return tasks


async def started(one: Replica, code: Code) -> dict[str, str]:
    """The parent's children, by their policies."""
    assert (await code.tell(*(child_of(code, policy) for policy in POLICIES))).status == ACCEPTED
    request = runs_pb2.ListRunStepsRequest(run_id=code.task.run_id)
    steps = (await one.runs.ListRunSteps(request, timeout=SECONDS)).steps
    return {step.name: step.child_run_id for step in steps}


async def _end(one: Replica, run_id: str) -> str:
    """How a run ended, once it has."""
    run = await until(lambda: one.run(run_id), lambda run: run.HasField("end_time"))
    return types_pb2.RunPhase.Name(run.phase).removeprefix("RUN_PHASE_")


async def mail_left(one: Replica) -> int:
    async with one.service.dispatcher.reader.connection() as connection:
        found: int = await connection.raw.fetchval("SELECT count(*) FROM mail")
        return found


@pytest.mark.parametrize("way", ENDINGS)
async def test_a_parents_end(one: Replica, advance: Advance, way: str) -> None:
    """One child is terminated, one asked to cancel, and one goes on; its end then concerns nobody."""
    ending = ENDINGS[way]
    run_id = await one.start(**ending.fields)
    kids: dict[str, Any] = {"task_queues": ["kids"], "workflow_types": ["kid"], "capacity": capacity(runs=3)}
    async with wire(one, capacity=capacity(runs=1)) as stream, wire(one, "nurse", **kids) as nurse:
        code = Code(stream, await stream.task(RUN))
        children = await started(one, code)
        tasks = await named(nurse, children)
        await ending.end(Scene(one, code, advance))
        revoke = await nurse.next("revokes")
        assert (revoke.ref, revoke.reason) == (tasks["TERMINATE"].ref, "RUN_ENDED")
        advanced = await nurse.next("advances", lambda news: news.cancel_requested)
        assert (advanced.ref, advanced.cancel_reason) == (tasks["REQUEST_CANCEL"].ref, ending.reason)
        assert (await one.run(run_id)).phase == types_pb2.RunPhase.Value(f"RUN_PHASE_{ending.phase}")
        assert (await one.run(children["TERMINATE"])).phase == TERMINATED
        details = workers_pb2.CancelledRun(details=payload("clean"))
        assert (await Code(nurse, tasks["REQUEST_CANCEL"]).tell(cancelled=details)).status == ACCEPTED
        assert not (await one.run(children["ABANDON"])).HasField("cancel_request")
        assert (await Code(nurse, tasks["ABANDON"]).complete(value=1)).status == ACCEPTED
        assert (await one.run(children["ABANDON"])).phase == COMPLETED
    await until(lambda: mail_left(one), lambda found: found == 0)
    kinds = [event.type for event in await one.events(run_id)]
    assert (kinds.count("ChildStarted"), kinds.count("ChildCancelled"), kinds.count("ChildCompleted")) == (3, 3, 0)


async def test_children_that_nobody_has_begun(one: Replica) -> None:
    """Who is asked to cancel before anybody had it is cancelled at once; the abandoned one waits on for a worker."""
    await one.start()
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        children = await started(one, code)
        assert (await code.complete()).status == ACCEPTED
    assert await _end(one, children["TERMINATE"]) == "TERMINATED"
    assert await _end(one, children["REQUEST_CANCEL"]) == "CANCELLED"
    assert (await one.run(children["ABANDON"])).phase == types_pb2.RUN_PHASE_PENDING
    assert await one.waiting() == 1


async def test_orders_go_down_the_family(one: Replica, client: Client, working: Working) -> None:
    """Termination and requests to cancel reach the children's children, each by its own policy."""
    cleaned: list[str] = []

    @workflow(name="leaf")
    async def leaf(ctx: Context, name: str) -> None:
        try:
            await ctx.wait_signal("never")
        except RunCancelled:
            cleaned.append(name)
            raise

    @workflow(name="branch")
    async def branch(ctx: Context, name: str) -> None:
        await ctx.child(leaf, name, parent_close="cancel", workflow_id=f"leaf {name}")

    @workflow(name="root")
    async def root(ctx: Context) -> None:
        await ctx.gather(
            ctx.child(branch, "terminated", workflow_id="branch terminated"),
            ctx.child(branch, "cancelled", parent_close="cancel", workflow_id="branch cancelled"),
            ctx.child(leaf, "abandoned", parent_close="abandon", workflow_id="leaf abandoned"),
        )

    handle = await client.start_run(root, task_queue=QUEUE)
    names = ["leaf terminated", "leaf cancelled", "leaf abandoned", "branch terminated", "branch cancelled"]
    async with working(root, branch, leaf):
        runs: dict[str, RunHandle[Any]] = {name: client.run(workflow_id=name) for name in names}
        await until(lambda: _count(client), lambda found: found == len(names) + 1)
        for name in names:
            await suspended(runs[name])
        await handle.terminate("enough")
        ids = {name: (await runs[name].describe()).run_id for name in names}
        ends = {name: await _end(one, ids[name]) for name in names if name != "leaf abandoned"}
        assert ends == {
            "branch terminated": "TERMINATED",
            "leaf terminated": "CANCELLED",
            "branch cancelled": "CANCELLED",
            "leaf cancelled": "CANCELLED",
        }
        assert (await runs["leaf abandoned"].describe()).phase == types_pb2.RUN_PHASE_SUSPENDED
    assert sorted(cleaned) == ["cancelled", "terminated"]


async def _count(client: Client) -> int:
    return len([run async for run in client.list_runs()])


async def test_a_child_of_a_failed_attempt_makes_way_for_the_next(one: Replica) -> None:
    """The next attempt starts one of the same name: it replaces the former, which is not this attempt's any more."""
    run_id = await one.start(retry=AT_ONCE)
    kid = workers_pb2.ChildStep(
        type="kid",
        workflow_id="kid",
        parent_close_policy=types_pb2.PARENT_CLOSE_POLICY_ABANDON,
        conflict_policy=runs_pb2.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING,
    )
    async with wire(one, workflow_types=["wf", "kid"], capacity=capacity(runs=3)) as stream:
        code = Code(stream, await stream.task(RUN, run_id=run_id))
        assert (await code.tell(code.step("kid", child=kid))).status == ACCEPTED
        former = await stream.task(RUN)
        assert (await code.tell(fail=FAIL)).status == ACCEPTED
        code = Code(stream, await stream.task(RUN, run_id=run_id))
        assert (await code.wait(code.step("kid", child=kid))).status == ACCEPTED
        assert (await stream.next("revokes", lambda revoke: revoke.ref == former.ref)).reason == "RUN_ENDED"
        latter = await stream.task(RUN)
        assert (await Code(stream, latter).complete(value=2)).status == ACCEPTED
        (record,) = (await code.advance()).steps
        assert (record.result.json, record.child_run_id) == ("2", latter.run_id)
        assert (await code.complete()).status == ACCEPTED
    kinds = [event.type for event in await one.events(run_id)]
    assert (kinds.count("ChildStarted"), kinds.count("ChildCancelled"), kinds.count("ChildCompleted")) == (2, 1, 1)
