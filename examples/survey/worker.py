"""A worker of the survey: its workflows and its activity. Run several; kill any of them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass

import measures
from measures import Measures

from stepwell import Client, Context, Worker, activity, workflow

QUEUE = "survey"
LARGE = 20
EFFECTS = os.environ.get("SURVEY_EFFECTS", "")


@dataclass(frozen=True, slots=True)
class Report:
    """What a run returns. `closer` is the child's look at the largest file, if the package has several."""

    name: str
    total: dict[str, int]
    closer: dict[str, int] | None


def note_effect(path: str) -> None:
    """Leaves a trace in the world outside: a line of the effects file, in one write, whatever becomes of the record."""
    info = activity.info()
    line = {"file": path, "run": info.run_id, "step": info.step_ordinal, "attempt": info.attempt}
    line |= {"pid": os.getpid(), "time": time.time()}
    handle = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (json.dumps(line) + "\n").encode())
    finally:
        os.close(handle)


@activity(heartbeat_timeout=30)
def measure_file(path: str) -> Measures:
    """Measures one file, and says how far it is."""
    activity.heartbeat("reading")
    note_effect(path)
    measured = measures.measure(path)
    activity.heartbeat("measured")
    return measured


@workflow
async def survey(ctx: Context, name: str) -> Report:
    """Surveys one package or module."""
    files = await ctx.step("list sources", measures.sources, name)
    measured = await ctx.map(measure_file, files)
    await ctx.sleep(1)
    if len(files) >= LARGE:
        await ctx.wait_signal("approved")
    closer = None
    if len(files) > 1:
        largest = max(zip(measured, files, strict=True), key=lambda pair: (pair[0].lines, pair[1]))[1]
        closer = await ctx.child(look_closer, largest)
    return Report(name, measures.total(measured), closer)


@workflow
async def look_closer(ctx: Context, path: str) -> dict[str, int]:
    """Looks at the largest file of a package by itself."""
    measured = await ctx.step("measure again", measures.measure, path)
    return measures.total([measured])


async def main(address: str) -> None:
    """Works until it is told to leave."""
    async with await Client.connect(address) as client:
        worker = Worker(client, QUEUE, workflows=[survey, look_closer], activities=[measure_file], max_activities=8)
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
