"""What the service has on record of all that was asked for: read once all has ended."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from stepwell.jobs import state_name
from stepwell.runs import phase_name
from stepwell.v1.explanations_pb2 import Explanation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from google.protobuf.timestamp_pb2 import Timestamp

    from stepwell.client import Client
    from stepwell.jobs import JobHandle
    from stepwell.runs import RunHandle
    from stepwell.torture.load import Start
    from stepwell.v1.history_pb2 import Event
    from stepwell.v1.jobs_pb2 import Job

Item = TypeVar("Item")
Done = TypeVar("Done")

COMPLETED = "COMPLETED"
_AT_ONCE = 8
_STEP_ENDS = frozenset(
    f"{noun}{end}"
    for noun in ("Step", "Activity", "Timer", "Wait", "Child")
    for end in ("Completed", "Failed", "Cancelled", "Fired", "TimedOut", "Skipped")
)
_RUN_ENDS = frozenset(
    f"Run{end}" for end in ("Completed", "Failed", "Cancelled", "Terminated", "TimedOut", "Skipped", "Continued")
)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """An effect that is on record as done: in which attempt, and when that was recorded."""

    key: str
    attempt: int
    time: float


@dataclasses.dataclass(frozen=True, slots=True)
class Recorded:
    """A run or a job on record.

    `key` is its correlation id, `parent` the run whose child it is, `flaws` are what its history must not have,
    `outcomes` those of its effects, and `steps` is how many of its steps have ended.
    """

    id: str
    key: str
    state: str
    is_job: bool = False
    parent: str = ""
    flaws: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    steps: int = 0


async def read(client: Client, queue: str) -> list[Recorded]:
    """Reads all runs and jobs of a queue, and the history of each run."""
    jobs = [_of_job(job) async for job in client.list_jobs(task_queue=queue)]
    runs = [
        Recorded(run.run_id, run.correlation_id, phase_name(run.phase), parent=run.parent_run_id)
        async for run in client.list_runs(task_queue=queue)
    ]

    async def held_against(run: Recorded) -> Recorded:
        events = [each async for each in client.run(run.id).history()]
        flaws = flaws_of((each.number, each.type, each.step_ordinal) for each in events)
        outcomes = [_outcome(each) for each in events if each.type == "ActivityCompleted"]
        steps = {each.step_ordinal for each in events if each.step_ordinal and each.type in _STEP_ENDS}
        return dataclasses.replace(run, flaws=tuple(flaws), outcomes=tuple(outcomes), steps=len(steps))

    return jobs + await _each(held_against, runs)


def _of_job(job: Job) -> Recorded:
    state = state_name(job.state)
    ended = Outcome(job.correlation_id, job.attempt, _seconds(job.end_time))
    outcomes = (ended,) if state == COMPLETED else ()
    return Recorded(job.job_id, job.correlation_id, state, is_job=True, outcomes=outcomes)


def _outcome(event: Event) -> Outcome:
    """An effect's result is its key."""
    return Outcome(json.loads(event.payload.json), int(event.attributes["attempt"]), _seconds(event.time))


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9


def flaws_of(events: Iterable[tuple[int, str, int]]) -> list[str]:
    """What a history (number, type, step of each event) must not have: gaps, two ends of a step or of the run."""
    told = list(events)
    found = []
    if [number for number, _, _ in told] != list(range(1, len(told) + 1)):
        found.append("its history has gaps")
    ends = Counter(step for _, kind, step in told if step and kind in _STEP_ENDS)
    found += [f"step {step} ended {count} times" for step, count in sorted(ends.items()) if count > 1]
    over = sum(kind in _RUN_ENDS for _, kind, _ in told)
    if over > 1:
        found.append(f"it ended {over} times")
    return found


async def explained(client: Client, starts: Iterable[Start]) -> dict[str, str]:
    """Why they do not move, as the service explains it, by their keys."""

    async def explain(start: Start) -> tuple[str, str]:
        handle: RunHandle[object] | JobHandle[object] = client.job(start.id) if start.is_job else client.run(start.id)
        words = [
            f"{Explanation.Code.Name(each.code).removeprefix('CODE_')}: {each.text}" for each in await handle.explain()
        ]
        return start.key, "; ".join(words)

    return dict(await _each(explain, starts))


async def _each(work: Callable[[Item], Awaitable[Done]], items: Iterable[Item]) -> list[Done]:
    """Does something to each, a few at a time, and keeps their order."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(item: Item) -> Done:
        async with room:
            return await work(item)

    return list(await asyncio.gather(*(one(item) for item in items)))
