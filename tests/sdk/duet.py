"""The SDK's runs against the service's own decisions, in one process without gRPC, Postgres and time.

A `Duet` is one run: its code as the SDK runs it, each Progress read as the service reads it and decided over the store
in memory. Whoever drives it says what happens next: an answer comes, a step ends, the code hears of ends, or goes ahead
with what its worker's activity came to, the worker is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.engine.mended import steps_of
from tests.engine.world import MAIN, World

from stepwell._ahead import go_ahead
from stepwell._main import main
from stepwell._runs import RunExecution
from stepwell.context import Context
from stepwell.converter import DataConverter, JsonConverter
from stepwell.definitions import NO_DEFAULTS, Definition
from stepwell.v1 import types_pb2, workers_pb2
from stepwell_server import errors, settings
from stepwell_server.api.fields import Fields
from stepwell_server.api.reports import ReportReader
from stepwell_server.api.task_refs import task_key
from stepwell_server.api.tasks import ended_to_proto
from stepwell_server.engine.activities import CancelledActivity, CompleteActivity, FailActivity, Outcome
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.mending import RetryRun, RewindRun
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.engine.runs import CancelRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.engine.user_tasks import CancelUserTask, ClaimUserTask, CompleteUserTask
from stepwell_server.model.events import Event, payload_of, unpack_attributes
from stepwell_server.model.payloads import JSON, NULL, Failure, Payload
from stepwell_server.model.steps import ClosedStep, EndedStep, Kind, Step, result_event

Program = Callable[[Context], Awaitable[Any]]


class Host:
    """What an execution needs of its worker; keeps the Progress that waits for its answer."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.converter: DataConverter = JsonConverter()
        self.reported: workers_pb2.Progress | None = None
        self.gates: list[asyncio.Future[None]] = []

    def report(self, run: RunExecution, progress: workers_pb2.Progress) -> None:
        assert self.reported is None, "one report of a run at a time"
        self.reported = progress

    def answer(self, run: RunExecution, query: workers_pb2.Query, outcome: dict[str, Any]) -> None:
        raise AssertionError

    def release(self, run: RunExecution, reason: str) -> None:
        raise AssertionError(reason)

    async def in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """A function that takes its time: it returns when its gate is opened."""
        gate = self.loop.create_future()
        self.gates.append(gate)
        await gate
        return fn(*args)


class Duet:
    """See the module."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.world = World(Limits(returns=1000))
        self.key = self.world.start()
        self.news: list[ClosedStep] = []
        self.host = Host()
        self.run: RunExecution | None = None
        self.end = ""
        self.ahead: CompleteActivity | None = None  # the report with whose result the code went on, while undecided
        self.reader = ReportReader(MAIN, "main", self.world.session, "", Fields(settings.Limits()))

    # --- the worker -------------------------------------------------------------------------------------------------

    async def grant(self) -> None:
        """A worker gets the run, and runs its code as far as it goes."""
        assert self.world.grant(self.key) is not None
        self.news.clear()
        await self.execute(self.world.run(self.key).grants, cancelled=self.world.run(self.key).cancel_time is not None)

    async def execute(self, token: int, *, cancelled: bool) -> None:
        ref = workers_pb2.TaskRef(task_id=f"{self.key}.0", token=token)
        task = workers_pb2.Task(
            ref=ref, run_id="r", cancel_requested=cancelled, cancel_reason="enough", steps=self.records()
        )
        self.host = Host()
        program = self.program

        async def flow(ctx: Context) -> Any:
            return await program(ctx)

        self.run = RunExecution(self.host, task, Definition(flow, "flow", is_workflow=True, defaults=NO_DEFAULTS))
        self.run.start(main(self.run, _no_more))
        await settle()

    async def lose(self, *, counts: bool = True) -> None:
        """The worker is lost, and another one gets the run."""
        self.drop()
        token = self.world.run(self.key).grants
        order = ReturnTask(self.world.ref(self.key), 0, token, self.world.session, counts=counts, reason="lost")
        self.world.do(order)
        await settle()
        await self.grant()

    async def go_back(self, order: RetryRun | RewindRun) -> None:
        """The run is taken back to an earlier place of its record, and a worker gets it."""
        self.drop()
        self.host.reported, self.end = None, ""
        self.world.do(order)
        await settle()
        await self.grant()

    def drop(self) -> None:
        assert self.run is not None
        self.run.drop()
        self.ahead = None

    async def answer(self) -> None:
        """The Progress under way is decided, and the code hears so."""
        ordinals, ended = self.commit()
        assert self.run is not None
        if not self.end:
            self.run.answered(ordinals, ended)
            await settle()

    def commit(self) -> tuple[list[int], list[workers_pb2.StepRecord]]:
        """The Progress under way is decided. Raises what the service refuses with."""
        progress, self.host.reported = self.host.reported, None
        assert progress is not None
        assert self.run is not None
        sent = workers_pb2.Report.FromString(
            workers_pb2.Report(ref=self.run.task.ref, progress=progress).SerializeToString()
        )
        order = self.reader.read(sent, task_key(sent.ref, ""), "", resident=True)
        assert isinstance(order, ProgressRun)
        answer = self.do(order) if self.ahead is None else self.do_together(self.ahead, order)
        assert isinstance(answer, ProgressAnswer)
        assert not answer.duplicate
        self.end = progress.WhichOneof("end") or ""
        return answer.ordinals, [self.record(each.step) for each in answer.ended]

    async def go_ahead(self, step: Step) -> bool:
        """The worker itself completes an activity of the run, whose code goes on with that, if it may."""
        assert self.run is not None
        if step.session_id is None:
            assert self.world.grant(self.key, step.ordinal) is not None
            step = self.world.step(self.key, step.ordinal)
        ref = workers_pb2.TaskRef(task_id=f"{self.key}.{step.ordinal}", token=step.grants)
        activity = workers_pb2.Task(ref=ref, run_id="r", step_ordinal=step.ordinal)
        if not go_ahead(self.run, activity, types_pb2.Payload(json=f'"{step.ordinal}"')):
            return False
        named = (self.world.ref(self.key), step.ordinal, self.world.session, step.grants)
        self.ahead = CompleteActivity(*named, Payload(JSON, b'"%d"' % step.ordinal))
        await settle()
        return True

    def complete(self) -> None:
        """The result that the code went on with is recorded by itself."""
        assert self.ahead is not None
        order, self.ahead = self.ahead, None
        self.do(order)

    async def refute(self) -> None:
        """It never is: the attempt is over. What the code did since counts for nothing, and it begins anew."""
        assert self.ahead is not None
        order, self.ahead = self.ahead, None
        self.do(ReturnTask(order.ref, order.ordinal, order.token, order.session_id, counts=True, reason="lost"))
        events = len(self.world.events(self.key))
        with pytest.raises(errors.ResultNotRecorded):
            self.commit()
        assert len(self.world.events(self.key)) == events
        await self.lose(counts=False)

    async def tell(self, most: int) -> None:
        """The code hears of ends, of so many at a time."""
        assert self.run is not None
        told, self.news = self.news[:most], self.news[most:]
        self.run.advance([self.record(step) for step in told])
        await settle()

    async def go_on(self) -> None:
        """All that is known is decided and told, until the run ends or waits."""
        while not self.end and (self.host.reported is not None or self.news):
            await (self.answer() if self.host.reported is not None else self.tell(9))

    async def open_gate(self) -> None:
        """The function of a local step returns."""
        self.host.gates.pop(0).set_result(None)
        await settle()

    # --- the service ------------------------------------------------------------------------------------------------

    def do(self, order: Any) -> Any:
        answer = self.world.do(order)
        assert self.world.last is not None
        change = self.world.last.subjects.runs.get(self.key)
        if change is not None and not isinstance(order, ProgressRun):
            self.news += [each.step for each in change.news.ended]
        return answer

    def do_together(self, completed: CompleteActivity, order: ProgressRun) -> Any:
        """What an activity came to and what the code did then, in one batch. Nobody is told of the end."""
        self.ahead = None
        outcome, answer = self.world.batch(completed, order)
        assert outcome == Outcome()
        assert self.world.last is not None
        ended = self.world.last.subjects.runs[self.key].news.ended
        assert completed.ordinal not in {each.step.ordinal for each in ended}
        return answer

    def open_steps(self) -> list[Step]:
        return [step for step in steps_of(self.world, self.key) if isinstance(step, Step)]

    def named(self, name: str) -> Step:
        """The open step of that name."""
        return next(step for step in self.open_steps() if step.name == name)

    def finish(self, step: Step, *, fails: bool = False) -> None:
        """What an open step waits for comes."""
        ref = self.world.ref(self.key)
        if step.kind == Kind.TIMER:
            self.world.advance(3600)
            self.do(FireStep(ref, step.ordinal))
        elif step.kind == Kind.WAIT:
            self.do(SignalRun(ref, step.name, Payload(JSON, b'"%d"' % step.ordinal)))
        elif step.kind == Kind.USER_TASK:
            self._answer_task(step, fails=fails)
        else:
            self._report(step, fails=fails)

    def _answer_task(self, step: Step, *, fails: bool) -> None:
        """A person does it, or somebody cancels it."""
        task = self.world.store.user_tasks.rows[self.key, step.ordinal]
        named = (self.world.ref(self.key), step.ordinal, task.task_id)
        if fails:
            self.do(CancelUserTask(*named, "not needed"))
        else:
            self.do(ClaimUserTask(*named, "ann"))
            self.do(CompleteUserTask(*named, "ann", Payload(JSON, b'"%d"' % step.ordinal)))

    def _report(self, step: Step, *, fails: bool) -> None:
        if step.session_id is None:
            assert self.world.grant(self.key, step.ordinal) is not None
            step = self.world.step(self.key, step.ordinal)
        named = (self.world.ref(self.key), step.ordinal, self.world.session, step.grants)
        if fails and step.cancel_requested:
            self.do(CancelledActivity(*named, NULL))
        elif fails:
            self.do(FailActivity(*named, Failure(f"no {step.ordinal}", "Broken", non_retryable=True)))
        else:
            self.do(CompleteActivity(*named, Payload(JSON, b'"%d"' % step.ordinal)))

    async def cancel(self) -> None:
        """Somebody asks the run to cancel; the code hears at once."""
        self.do(CancelRun(self.world.ref(self.key), "enough"))
        assert self.run is not None
        self.run.cancellation.request("enough")
        await settle()

    # --- the record -------------------------------------------------------------------------------------------------

    def records(self) -> list[workers_pb2.StepRecord]:
        return [self.record(step) for step in steps_of(self.world, self.key)]

    def record(self, step: Step | ClosedStep) -> workers_pb2.StepRecord:
        payload, failure = NULL, None
        if isinstance(step, ClosedStep):
            event: Event = self.world.events(self.key)[result_event(step) - 1]
            attributes = unpack_attributes(event.attributes)
            payload, failure = payload_of(event.payload_kind, event.payload, attributes), attributes.failure
        (record,) = ended_to_proto([EndedStep(step, payload, failure)])  # type: ignore[arg-type] # open ones too
        return workers_pb2.StepRecord.FromString(record.SerializeToString())

    @property
    def has_failed(self) -> bool:
        return self.end == "fail"

    def awaited(self) -> set[tuple[str, str, int | str]]:
        """The open steps that the code still waits for."""
        assert self.run is not None
        return {key for key, call in self.run.open.items() if not call.is_forsaken}

    def check(self) -> None:
        """Where the code waits, what is open is what it waits for, and winners are those on record."""
        assert self.run is not None
        if self.host.reported is None and not self.news and not self.end and self.ahead is None:
            steps = {(step.scope, step.name, step.key or step.occurrence) for step in self.open_steps()}
            assert steps == self.awaited()


async def settle() -> None:
    """Lets the code go as far as it can."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    for _ in range(1000):
        await asyncio.sleep(0)
        if not ready:
            return
    raise AssertionError("the code does not come to rest")


async def _no_more() -> list[workers_pb2.StepRecord]:
    return []


def state_name(step: Step | ClosedStep) -> str:
    return types_pb2.StepState.Name(types_pb2.StepState.ValueType(step.state)).removeprefix("STEP_STATE_")
