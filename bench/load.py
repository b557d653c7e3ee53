"""The load's process: told what to do by lines of JSON on standard input, it tells what came of it by such lines.

    {"do": "closed", "what": "jobs", "callers": 1000, "warm": 2, "seconds": 8, "bytes": 100}
    {"do": "open", "what": "timed", "rate": 50, "warm": 2, "seconds": 20, "bytes": 100}
    {"do": "start", "what": "waiting", "count": 5000}
    {"do": "once", "what": "many_steps", "input": 100, "times": 10}

A closed loop has so many callers, each of which begins anew when it was answered: it finds the capacity. An open loop
begins at the times of a Poisson process, whatever is under way, and counts from the time at which a start was due: it
finds the delay. `opened` and `closed` mark the time that counts; `done` comes when all that was begun has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.figures import percentile
from bench.programs import OPERATIONS, QUEUE, Value, payload, run
from stepwell import Client

Command = dict[str, Any]
# Runs that are only started go out in so many at a time.
_STARTERS = 500


@dataclass
class Tally:
    """What was begun and how it ended."""

    started: int = 0
    completed: int = 0
    wrong: int = 0
    counted: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As it is sent; times in milliseconds."""
        facts: dict[str, Any] = {"started": self.started, "completed": self.completed, "wrong": self.wrong}
        facts["errors"] = self.errors
        for name, seconds in (("completed", self.delays), ("called", self.calls)):
            if seconds:
                facts[f"{name}_p50"] = percentile(seconds, 0.5) * 1e3
                facts[f"{name}_p99"] = percentile(seconds, 0.99) * 1e3
                facts[f"{name}_samples"] = len(seconds)
        return facts


class Load:
    """Loads the service through some clients in turn."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = itertools.cycle(clients)

    async def obey(self, command: Command) -> None:
        """Does what is asked for."""
        tally = Tally()
        await {"closed": self._closed, "open": self._open, "start": self._start, "once": self._once}[command["do"]](
            command, tally
        )
        tell("done", **tally.told())

    async def _closed(self, command: Command, tally: Tally) -> None:
        is_over = asyncio.Event()
        value = payload(command.get("bytes", 100))

        async def caller() -> None:
            client = next(self._clients)
            while not is_over.is_set():
                await _perform(client, command["what"], value, tally)

        callers = [asyncio.create_task(caller()) for _ in range(command["callers"])]
        await asyncio.sleep(command["warm"])
        before, began = tally.completed, time.monotonic()
        tell("opened")
        await asyncio.sleep(command["seconds"])
        done, seconds = tally.completed - before, time.monotonic() - began
        tell("closed", counted=done, seconds=seconds)
        is_over.set()
        await asyncio.gather(*callers)

    async def _open(self, command: Command, tally: Tally) -> None:
        value, rate, under_way = payload(command.get("bytes", 100)), command["rate"], set()
        due = began = time.monotonic()
        counts, ends = began + command["warm"], began + command["warm"] + command["seconds"]
        is_open = False
        while due < ends:
            if not is_open and due >= counts:
                is_open, counted, opened = True, tally.completed, time.monotonic()
                tell("opened")
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            since = due if due >= counts else None
            task = asyncio.create_task(_perform(next(self._clients), command["what"], value, tally, since))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += random.expovariate(rate)
        tell("closed", counted=tally.completed - counted, seconds=time.monotonic() - opened)
        await asyncio.gather(*under_way)

    async def _start(self, command: Command, tally: Tally) -> None:
        left, value = iter(range(command["count"])), payload(command.get("bytes", 100))

        async def starter() -> None:
            client = next(self._clients)
            for _ in left:
                await client.start_run(command["what"], value, task_queue=QUEUE)
                tally.started += 1

        await asyncio.gather(*(starter() for _ in range(_STARTERS)))

    async def _once(self, command: Command, tally: Tally) -> None:
        for _ in range(command["times"]):
            tally.started += 1
            began = time.monotonic()
            handle = await next(self._clients).start_run(command["what"], command["input"], task_queue=QUEUE)
            tally.wrong += await handle.result() != command["input"]
            tally.completed += 1
            tally.delays.append(time.monotonic() - began)


async def _perform(client: Client, what: str, value: Value, tally: Tally, since: float | None = None) -> None:
    """Performs one; it counts for the delays if it is told since when."""
    tally.started += 1
    try:
        answer = await OPERATIONS[what](client, value)
    except Exception as error:  # noqa: BLE001 - told at the end, and then no figure is made
        name = type(error).__name__
        tally.errors[name] = tally.errors.get(name, 0) + 1
        return
    tally.completed += 1
    tally.wrong += answer["text"] != value["text"]
    if since is not None:
        tally.delays.append(time.monotonic() - since)
        if "called" in answer:
            tally.calls.append(answer["called"] - since)


def tell(event: str, **facts: Any) -> None:
    """Writes a line to who began this process."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


async def load(addresses: list[str], namespace: str) -> None:
    """Connects, and obeys until there are no more commands."""
    clients = [await Client.connect(each, namespace=namespace, connect_timeout=30) for each in addresses]
    loading = Load(clients)
    tell("ready")
    read: Callable[[], str] = sys.stdin.readline
    while line := await asyncio.to_thread(read):
        await loading.obey(json.loads(line))
    for client in clients:
        await client.close()


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", action="append", required=True)
    parser.add_argument("--namespace", default="main")
    given = parser.parse_args()
    run(load(given.address, given.namespace))


if __name__ == "__main__":
    main()
