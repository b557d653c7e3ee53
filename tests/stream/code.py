"""The code of runs, by hand: calls counted and hashed as an SDK does, and runs whose activities wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from tests.stream.kit import ACCEPTED, RUN, Replica, capacity, hello, payload
from tests.stream.wire import Wire

from stepwell.v1 import (
    types_pb2,
    workers_pb2,
)
from stepwell.v1.workers_pb2 import ReportResult, Task
from stepwell_server.engine.order import chain


class Code:
    """The code of one run, by hand: it counts its calls in the root branch, and progresses."""

    def __init__(self, stream: Wire, task: Task) -> None:
        self.stream = stream
        self.task = task
        self.count = 0
        self.hash = bytes(8)
        self.updates = workers_pb2.ScopeState(scope="0", hash=bytes(8))
        self.names: Counter[str] = Counter()

    def step(self, name: str, **kind: Any) -> workers_pb2.NewStep:
        step = workers_pb2.NewStep(name=name, occurrence=self.names[name], **kind)
        self.names[name] += 1
        return step

    def activity(self, name: str = "a", **fields: Any) -> workers_pb2.NewStep:
        return self.step(name, activity=workers_pb2.ActivityStep(**({"type": "act"} | fields)))

    def wait_for(self, signal: str) -> workers_pb2.NewStep:
        return self.step(f"wait {signal}", wait=workers_pb2.WaitStep(signal_name=signal))

    def wait_on(self, topic: str, timeout: float | None = None) -> workers_pb2.NewStep:
        wait = workers_pb2.WaitStep(topic=topic)
        if timeout is not None:
            wait.timeout.FromMilliseconds(int(timeout * 1000))
        return self.step(f"wait {topic}", wait=wait)

    def timer(self, seconds: float) -> workers_pb2.NewStep:
        duration = Duration()
        duration.FromMilliseconds(int(seconds * 1000))
        return self.step("timer", timer=workers_pb2.TimerStep(duration=duration))

    def local(self, value: Any, name: str = "local") -> workers_pb2.NewStep:
        return self.step(name, local=workers_pb2.LocalStep(result=payload(value)))

    def accept(self, update: workers_pb2.Update) -> workers_pb2.NewStep:
        acceptance = workers_pb2.AcceptanceStep(update_name=update.name, input=update.input, place=1)
        return workers_pb2.NewStep(scope="0", name="__update", key=update.update_id, acceptance=acceptance)

    def outcome(self, update_id: str, value: Any = None, failure: types_pb2.Failure | None = None) -> Any:
        outcome = workers_pb2.OutcomeStep(result=payload(value), failure=failure)
        return workers_pb2.NewStep(scope="0", name="__outcome", key=update_id, outcome=outcome)

    def progress(self, *steps: workers_pb2.NewStep, **fields: Any) -> workers_pb2.Progress:
        """A progress, and the branch moved on by it."""
        scopes = [workers_pb2.ScopeState(count=self.count, hash=self.hash)]
        if any(step.scope == "0" for step in steps):
            scopes.append(workers_pb2.ScopeState.FromString(self.updates.SerializeToString()))
        for step in steps:
            kind = KINDS[step.WhichOneof("kind") or ""]
            if step.scope == "0":
                self.updates.count += 1
                self.updates.hash = chain(self.updates.hash, kind, step.name)
            else:
                self.count += 1
                self.hash = chain(self.hash, kind, step.name)
        return workers_pb2.Progress(scopes=scopes, steps=steps, **fields)

    async def tell(self, *steps: workers_pb2.NewStep, **fields: Any) -> ReportResult:
        return await self.stream.report(self.task.ref, progress=self.progress(*steps, **fields))

    async def wait(self, *steps: workers_pb2.NewStep) -> ReportResult:
        """Progress after which nothing can go on; the run stays in memory, and takes no slot."""
        result = await self.tell(*steps, waiting=True)
        self.stream.working.pop(self.task.ref.task_id, None)
        return result

    async def complete(self, *steps: workers_pb2.NewStep, value: Any = None) -> ReportResult:
        result = await self.tell(*steps, complete=workers_pb2.CompleteRun(result=payload(value)))
        self.stream.working.pop(self.task.ref.task_id, None)
        return result

    async def advance(self, wanted: Callable[[Any], bool] = lambda _: True) -> workers_pb2.Advance:
        found: workers_pb2.Advance = await self.stream.next(
            "advances", lambda news: news.ref == self.task.ref and wanted(news)
        )
        return found


KINDS = {
    "local": types_pb2.STEP_KIND_LOCAL,
    "activity": types_pb2.STEP_KIND_ACTIVITY,
    "timer": types_pb2.STEP_KIND_TIMER,
    "wait": types_pb2.STEP_KIND_WAIT,
    "child": types_pb2.STEP_KIND_CHILD,
    "user_task": types_pb2.STEP_KIND_USER_TASK,
    "marker": types_pb2.STEP_KIND_MARKER,
    "acceptance": types_pb2.STEP_KIND_MARKER,
    "outcome": types_pb2.STEP_KIND_MARKER,
    "race": types_pb2.STEP_KIND_MARKER,
}


async def scheduled(
    replica: Replica, count: int = 1, *, fields: Iterable[dict[str, Any]] | None = None, **of_all: Any
) -> str:
    """A run with activities that wait, or are under way; nobody holds the run itself."""
    each = list(fields) if fields is not None else [{} for _ in range(count)]
    queue = f"scheduling {uuid4()}"
    run_id = await replica.start(queue=queue)
    opening = hello("scheduler", task_queues=[queue], activity_types=[], capacity=capacity(runs=1))
    stream = await Wire(replica, opening).open()
    code = Code(stream, await stream.task(RUN))
    told = [code.activity(**({"task_queue": "q"} | of_all | more)) for more in each]
    together = max(1, min(256, 3_000_000 // max(step.ByteSize() for step in told)))
    for start in range(0, len(told), together):
        assert (await code.tell(*told[start : start + together])).status == ACCEPTED
    await stream.report(code.task.ref, release=workers_pb2.ReleaseTask(reason="scheduled"))
    await stream.say(drain=True)
    await stream.half_close()
    await stream.end()
    return run_id
