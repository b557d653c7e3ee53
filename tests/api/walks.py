"""Walks over lists of runs by pages, while others start runs, write to them and end them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from tests.api.stores import Store
from tests.service import TIMEOUT, Service, soon

from stepwell.v1 import runs_pb2

MOST_STARTS = 256
"""In one call."""


async def start_many(service: Service, first: int, count: int) -> list[str]:
    """Starts `w<first>` and those after it, of type `a` and `b` in turn, so that many are equal in an order by type."""
    numbers = range(first, first + count)
    starts = [runs_pb2.StartRunRequest(workflow_id=f"w{number}", type="ab"[number % 2]) for number in numbers]
    answer = await service.runs.BatchStartRuns(runs_pb2.BatchStartRunsRequest(requests=starts), timeout=TIMEOUT)
    return [each.started.run_id for each in answer.results]


async def signal(service: Service, run_id: str) -> None:
    """A signal, unless the run has ended meanwhile."""
    request = runs_pb2.SignalRunRequest(run_id=run_id, signal_name="s")
    try:
        await service.runs.SignalRun(request, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise


async def walk(service: Service, list_: str, page_size: int, **fields: Any) -> Counter[str]:
    """How often each run is seen from the first page to the last."""
    seen: Counter[str] = Counter()
    token = ""
    while True:
        asked = {"page_size": page_size, "page_token": token, **fields}
        if list_ == "ListDrivenRuns":
            page = await Store(service, "run").call(list_, **asked)
        else:
            page = await service.runs.ListRuns(runs_pb2.ListRunsRequest(**asked), timeout=TIMEOUT)
        seen.update(run.run_id for run in page.runs)
        token = page.next_page_token
        if not token:
            return seen


def check(seen: Counter[str], there: Iterable[str]) -> None:
    """Each that was there at the beginning was seen, and none twice. What began meanwhile may be seen."""
    assert [run_id for run_id, times in seen.items() if times > 1] == []
    assert set(there) - seen.keys() == set()


class Others:
    """Who start, write to and end runs; `done` counts what they did."""

    def __init__(self, service: Service, ids: list[str]) -> None:
        self._service, self._left = service, random.sample(ids, len(ids))
        self._number = len(ids)
        self.done: Counter[str] = Counter()

    async def start(self) -> None:
        while True:
            await start_many(self._service, self._number, 4)
            self._number += 4
            self.done["start"] += 1

    async def write(self) -> None:
        while True:
            await signal(self._service, random.choice(self._left))
            self.done["write"] += 1

    async def have_done_all(self) -> None:
        """Returns once each has done something."""
        await soon(self._has_done_all)

    async def _has_done_all(self) -> bool:
        return self.done.keys() == {"start", "write", "end"}

    async def end(self) -> None:
        while len(self._left) > 1:
            await self._service.end(self._left.pop())
            self.done["end"] += 1


@asynccontextmanager
async def busy(service: Service, ids: list[str]) -> AsyncIterator[Others]:
    """Others do all that until the block is over; what failed them fails it."""
    others = Others(service, ids)
    tasks = [asyncio.create_task(each()) for each in (others.start, others.write, others.end)]
    try:
        yield others
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [end for end in ends if isinstance(end, Exception)] == []
