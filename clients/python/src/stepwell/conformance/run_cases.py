"""Runs: advanced, waiting in memory, evicted, replayed by another process; asked, cancelled, changed."""

from __future__ import annotations

import asyncio
import time

from stepwell.conformance.account import GRACE_SECONDS
from stepwell.conformance.cases import case
from stepwell.conformance.link import Link
from stepwell.conformance.session_cases import leaves
from stepwell.conformance.stage import Stage
from stepwell.conformance.tap import LIST_STEPS
from stepwell.errors import ServiceError, UpdateRejected
from stepwell.v1.workers_pb2 import ConnectResponse

_MANY = 10_000


@case("workflows", "runs")
async def runs(stage: Stage) -> None:
    """Local steps, activities side by side, a child, a durable sleep and a signal come to what they should."""
    counted = await stage.run("steps", {"count": 20})
    side_by_side = await stage.run("activities", {"count": 5, "type": "echo", "input": {"a": [1]}})
    parent = await stage.run("parent", {"count": 4})
    sleeper = await stage.run("sleeper", {"seconds": 0.2})
    waiter = await stage.run("waiter")
    await waiter.signal("go", {"payload": "ü"})
    errand = await stage.run("errand", {"key": "runs", "activities": 3, "seconds": 0.05})
    stage.same("steps returns the sum", 190, await stage.result(counted))
    stage.same("activities returns the results", [{"a": [1]}] * 5, await stage.result(side_by_side))
    stage.same("parent returns its child's result", 6, await stage.result(parent))
    stage.same("sleeper returns", "slept", await stage.result(sleeper))
    stage.same("waiter returns the signal's payload", {"payload": "ü"}, await stage.result(waiter))
    stage.same("errand returns the count", 3, await stage.result(errand))
    keys = sorted(line["key"] for line in stage.ledger("runs"))
    stage.same("the errand's effects", ["runs/0", "runs/1", "runs/2"], keys)


@case("workflows", "fields")
async def one_progress_at_a_time(stage: Stage) -> None:
    """However long its answer takes, a run's next Progress is not sent before it."""
    stage.tap.delay = 0.05
    run = await stage.run("steps", {"count": 10})
    several = await stage.run("activities", {"count": 4, "type": "echo", "input": 1})
    stage.same("the sum", 45, await stage.result(run))
    stage.same("the results", [1] * 4, await stage.result(several))


@case("workflows", "capacity", max_runs=2, max_resident=3)
async def capacity_of_runs(stage: Stage) -> None:
    """Of eight runs that wait no more than two are in work and three in memory; the others are dropped, and end too."""
    runs = [await stage.run("waiter") for _ in range(8)]
    watching = asyncio.create_task(_watch(stage))
    try:
        await stage.waits(*runs)
        await stage.until(lambda: not stage.tap.account.runs(), "no run is in work any more")
        stage.same("runs in memory", 3, len(stage.tap.account.resident()))
        for number, run in enumerate(runs):
            await run.signal("go", number)
        for number, run in enumerate(runs):
            stage.same("the signal's payload", number, await stage.result(run))
    finally:
        watching.cancel()


async def _watch(stage: Stage) -> None:
    """Notes when for longer than news are on their way more is held than was stated."""
    account = stage.tap.account
    since = time.monotonic()
    while True:
        in_work, resident = len(account.runs()), len(account.resident())
        if in_work <= account.limits.runs and resident <= account.limits.resident:
            since = time.monotonic()
        elif time.monotonic() - since > GRACE_SECONDS:
            limits = f"at most {account.limits.runs} runs in work and {account.limits.resident} in memory"
            account.violated(limits, f"{in_work} and {resident}", "capacity")
            return
        await asyncio.sleep(0.02)


@case("workflows", "dropped", max_resident=1)
async def eviction(stage: Stage) -> None:
    """Of two runs that wait with room for one, the other is evicted, and goes on from its record when there is news."""
    runs = [await stage.run("ordered") for _ in range(2)]
    await stage.waits(*runs)

    def evicted() -> bool:
        return any(revoke.reason == "EVICTED" for told in stage.told() for revoke in told.revokes)

    await stage.until(evicted, "one of them is evicted")
    await stage.forgets()
    for run in runs:
        await run.signal("go")
    for run in runs:
        stage.same("ordered returns", "ordered", await stage.result(run))
    attempts = [grant.task.attempt for run in runs if (grant := stage.grant(run))]
    stage.true(max(attempts) > 1, "one of them was given out again", f"attempts {attempts}")


@case("workflows", "hash", max_resident=0)
async def replays(stage: Stage) -> None:
    """With no room for a waiting run each piece of news is a replay from the record, which the code agrees with."""
    errand = await stage.run("errand", {"key": "replays", "activities": 3, "seconds": 0.05})
    parent = await stage.run("parent", {"count": 3})
    sleeper = await stage.run("sleeper", {"seconds": 0.1})
    several = await stage.run("activities", {"count": 5, "type": "echo", "input": 1})
    stage.same("errand returns the count", 3, await stage.result(errand))
    stage.same("parent returns its child's result", 3, await stage.result(parent))
    stage.same("sleeper returns", "slept", await stage.result(sleeper))
    stage.same("activities returns the results", [1] * 5, await stage.result(several))
    stage.same("the errand's effects", 3, len(stage.ledger("replays")))


@case("workflows", "sessions")
async def resume_with_runs(stage: Stage) -> None:
    """Runs that wait in memory stay there when the stream moves to another replica, and go on without a replay."""
    former = stage.link
    runs = [await stage.run("ordered") for _ in range(3)]
    for run in runs:
        await stage.resident(run)
    stage.tap.move()
    stage.tap.cut()
    await stage.next_link(former)
    for run in runs:
        await run.signal("go")
    for run in runs:
        stage.same("ordered returns", "ordered", await stage.result(run))
        grant = stage.grant(run)
        stage.same("times that it was given out", 1, grant.task.attempt if grant else 0)


@case("workflows", "leaving", is_alone=True)
async def another_process(stage: Stage) -> None:
    """A run that a worker had begun is replayed and ended by the next process of the same program."""
    run = await stage.run("ordered")
    errand = await stage.run("errand", {"key": "moved", "activities": 2, "seconds": 2.0})
    await stage.resident(run)
    await stage.until(lambda: len(stage.ledger("moved")) == 2, "the errand's activities have begun")
    stage.program.terminate()
    await leaves(stage)
    await stage.start()
    await run.signal("go")
    stage.same("ordered returns", "ordered", await stage.result(run))
    stage.same("errand returns the count", 2, await stage.result(errand))
    stage.same("the errand's effects", 2, len(stage.ledger("moved")))


@case("workflows", "losses", is_alone=True)
async def killed(stage: Stage) -> None:
    """What a killed worker held comes back when its session is over, and is ended by the next process."""
    run = await stage.run("ordered")
    errand = await stage.run("errand", {"key": "killed", "activities": 2, "seconds": 1.0})
    await stage.resident(run)
    await stage.until(lambda: stage.ledger("killed"), "the errand's activities have begun")
    await stage.program.kill()
    await stage.start()
    await run.signal("go")
    stage.same("ordered returns", "ordered", await stage.result(run))
    stage.same("errand returns the count", 2, await stage.result(errand))


@case("workflows", "queries")
async def queries(stage: Stage) -> None:
    """A query is answered from memory, as is, with a failure, one that the code does not have."""
    run = await stage.run("asked")
    await stage.resident(run)
    try:
        answer = await run.query("state", wait=stage.patience / 2)
    except ServiceError as error:
        stage.fail("an answer", f"{type(error).__name__}: {error}")
    stage.same("the answer", {"waiting": True}, answer.value)
    stage.same("it is live", True, answer.is_live)  # noqa: FBT003 - the value that is seen
    try:
        odd = await run.query("no-such-query", wait=8)
    except ServiceError as error:
        stage.same("the reason of the refusal", "QUERY_FAILED", error.reason)
    else:
        stage.fail("a failure", repr(odd.value))
    await run.signal("go")
    stage.same("asked returns", "done", await stage.result(run))


@case("workflows", "updates")
async def updates(stage: Stage) -> None:
    """An update that the code does not have is rejected, so that nobody waits for it."""
    run = await stage.run("waiter")
    await stage.resident(run)
    try:
        async with asyncio.timeout(10):
            value = await run.update("no-such-update", 1)
    except UpdateRejected:
        pass
    except (ServiceError, TimeoutError) as error:
        stage.fail("a rejection", f"{type(error).__name__}: {error}")
    else:
        stage.fail("a rejection", repr(value))
    await run.signal("go", 1)
    stage.same("the signal's payload", 1, await stage.result(run))


@case("workflows", "cancellation")
async def cancellation_of_a_run(stage: Stage) -> None:
    """A run that is asked to cancel hears of it where it waits, cleans up with an activity, and ends cancelled."""
    run = await stage.run("cleaner")
    await stage.resident(run)
    await run.cancel("enough")
    await stage.failure(run, "CANCELLED")
    done = [(step.name, step.state) async for step in run.steps() if step.name == "echo"]
    stage.same("the step of the clean-up", [("echo", 4)], done)


@case("workflows", "cancellation")
async def cancellation_of_a_run_with_activities(stage: Stage) -> None:
    """A run that is asked to cancel while its activities are in work ends cancelled, and they are stopped."""
    run = await stage.run("activities", {"count": 2, "type": "hold", "input": {"seconds": 60}})

    def performed() -> bool:
        return sum(each.is_known and each.task.type == "hold" for each in stage.tap.account.activities()) == 2

    await stage.until(performed, "the worker takes both activities")
    await run.cancel("enough")
    await stage.failure(run, "CANCELLED")
    await stage.until(lambda: not stage.tap.account.held(), "both are stopped and reported", seconds=10)


@case("workflows", "fields")
async def ended_run(stage: Stage) -> None:
    """A run that was terminated is revoked: it is dropped, and nothing is reported of it."""
    run = await stage.run("waiter")
    grant = await stage.resident(run)
    sent = len(stage.reports(grant.task.ref))
    await run.terminate("enough")
    await stage.failure(run, "TERMINATED")
    await stage.until(lambda: grant.ended is not None, "the worker is told so")
    await stage.forgets()
    stage.same("reports after it", 0, len(stage.reports(grant.task.ref)) - sent)


@case("workflows", "dropped")
async def unknown_workflow(stage: Stage) -> None:
    """A run of a type that the worker does not have is given back, and the worker goes on."""
    tampered: list[object] = []

    def tamper(_: Link, message: ConnectResponse) -> None:
        for task in message.assigns:
            if not tampered:
                tampered.append(task.ref)
                task.type = "no-such-type"

    stage.tap.on_response.append(tamper)
    run = await stage.run("steps", {"count": 3})
    stage.same("the sum, once the type is known", 3, await stage.result(run))


@case("workflows", "hash", is_alone=True)
async def changed_order(stage: Stage) -> None:
    """Code that was changed no longer fits the record: the run is paused, and the worker goes on with others."""
    run = await stage.run("ordered")
    await stage.resident(run)
    stage.program.terminate()
    await leaves(stage)
    await stage.start(STEPWELL_VARIANT="changed")
    await run.signal("go")

    async def paused() -> object:
        found = await run.describe()
        return found.pause.reason == "ORDER_CHANGED"

    await stage.until(paused, "the run is paused with the reason ORDER_CHANGED")
    grant = stage.grant(run)
    await stage.until(lambda: grant is None or grant.ended is not None, "the worker is told that it was refused")
    other = await stage.run("ordered")
    await other.signal("go")
    stage.same("a run that the changed code began itself returns", "ordered", await stage.result(other))


@case("workflows", "runs", is_alone=True, is_long=True, seconds=400)
async def ten_thousand_steps(stage: Stage) -> None:
    """A run of 10,000 steps is killed near its end, read by pages and replayed by another process, and completes."""
    run = await stage.run("steps", {"count": _MANY})
    recorded = _Recorded(stage)
    await stage.until(lambda: recorded.count() > _MANY * 9 // 10, "nine tenths of the steps are recorded", seconds=300)
    await stage.program.kill()
    await stage.start()
    stage.same("the sum", _MANY * (_MANY - 1) // 2, await stage.result(run, 120))
    pages = stage.tap.calls[LIST_STEPS]
    stage.true(pages > 0, "pages of steps that the task had no room for are read", "none was")


class _Recorded:
    """How many steps the worker has been told to be recorded."""

    def __init__(self, stage: Stage) -> None:
        self._count = 0
        stage.tap.on_response.append(self._see)

    def count(self) -> int:
        return self._count

    def _see(self, _: Link, message: ConnectResponse) -> None:
        self._count += sum(len(result.ordinals) for result in message.results)
