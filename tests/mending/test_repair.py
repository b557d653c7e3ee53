"""Code that was changed on purpose: the record of its paused run is repaired, and it goes on where it was."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.mending.conftest import Working
from tests.mending.kit import QUEUE, described, happened, paused, recorded, stepwell, suspended

from stepwell import Client, Context, Rename, Skip, activity, errors, reasons, sync, workflow
from stepwell.cli.differences import repairs_of
from stepwell.v1 import repairs_pb2, runs_pb2, types_pb2

LOCAL, TIMER = types_pb2.STEP_KIND_LOCAL, types_pb2.STEP_KIND_TIMER
COMPLETED = types_pb2.RUN_PHASE_COMPLETED


class Effects:
    """What functions did in the outside world: lines of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def doing(self, name: str) -> Callable[[], str]:
        def do() -> str:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
            return f"{name} done"

        return do

    @property
    def lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    return Effects(tmp_path / "effects")


def release(effects: Effects, *names: str, branches: tuple[str, ...] = (), last: str = "last") -> Any:
    """A release of the code: its steps by name, then branches, then it waits, then a last step."""

    @workflow(name="flow")
    async def flow(ctx: Context) -> Any:
        said = [await ctx.step(name, effects.doing(name)) for name in names]
        said += await ctx.gather(*(ctx.step(name, effects.doing(name)) for name in branches)) if branches else []
        await ctx.wait_signal("go")
        return [*said, await ctx.step(last, effects.doing(last))]

    return flow


async def parked(client: Client, working: Working, code: Any) -> Any:
    """A run of that release that waits, and that nobody holds."""
    handle = await client.start_run(code, task_queue=QUEUE)
    async with working(code):
        await suspended(handle)
    return handle


async def test_a_renamed_step_is_not_done_again(client: Client, working: Working, effects: Effects) -> None:
    """The new code gets what the step came to under its former name; a worker that comes later agrees, too."""
    handle = await parked(client, working, release(effects, "a", "b", "c", branches=("x", "y")))
    later = release(effects, "a", "B", "c", branches=("x", "Y"))
    async with working(later):
        run = await paused(handle)
    assert run.pause.reason == "ORDER_CHANGED"
    response = await handle.repair(Rename("b", "B"), Rename("y", "Y", scope="2"), reason="release 2")
    assert (response.renamed_count, response.skipped_count, response.paused) == (2, 0, False)
    first = response.steps[0]
    assert (first.ordinal, first.name, first.new_name) == (2, "b", "B")
    before = effects.lines
    async with working(later):
        await suspended(handle)
    async with working(later):
        await handle.signal("go")
        assert await handle.result() == ["a done", "b done", "c done", "x done", "y done", "last done"]
    assert effects.lines == [*before, "last"]
    told = [event async for event in handle.history() if event.type == "RunRepaired"]
    assert [(dict(event.attributes), len(json.loads(event.payload.json))) for event in told] == [
        ({"renamed": "2", "reason": "release 2"}, 2)
    ]


async def test_a_skipped_step_is_passed_over(client: Client, working: Working, effects: Effects) -> None:
    """The code has it no more. What is rewound afterwards, and done again, fits the record as it is."""
    handle = await parked(client, working, release(effects, "a", "b", "b", "c"))
    await handle.signal("go")
    async with working(release(effects, "a", "b", "c")):
        run = await paused(handle)
        (found,) = run.pause.differences
        assert (found.agreeing, [fit.skip.step.ordinal for fit in found.fitting]) == (2, [3])
        before = effects.lines
        await handle.repair(Skip(3))
        assert await handle.result() == ["a done", "b done", "c done", "last done"]
        await handle.rewind("c")
        assert await handle.result() == ["a done", "b done", "c done", "last done"]
    assert effects.lines == [*before, "last", "c", "last"]
    assert (await happened(handle)).count("RunRepaired") == 1


async def test_a_name_that_the_branch_has_is_counted(client: Client, working: Working, effects: Effects) -> None:
    """Each call gets what was recorded in its place."""
    handle = await parked(client, working, release(effects, "a", "b", "a", "c"))
    async with working(release(effects, "a", "a", "a", "c")):
        run = await paused(handle)
        assert not run.pause.differences[0].fitting
        with pytest.raises(reasons.RepairDisagrees, match="got LOCAL a"):
            await handle.repair(Rename("b", "d"))
        response = await handle.repair(Rename("b", "a"))
        assert [(step.new_name, step.new_occurrence) for step in response.steps] == [("a", 1)]
        await handle.signal("go")
        assert await handle.result() == ["a done", "b done", "a done", "c done", "last done"]
    assert [step.occurrence async for step in handle.steps() if step.name == "a"] == [0, 1, 2]


@activity
async def never() -> None:
    raise AssertionError("nobody performs this")


def two_of(effects: Effects, kept: str, gone: str) -> Any:
    @workflow(name="two")
    async def flow(ctx: Context) -> Any:
        calls = [ctx.sleep(3600, name=kept), *([ctx.activity(never, name=gone)] if gone else [])]
        await ctx.gather(*calls)

    return flow


async def test_what_is_open_is_renamed_or_given_up(client: Client, working: Working, effects: Effects) -> None:
    """A timer goes on under its new name; an activity that nobody calls any more is cancelled, and waits no longer."""
    code = two_of(effects, "nap", "never")
    handle = await client.start_run(code, task_queue=QUEUE)
    async with working(code):
        await suspended(handle)
    nap, queued = [step async for step in handle.steps()]
    assert queued.state == types_pb2.STEP_STATE_PENDING
    await handle.pause("release")
    response = await handle.repair(Rename(nap.ordinal, "rest"), Skip("never", every=True))
    assert response.paused
    (rest,) = [step async for step in handle.steps()]
    assert (rest.name, rest.ordinal, rest.kind) == ("rest", nap.ordinal, TIMER)
    assert rest.create_time == nap.create_time
    assert (await happened(handle)).count("ActivityCancelled") == 1
    await handle.resume()
    async with working(two_of(effects, "rest", "")):
        assert (await suspended(handle)).pause.reason == ""
        assert [name for _, name, _ in await recorded(handle)] == ["rest"]
        await handle.terminate()


async def test_the_command_shows_what_fits_and_does_it(client: Client, working: Working, effects: Effects) -> None:
    """`run show` names the next command; its words work as they stand, and so do names in place of numbers."""
    handle = await parked(client, working, release(effects, "a", "b", "c", branches=("x", "x")))
    async with working(release(effects, "a", "B", "c", branches=("x", "x"))):
        await paused(handle)
    command = await shown_repair(client, handle)
    assert command == ["run", "repair", handle.run_id, "--rename", "2=B"]
    printed = await stepwell(client, *command)
    assert printed.startswith(f"run {handle.run_id} is RUNNING; renamed: 2 b is B")
    await handle.signal("go")
    async with working(release(effects, "a", "B", branches=("z", "z"))):
        # Which branches the worker has told of by then, its threads decide.
        while (await described(handle, is_paused_or_over)).phase < COMPLETED:
            await stepwell(client, *await shown_repair(client, handle))
    assert await handle.result() == ["a done", "b done", "x done", "x done", "last done"]
    assert [name for _, name, _ in await recorded(handle)] == ["a", "B", "z", "z", "go", "last"]


def is_paused_or_over(run: runs_pb2.Run) -> bool:
    return run.HasField("pause") or run.HasField("end_time")


async def shown_repair(client: Client, handle: Any) -> list[str]:
    """The command that `run show` proposes."""
    shown = await stepwell(client, "run", "show", handle.run_id)
    (line,) = (line for line in shown.splitlines() if "if the code means the same by it" in line)
    return line.partition("stepwell ")[2].split()


def test_what_several_branches_need_is_proposed_by_name() -> None:
    """Unless a name would be taken for a number, or for two names."""
    call, found = repairs_pb2.OrderDifference.RecordedCall, []
    for place, name in enumerate(("x", "x", "7", "7", "a=b", "a=b", "one")):
        step = repairs_pb2.StepName(ordinal=place + 1)
        rename = repairs_pb2.Repair.Rename(step=step, new_name="z y")
        skip = repairs_pb2.Repair(skip=repairs_pb2.Repair.Skip(step=step))
        fitting = skip if name == "x" else repairs_pb2.Repair(rename=rename)
        found.append(repairs_pb2.OrderDifference(recorded=[call(ordinal=place + 1, name=name)], fitting=[fitting]))
    first, accepting = repairs_of("r", found).splitlines()
    assert shlex.split(first.partition(": ")[2])[4:] == [
        "--skip",
        "x",
        *(word for ordinal in range(3, 8) for word in ("--rename", f"{ordinal}=z y")),
    ]
    assert accepting.endswith("stepwell run repair r --accept")
    assert "--rename STEP=NAME" in repairs_of("r", [*found, repairs_pb2.OrderDifference()])


async def test_a_repeat_is_answered_again(client: Client, working: Working, effects: Effects) -> None:
    """By its request id, as the first was; with other words the id is refused. A sync client repairs, too."""
    handle = await parked(client, working, release(effects, "a", "b"))
    await handle.pause()
    first = await handle.repair(Rename("a", "A"), request_id="once")
    assert await handle.repair(Rename("a", "A"), request_id="once") == first
    with pytest.raises(reasons.RequestIdReused):
        await handle.repair(Rename("b", "B"), request_id="once")
    assert (await happened(handle)).count("RunRepaired") == 1

    def repaired() -> list[str]:
        with sync.Client.connect(client.address) as calls:
            response = calls.run(handle.run_id).repair(Skip("b"), reason="gone")
        return [step.name for step in response.steps]

    assert await asyncio.to_thread(repaired) == ["b"]


def wrong_repairs() -> list[tuple[repairs_pb2.Repair, str]]:
    named = repairs_pb2.StepName(name="a")
    rename, skip = repairs_pb2.Repair.Rename, repairs_pb2.Repair.Skip
    return [
        (repairs_pb2.Repair(), "repairs[0].repair"),
        (repairs_pb2.Repair(skip=skip()), "repairs[0].skip.step"),
        (repairs_pb2.Repair(skip=skip(step=named, every_named="a")), "repairs[0].skip.every_named"),
        (repairs_pb2.Repair(skip=skip(every_named="a\0")), "repairs[0].skip.every_named"),
        (repairs_pb2.Repair(skip=skip(step=named, kind=99)), "repairs[0].skip.kind"),  # type: ignore[arg-type]
        (repairs_pb2.Repair(skip=skip(step=repairs_pb2.StepName(ordinal=-1))), "repairs[0].skip.step.ordinal"),
        (repairs_pb2.Repair(rename=rename(step=named)), "repairs[0].rename.new_name"),
        (repairs_pb2.Repair(rename=rename(step=named, new_name="x" * 256)), "repairs[0].rename.new_name"),
        (repairs_pb2.Repair(rename=rename(step=named, fingerprint=b"x" * 33)), "repairs[0].rename.fingerprint"),
        (repairs_pb2.Repair(rename=rename(step=named, new_name="a")), "repairs[0].rename"),
    ]


async def test_what_is_wrong_is_refused_by_its_field(client: Client, working: Working, effects: Effects) -> None:
    """Before anything is changed; so are runs that are not paused, and steps that are not there."""
    handle = await parked(client, working, release(effects, "a", "b"))
    with pytest.raises(reasons.RunNotPaused):
        await handle.repair(Skip("a"))
    await handle.pause()
    with pytest.raises(reasons.StepNotFound):
        await handle.repair(Rename("a", "A"), Skip("b", occurrence=1))
    with pytest.raises(reasons.RunPaused):
        await handle.repair(accept=True)
    with pytest.raises(errors.InvalidArgument, match="repairs must hold at least 1"):
        await handle.repair()
    for repair, field in wrong_repairs():
        request = repairs_pb2.RepairRunRequest(run_id=handle.run_id, repairs=[repair])
        with pytest.raises(errors.InvalidArgument) as refused:
            await client.caller.call(client.run_stub.RepairRun, request)
        assert refused.value.metadata["field"] == field
    assert [name for _, name, _ in await recorded(handle)] == ["a", "b", "go"]
