"""stem's `PostgresWorkflowStore`, a case for each method."""

from __future__ import annotations

from typing import Any

from tests.api.stores import CANCELLED, COMPLETED, FAILED, RUNNING, SUSPENDED, at, json, span
from tests.parity.cases import Engine, answers

from stepwell.v1 import mirrors_pb2

TRAIT = mirrors_pb2.TRAIT_STEM_WORKFLOW_STORE


async def read(engine: Engine, run_id: str) -> Any:
    return (await engine.call("ReadRun", run_id=run_id)).run


async def saved(engine: Engine, *names: str) -> str:
    """A run with checkpoints of those names."""
    run_id = await engine.create()
    for name in names:
        await engine.call("SaveStep", run_id=run_id, step_name=name, value=json(f'"{name}"'))
    return run_id


@answers(TRAIT, "createRun")
async def test_create_run(engine: Engine) -> None:
    run_id = "01890a5d-ac96-774b-bcce-b302099a8057"
    created = await engine.call("CreateRun", run_id=run_id, type="flow", input=json("{}"), initial_phase=RUNNING)
    assert (created.run_id, created.created) == (run_id, True)


@answers(TRAIT, "get")
async def test_get(engine: Engine) -> None:
    run_id = await engine.create(input=json("[1]"))
    run = await read(engine, run_id)
    assert (run.run_id, run.type, run.phase, run.input.json, run.cursor) == (run_id, "t", RUNNING, "[1]", 0)
    unknown = await engine.call("ReadRun", run_id="01890a5d-ac96-774b-bcce-b302099a8057")
    assert not unknown.found


@answers(TRAIT, "claimRun")
async def test_claim_run(engine: Engine) -> None:
    run_id = await engine.create()
    claim = await engine.call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(5), now=at(0))
    assert (claim.claimed, claim.lease_expire_time) == (True, at(5))
    assert not (await engine.call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(5), now=at(1))).claimed
    assert (await engine.call("ClaimRun", run_id=run_id, owner_id="b", lease_duration=span(5), now=at(6))).claimed


@answers(TRAIT, "renewRunLease")
async def test_renew_run_lease(engine: Engine) -> None:
    run_id = await engine.create()
    claim = await engine.call("ClaimRun", run_id=run_id, owner_id="a", lease_duration=span(5), now=at(0))
    asked = {"run_id": run_id, "token": claim.token, "lease_duration": span(5), "now": at(3)}
    renewed = await engine.call("RenewRunLease", owner_id="a", **asked)
    assert (renewed.renewed, renewed.lease_expire_time) == (True, at(8))
    assert not (await engine.call("RenewRunLease", owner_id="c", **asked)).renewed


@answers(TRAIT, "releaseRun")
async def test_release_run(engine: Engine) -> None:
    run_id = await engine.create()
    await engine.call("ClaimRun", run_id=run_id, owner_id="a")
    assert not (await engine.call("ReleaseRun", run_id=run_id, owner_id="b")).released
    assert (await engine.call("ReleaseRun", run_id=run_id, owner_id="a")).released
    assert (await engine.call("ClaimRun", run_id=run_id, owner_id="b")).claimed


@answers(TRAIT, "markRunning")
async def test_mark_running(engine: Engine) -> None:
    run_id = await engine.create()
    await engine.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(9), data=json("1"))
    assert (await engine.call("MarkRunRunning", run_id=run_id, step_name="s")).changed
    run = await read(engine, run_id)
    assert (run.phase, run.HasField("wake_time"), run.suspension_data.json) == (RUNNING, False, "1")


@answers(TRAIT, "markCompleted")
async def test_mark_completed(engine: Engine) -> None:
    run_id = await engine.create()
    assert (await engine.call("MarkRunCompleted", run_id=run_id, result=json("42"))).run_id == run_id
    run = await read(engine, run_id)
    assert (run.phase, run.result.json) == (COMPLETED, "42")


@answers(TRAIT, "markFailed")
async def test_mark_failed(engine: Engine) -> None:
    run_id = await engine.create()
    failure = {"message": "boom", "stack_trace": "here"}
    assert (await engine.call("MarkRunFailed", run_id=run_id, failure=failure)).phase == RUNNING
    assert (await read(engine, run_id)).failure.message == "boom"
    assert (await engine.call("MarkRunFailed", run_id=run_id, failure=failure, terminal=True)).phase == FAILED


@answers(TRAIT, "markResumed")
async def test_mark_resumed(engine: Engine) -> None:
    run_id = await engine.create()
    await engine.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(0))
    assert (await engine.call("ResumeRunWith", run_id=run_id, data=json("true"))).resumed
    run = await read(engine, run_id)
    assert (run.phase, run.suspension_data.json) == (RUNNING, "true")


@answers(TRAIT, "suspendUntil")
async def test_suspend_until(engine: Engine) -> None:
    run_id = await engine.create()
    suspended = await engine.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(7), data=json("1"))
    assert suspended.run_id == run_id
    run = await read(engine, run_id)
    assert (run.phase, run.wake_time, run.active_step, run.suspension_data.json) == (SUSPENDED, at(7), "s", "1")


@answers(TRAIT, "dueRuns")
async def test_due_runs(engine: Engine) -> None:
    """Each once, until its hand-out is over."""
    run_id = await engine.create()
    await engine.call("SuspendRun", run_id=run_id, step_name="s", wake_time=at(0))
    assert [run.run_id for run in (await engine.call("TakeDueRuns", now=at(1))).runs] == [run_id]
    assert list((await engine.call("TakeDueRuns", now=at(1))).runs) == []


@answers(TRAIT, "suspendOnTopic")
async def test_suspend_on_topic(engine: Engine) -> None:
    run_id = await engine.create()
    suspended = await engine.call("SuspendOnTopic", run_id=run_id, step_name="s", topic="paid", deadline=at(9))
    assert suspended.run_id == run_id
    run = await read(engine, run_id)
    assert (run.phase, run.wait_topic, run.wake_time) == (SUSPENDED, "paid", at(9))


@answers(TRAIT, "registerWatcher")
async def test_register_watcher(engine: Engine) -> None:
    run_id = await engine.create()
    waiting = await engine.call("RegisterWatcher", run_id=run_id, step_name="s", topic="paid", data=json("1"))
    assert waiting.run_id == run_id
    assert (await read(engine, run_id)).wait_topic == "paid"


@answers(TRAIT, "listWatchers")
async def test_list_watchers(engine: Engine) -> None:
    run_id = await engine.create()
    await engine.call("RegisterWatcher", run_id=run_id, step_name="s", topic="paid", deadline=at(9), data=json("1"))
    (watcher,) = await engine.pages("ListWatchers", "watchers", topic="paid")
    assert (watcher.run_id, watcher.step_name, watcher.deadline, watcher.data.json) == (run_id, "s", at(9), "1")


@answers(TRAIT, "resolveWatchers")
async def test_resolve_watchers(engine: Engine) -> None:
    run_id = await engine.create()
    await engine.call("RegisterWatcher", run_id=run_id, step_name="s", topic="paid")
    (resolution,) = (await engine.call("ResolveWatchers", topic="paid", payload=json("42"))).resolutions
    assert (resolution.run_id, resolution.step_name) == (run_id, "s")
    run = await read(engine, run_id)
    assert (run.phase, run.wake.topic, run.wake.payload.json) == (RUNNING, "paid", "42")
    assert list((await engine.call("ResolveWatchers", topic="paid")).resolutions) == []


@answers(TRAIT, "runsWaitingOn")
async def test_runs_waiting_on(engine: Engine) -> None:
    run_id = await engine.create("w1")
    await engine.create("w2")
    await engine.call("SuspendOnTopic", run_id=run_id, step_name="s", topic="paid")
    (waiting,) = await engine.pages("ListRunsWaitingOn", "runs", topic="paid")
    assert (waiting.run_id, waiting.workflow_id) == (run_id, "w1")


@answers(TRAIT, "cancel")
async def test_cancel(engine: Engine) -> None:
    run_id = await engine.create()
    cancelled = await engine.call("CancelDrivenRun", run_id=run_id, reason="maxRunDuration")
    assert (cancelled.accepted, cancelled.phase) == (True, CANCELLED)
    assert (await read(engine, run_id)).cancel_request.reason == "maxRunDuration"
    assert not (await engine.call("CancelDrivenRun", run_id=run_id)).accepted


@answers(TRAIT, "rewindToStep")
async def test_rewind_to_step(engine: Engine) -> None:
    run_id = await saved(engine, "a", "repeat#0", "repeat#1", "tail")
    rewound = await engine.call("RewindToStep", run_id=run_id, step_name="repeat")
    assert (rewound.rewound, rewound.removed_count) == (True, 3)
    assert [step.name for step in await engine.pages("ListSteps", "steps", run_id=run_id)] == ["a"]
    assert (await read(engine, run_id)).phase == SUSPENDED


@answers(TRAIT, "saveStep")
async def test_save_step(engine: Engine) -> None:
    run_id = await engine.create()
    first = await engine.call("SaveStep", run_id=run_id, step_name="s", value=json("1"))
    again = await engine.call("SaveStep", run_id=run_id, step_name="s", value=json("2"))
    assert (first.replaced, again.replaced, again.step_number) == (False, True, first.step_number)
    assert (await engine.call("ReadStep", run_id=run_id, step_name="s")).value.json == "2"


@answers(TRAIT, "readStep")
async def test_read_step(engine: Engine) -> None:
    run_id = await saved(engine, "s")
    found = await engine.call("ReadStep", run_id=run_id, step_name="s")
    assert (found.found, found.value.json) == (True, '"s"')
    assert not (await engine.call("ReadStep", run_id=run_id, step_name="other")).found


@answers(TRAIT, "listSteps")
async def test_list_steps(engine: Engine) -> None:
    """As they were recorded, not by their names."""
    names = ["z", "step-10", "step-2", "repeat#9", "repeat#10"]
    run_id = await saved(engine, *names)
    steps = await engine.pages("ListSteps", "steps", run_id=run_id, page_size=2)
    assert [step.key or step.name for step in steps] == names
    assert [step.result.json for step in steps] == [f'"{name}"' for name in names]


@answers(TRAIT, "listRuns")
async def test_list_runs(engine: Engine) -> None:
    first, second = await engine.create("w1", type="a"), await engine.create("w2", type="b")
    await engine.call("MarkRunCompleted", run_id=first)
    assert [run.run_id for run in await engine.pages("ListDrivenRuns", "runs", page_size=1)] == [second, first]
    assert [run.run_id for run in await engine.pages("ListDrivenRuns", "runs", type="b")] == [second]
    assert [run.run_id for run in await engine.pages("ListDrivenRuns", "runs", phases=[COMPLETED])] == [first]


@answers(TRAIT, "listRunnableRuns")
async def test_list_runnable_runs(engine: Engine) -> None:
    """Neither what is suspended nor what somebody holds; the oldest first."""
    ids = [await engine.create(f"w{number}") for number in range(4)]
    await engine.call("SuspendRun", run_id=ids[0], step_name="s", wake_time=at(0))
    await engine.call("ClaimRun", run_id=ids[1], owner_id="a", lease_duration=span(5), now=at(0))
    runnable = await engine.pages("ListRunnableRuns", "runs", now=at(1), page_size=1)
    assert [run.run_id for run in runnable] == ids[2:]
    later = await engine.pages("ListRunnableRuns", "runs", now=at(6))
    assert [run.run_id for run in later] == ids[1:]
