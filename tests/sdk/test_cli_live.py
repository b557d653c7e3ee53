"""The command against a whole service: queues, what happens meanwhile, and pins."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import PIPE, Process
from typing import Any

import pytest_asyncio
from tests import warm
from tests.stream.code import Code
from tests.stream.kit import RUN, Replica, capacity, payload, replica
from tests.stream.wire import wire

from stepwell.v1.workers_pb2 import FailRun


@pytest_asyncio.fixture
async def one(database_url: str) -> Any:
    async with replica(database_url) as made:
        yield made


async def begin(one: Replica, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        warm.command(), "--address", one.service.address, *arguments, stdout=PIPE, stderr=PIPE
    )


async def stepwell(one: Replica, *arguments: str) -> tuple[int, str, str]:
    process = await begin(one, *arguments)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def line(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode()


async def test_queues_as_tables_and_as_json(one: Replica) -> None:
    await one.start(queue="orders", type_="order")
    code, out, _ = await stepwell(one, "queue", "list")
    assert code == 0
    head, row = out.splitlines()
    assert head.split() == ["QUEUE", "RUNS", "ACTIVITIES", "OLDEST", "AT", "WORK", "WORKERS", "STRANDED"]
    assert (row.split()[:2], row.split()[-2:]) == (["orders", "1"], ["nobody", "yes"])
    _, out, _ = await stepwell(one, "queue", "list", "-o", "json")
    (queue,) = json.loads(out)
    assert (queue["task_queue"], queue["waiting_runs"]["count"], queue["is_stranded"]) == ("orders", 1, True)
    _, out, _ = await stepwell(one, "queue", "show", "orders", "-o", "json")
    assert json.loads(out)["lines"][0]["type"] == "order"
    _, out, _ = await stepwell(one, "queue", "show", "none")
    assert "nothing waits in queue none" in out


async def test_the_ends_of_runs_are_watched_as_they_come(one: Replica) -> None:
    for output in ("json", "table"):
        watching = await begin(one, "run", "watch", "--limit", "2", "-o", output)
        if output == "table":
            assert (await line(watching)).split() == ["RUN", "WORKFLOW", "ID", "PHASE", "WHAT"]
        # It follows from now on; that it does is told by the first end that it shows.
        ended: list[str] = []
        shown = asyncio.create_task(line(watching))
        while not shown.done():
            run_id = await one.start(workflow_id=f"{output} {len(ended)}")
            await one.end(run_id)
            ended.append(run_id)
            await asyncio.wait([shown], timeout=0.2)
        first = shown.result()
        seen = json.loads(first)["run_id"] if output == "json" else first.split()[0]
        assert seen in ended
        if output == "table":
            assert "TERMINATED" in first
        else:
            assert json.loads(first)["phase"] == "RUN_PHASE_TERMINATED"
        await one.end(await one.start())
        async with asyncio.timeout(60):
            assert await watching.wait() == 0


async def test_starts_and_pauses_are_watched_if_asked_for(one: Replica) -> None:
    watching = await begin(one, "run", "watch", "--starts", "--pauses")
    assert (await line(watching)).split() == ["RUN", "WORKFLOW", "ID", "NEWS", "WHAT"]
    # It follows from now on; that it does is told by the first line.
    shown = asyncio.create_task(line(watching))
    while not shown.done():
        await one.start()
        await asyncio.wait([shown], timeout=0.2)
    run_id = await one.start(workflow_id="w", type_="order", queue="orders")
    for command in ("pause", "resume", "terminate"):
        code, _, _ = await stepwell(one, "run", command, "w")
        assert code == 0
    seen: list[list[str]] = []
    while len(seen) < 4:
        words = (await line(watching)).split(maxsplit=3)
        seen += [words[1:]] if words[0] == run_id else []
    watching.send_signal(signal.SIGINT)
    await watching.communicate()
    assert [words[:2] for words in seen] == [["w", news] for news in ("STARTED", "PAUSED", "RESUMED", "TERMINATED")]
    assert seen[0][2].strip() == "order in orders"


async def test_a_watch_is_left_by_the_keyboard(one: Replica) -> None:
    watching = await begin(one, "run", "watch")
    await line(watching)
    watching.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        _, err = await watching.communicate()
    assert (watching.returncode, err.decode()) == (130, "")


async def test_one_run_is_watched_to_its_end(one: Replica) -> None:
    run_id = await one.start(workflow_id="w")
    watching = await begin(one, "run", "watch", "w", "-o", "json")
    assert json.loads(await line(watching))["type"] == "RunStarted"
    async with wire(one, capacity=capacity(runs=1)) as stream:
        code = Code(stream, await stream.task(RUN))
        await code.tell(code.local("1"))
        step = json.loads(await line(watching))
        assert (step["type"], step["step_name"]) == ("StepCompleted", "local")
        await code.complete(value="done")
    assert json.loads(await line(watching))["payload"] == {"json": '"done"'}
    assert await watching.wait() == 0
    code_, out, _ = await stepwell(one, "run", "watch", run_id)
    assert (code_, [each.split()[0] for each in out.splitlines()]) == (0, ["NO", "1", "2", "3"])


async def test_watching_a_run_that_fails_or_goes_on(one: Replica) -> None:
    failing, chained = await one.start(), await one.start(workflow_id="chain")
    async with wire(one, capacity=capacity(runs=2)) as stream:
        for run_id, end in ((failing, {"fail": FailRun()}), (chained, {"continue_as_new": {"input": payload(1)}})):
            code = Code(stream, await stream.task(RUN, run_id=run_id))
            await stream.report(code.task.ref, progress=code.progress(calls=0, **end))
            stream.working.pop(code.task.ref.task_id)
        successor = Code(stream, await stream.task(RUN))
        await successor.complete(value=2)
    code_, _, _ = await stepwell(one, "run", "watch", failing)
    assert code_ == 1
    code_, out, _ = await stepwell(one, "run", "watch", chained, "-o", "json")
    events = [json.loads(each) for each in out.splitlines()]
    assert code_ == 0
    assert [each["type"] for each in events] == ["RunStarted", "RunContinued", "RunStarted", "RunCompleted"]


async def test_a_run_is_pinned_by_hand(one: Replica) -> None:
    run_id = await one.start()
    code, out, _ = await stepwell(one, "run", "pin", run_id, "v1")
    assert (code, out) == (0, "the run is pinned to build v1\n")
    assert (await one.run(run_id)).build_id == "v1"
    _, out, _ = await stepwell(one, "run", "pin", run_id, "v1", "-o", "json")
    assert json.loads(out) == {"run": run_id, "build_id": "v1", "accepted": False}
    _, out, _ = await stepwell(one, "run", "pin", run_id, "--any")
    assert out == "the run is pinned to no build\n"
    for wrong in ([], ["v1", "--any"]):
        code, _, err = await stepwell(one, "run", "pin", run_id, *wrong)
        assert (code, "name the build, or give --any" in err) == (1, True)
