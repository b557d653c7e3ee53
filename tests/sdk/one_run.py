"""A program of a user's, on whatever versions it finds: starts a run, is its worker, and prints the result.

one_run.py ADDRESS
"""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import sys
from importlib import metadata

import stepwell
from stepwell import Client, Context, Worker, activity, workflow

QUEUE = "ends"


@activity
async def square(number: int) -> int:
    """An activity."""
    activity.heartbeat(number)
    return number * number


@workflow
async def sum_of_squares(ctx: Context, count: int) -> int:
    """Activities side by side, and a checkpoint."""
    squares = await ctx.map(square, list(range(count)))
    return await ctx.step("sum", lambda: sum(squares))


def import_all() -> int:
    """Imports all modules but those of the command line, which is an extra. Answers how many."""
    names = [module.name for module in pkgutil.walk_packages(stepwell.__path__, "stepwell.")]
    chosen = [name for name in names if not name.startswith("stepwell.cli")]
    for name in chosen:
        importlib.import_module(name)
    return len(chosen)


async def main(address: str) -> None:
    async with await Client.connect(address) as client:
        worker = Worker(client, QUEUE, workflows=[sum_of_squares], activities=[square])
        working = asyncio.create_task(worker.run())
        handle = await client.start_run(sum_of_squares, 4, task_queue=QUEUE, workflow_id="ends")
        result = await handle.result()
        events = [event.type async for event in handle.history()]
        worker.shutdown()
        await working
    versions = {name: metadata.version(name) for name in ("grpcio", "protobuf", "googleapis-common-protos")}
    print(json.dumps({"result": result, "last": events[-1], "modules": import_all(), "versions": versions}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
