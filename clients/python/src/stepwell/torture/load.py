"""What is asked of the service, and what it answered: starts of runs and jobs, some of them repeated on purpose."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from typing import TYPE_CHECKING, Any

from stepwell.errors import JobFailed, RunFailed, ServiceError, StepwellError
from stepwell.jobs import JobHandle
from stepwell.options import JobOptions, StartOptions

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from stepwell.client import Client
    from stepwell.runs import RunHandle
    from stepwell.torture.plan import Plan

JOB = "job"
_KINDS = {"errand": 55, JOB: 20, "steps": 8, "parent": 8, "sleeper": 9}
_NAMED, _REPEATED = 0.5, 0.2
_AGAIN_SECONDS = 1.0
# How many activities a worker takes at once, if it is not told otherwise, and how long each of a roll call takes.
_PLACES, _CALL_SECONDS = 10, 1.0


@dataclasses.dataclass(slots=True)
class Start:
    """Something that was asked for. `key` names it, and is its correlation id.

    `effects` are those that it has, `steps` how many steps a run takes and `children` how many runs it starts. `id` is
    empty until the service has acknowledged it. `answers` are those to each repeat of the very same start: an id, or
    what was refused. `result` is what it came to, `problem` why it came to none.
    """

    kind: str
    key: str
    told: dict[str, Any]
    expected: Any
    effects: tuple[str, ...] = ()
    steps: int = 0
    children: int = 0
    id: str = ""
    acknowledged: float = 0.0
    ended: float = 0.0
    result: Any = None
    problem: str = ""
    answers: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_job(self) -> bool:
        """Whether it is a job, and no run."""
        return self.kind == JOB


def chosen(dice: random.Random, name: str, number: int, longest: float) -> Start:
    """Makes one up."""
    kind = dice.choices(list(_KINDS), list(_KINDS.values()))[0]
    key = f"{name}-{number}"
    if kind == "errand":
        count, seconds = dice.randint(1, 4), _length(dice, longest)
        told = {"key": key, "activities": count, "seconds": seconds}
        # Besides the effects: what begins it, a sleep, a child and what ends it.
        return Start(kind, key, told, count, tuple(f"{key}/{place}" for place in range(count)), count + 4, 1)
    if kind == JOB:
        return Start(kind, key, {"key": key, "seconds": _length(dice, longest)}, key, (key,))
    if kind == "sleeper":
        return Start(kind, key, {"seconds": round(dice.uniform(0.1, 3), 2)}, "slept", steps=1)
    count = dice.randint(1, 20)
    steps, children = (1, 1) if kind == "parent" else (count, 0)
    return Start(kind, key, {"count": count}, count * (count - 1) // 2, steps=steps, children=children)


def _length(dice: random.Random, longest: float) -> float:
    """Mostly short, now and then long enough to be hurt in the middle."""
    return round(dice.uniform(0.0, 0.3) if dice.random() < 2 / 3 else dice.uniform(0.5, longest), 2)


class Load:
    """Starts one thing after the other, and waits for all of them."""

    def __init__(self, client: Client, dice: random.Random, name: str, queue: str, plan: Plan) -> None:
        """Begins with nothing."""
        self.starts: list[Start] = []
        self._client = client
        self._dice = dice
        self._name = name
        self._queue = queue
        self._plan = plan
        self._room = asyncio.Semaphore(plan.open_runs)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, until: float) -> None:
        """Starts things until a moment of the monotonic clock."""
        while time.monotonic() < until:
            await asyncio.sleep(self._dice.expovariate(self._plan.runs_per_second))
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, until - time.monotonic())):
                    await self._room.acquire()
            except TimeoutError:
                return
            start = chosen(self._dice, self._name, len(self.starts), self._plan.effect_seconds)
            self.starts.append(start)
            is_named, repeat = self._dice.random() < _NAMED, self._repeat()
            seen = self._spawn(self._see_through(start, repeat, is_named=is_named))
            seen.add_done_callback(lambda _: self._room.release())

    def _repeat(self) -> float | None:
        """After how many seconds it is asked for again; 0 is at the same time."""
        if self._dice.random() >= _REPEATED:
            return None
        return self._dice.choice((0.0, self._dice.uniform(0, 3)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def call_the_roll(self, workers: int, seconds: float) -> None:
        """Starts as many jobs as so many workers have places, so that each gets some; waits for their ends."""
        called = []
        for _ in range(workers * _PLACES):
            key = f"{self._name}-{len(self.starts)}"
            self.starts.append(Start(JOB, key, {"key": key, "seconds": _CALL_SECONDS}, key, (key,)))
            called.append(self._spawn(self._see_through(self.starts[-1], None, is_named=False)))
        await asyncio.wait(called, timeout=seconds)

    async def settled(self, seconds: float) -> bool:
        """Waits until all have ended; False if some have not by then."""
        if not self._tasks:
            return True
        _, left = await asyncio.wait(self._tasks, timeout=seconds)
        return not left

    async def close(self) -> None:
        """Waits for nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _see_through(self, start: Start, repeat: float | None, *, is_named: bool) -> None:
        twin = None if repeat is None else asyncio.create_task(self._again(start, repeat, is_named=is_named))
        handle = None
        try:
            handle = await self._ask(start, is_named=is_named)
        except ServiceError as error:
            start.problem = f"not acknowledged: {error.reason}: {error}"
        if handle is None and twin is not None:
            handle = await twin
        if handle is not None:
            start.id, start.acknowledged, start.problem = _id_of(handle), time.time(), ""
            await self._await_end(start, handle)
        if twin is not None:
            await twin

    async def _ask(self, start: Start, *, is_named: bool) -> RunHandle[Any] | JobHandle[Any]:
        if start.is_job:
            job = JobOptions(task_queue=self._queue, correlation_id=start.key, request_id=start.key)
            if is_named:
                job["unique_key"] = start.key
            return await self._client.start_job("effect", start.told, **job)
        run = StartOptions(task_queue=self._queue, correlation_id=start.key, request_id=start.key)
        if is_named:
            run["workflow_id"] = start.key
        return await self._client.start_run(start.kind, start.told, **run)

    async def _again(self, start: Start, seconds: float, *, is_named: bool) -> RunHandle[Any] | JobHandle[Any] | None:
        """The same once more: whoever comes second must be told of what the first one made."""
        await asyncio.sleep(seconds)
        try:
            handle = await self._ask(start, is_named=is_named)
        except ServiceError as error:
            start.answers.append(f"refused: {error.reason}: {error}")
            return None
        start.answers.append(_id_of(handle))
        return handle

    async def _await_end(self, start: Start, handle: RunHandle[Any] | JobHandle[Any]) -> None:
        while not start.ended:
            try:
                start.result = await handle.result()
            except (RunFailed, JobFailed) as error:
                start.problem = str(error)
            except StepwellError:
                # The service is away for longer than a call is repeated.
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            start.ended = time.time()


def _id_of(handle: RunHandle[Any] | JobHandle[Any]) -> str:
    return handle.job_id if isinstance(handle, JobHandle) else handle.run_id
