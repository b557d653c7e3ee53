"""What a workflow's code can do durably: its steps, activities, timers, waits, children and branches."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Unpack, cast, overload

from stepwell import _checkpoints, errors
from stepwell._calls import Call, ContinueRun
from stepwell._groups import Group
from stepwell.definitions import NO_DEFAULTS, Definition, definition_of, type_and_hint
from stepwell.options import ActivityOptions, StepOptions
from stepwell.policies import RetryPolicy, Seconds, duration
from stepwell.v1 import types_pb2, workers_pb2

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell.v1.workers_pb2 import StepRecord

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item

_COMPLETED = types_pb2.STEP_STATE_COMPLETED
_SKIPPED = types_pb2.STEP_STATE_SKIPPED
_PARENT_CLOSE = {
    "terminate": types_pb2.PARENT_CLOSE_POLICY_TERMINATE,
    "cancel": types_pb2.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
    "abandon": types_pb2.PARENT_CLOSE_POLICY_ABANDON,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a workflow's code may know about its run. `attempt` counts how often a worker took it, from 1."""

    namespace: str
    run_id: str
    workflow_id: str
    type: str
    task_queue: str
    attempt: int
    create_time: dt.datetime
    traceparent: str


class Context:
    """A run, as its code sees it: what is awaited here is recorded.

    When the run goes on elsewhere its code runs again from the top, and is answered from the record; so within a branch
    names must come in the same order each time. Calls in parallel belong into `gather` or `map`, which open branches.
    """

    __slots__ = ("_run", "info")

    def __init__(self, run: RunExecution) -> None:
        """Ties the context to a run."""
        task = run.task
        self._run = run
        self.info = RunInfo(
            namespace=task.namespace,
            run_id=task.run_id,
            workflow_id=task.workflow_id,
            type=task.type,
            task_queue=task.task_queue,
            attempt=task.attempt,
            create_time=task.run_create_time.ToDatetime(dt.UTC),
            traceparent=task.traceparent,
        )

    @property
    def is_cancelled(self) -> bool:
        """Whether cancellation of the run was asked for."""
        return self._run.is_cancel_due

    @overload
    async def step(
        self, name: str, fn: Callable[..., Awaitable[T]], *args: object, key: str = ..., retry: RetryPolicy | None = ...
    ) -> T: ...
    @overload
    async def step(
        self, name: str, fn: Callable[..., T], *args: object, key: str = ..., retry: RetryPolicy | None = ...
    ) -> T: ...
    async def step(
        self, name: str, fn: Callable[..., Any], *args: object, key: str = "", retry: RetryPolicy | None = None
    ) -> Any:
        """Calls a function in this worker and records what it returns, before the code goes on.

        A plain function runs in a thread, an async one on the loop. It may run again if the worker dies before the
        record. `retry` tries it again in place (default: not). Raises `StepFailed` when it raised, recorded too.
        """
        return await _checkpoints.checkpoint(self._run, name, fn, args, key=key, retry=retry)

    @overload
    def activity(
        self,
        fn: Callable[..., Awaitable[T]],
        input: object = ...,
        **options: Unpack[ActivityOptions],
    ) -> Call[T]: ...
    @overload
    def activity(
        self,
        fn: Callable[..., T],
        input: object = ...,
        **options: Unpack[ActivityOptions],
    ) -> Call[T]: ...
    @overload
    def activity(self, fn: str, input: object = ..., **options: Unpack[ActivityOptions]) -> Call[Any]: ...
    def activity(
        self,
        fn: Callable[..., Any] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[ActivityOptions],
    ) -> Call[Any]:
        """Has any worker of a queue perform an activity (a function with `@activity`, or a name), and gives its result.

        Raises `ActivityFailed` when it failed for good.
        """
        kind, hint = type_and_hint(fn, "activity")
        defaults = cast("Definition", definition_of(fn)).defaults if not isinstance(fn, str) else NO_DEFAULTS
        run = self._run

        def spell() -> dict[str, Any]:
            retry = options.get("retry", defaults.retry)
            step = workers_pb2.ActivityStep(
                type=kind,
                task_queue=options.get("task_queue", defaults.task_queue),
                input=run.converter.to_payload(input),
                retry=None if retry is None else retry.to_proto(),
                schedule_to_start_timeout=duration(options.get("schedule_to_start")),
                schedule_to_close_timeout=duration(options.get("schedule_to_close", defaults.schedule_to_close)),
                start_to_close_timeout=duration(options.get("start_to_close", defaults.start_to_close)),
                heartbeat_timeout=duration(options.get("heartbeat_timeout", defaults.heartbeat_timeout)),
                priority=options.get("priority"),
            )
            return {"activity": step}

        name = options.get("name", kind)
        read = self._reader(name, hint, errors.ActivityFailed)
        return Call(
            run, kind=types_pb2.STEP_KIND_ACTIVITY, name=name, key=options.get("key", ""), spell=spell, read=read
        )

    @overload
    def child(
        self,
        workflow: Callable[..., Awaitable[T]],
        input: object = ...,
        *,
        workflow_id: str = ...,
        parent_close: Literal["terminate", "cancel", "abandon"] = ...,
        run_timeout: Seconds | None = ...,
        task_queue: str = ...,
        **options: Unpack[StepOptions],
    ) -> Call[T]: ...
    @overload
    def child(
        self,
        workflow: str,
        input: object = ...,
        *,
        workflow_id: str = ...,
        parent_close: Literal["terminate", "cancel", "abandon"] = ...,
        run_timeout: Seconds | None = ...,
        task_queue: str = ...,
        **options: Unpack[StepOptions],
    ) -> Call[Any]: ...
    def child(
        self,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        *,
        workflow_id: str = "",
        parent_close: Literal["terminate", "cancel", "abandon"] = "terminate",
        run_timeout: Seconds | None = None,
        task_queue: str = "",
        **options: Unpack[StepOptions],
    ) -> Call[Any]:
        """Starts a child run and gives its result. Raises `ChildFailed` when it ended otherwise.

        `parent_close` says what becomes of it if this run ends first, `run_timeout` how many seconds it may take
        (default: no limit), `task_queue` where its tasks wait (default: this run's).
        """
        kind, hint = type_and_hint(workflow, "workflow")
        run = self._run

        def spell() -> dict[str, Any]:
            step = workers_pb2.ChildStep(
                type=kind,
                task_queue=task_queue,
                workflow_id=workflow_id,
                input=run.converter.to_payload(input),
                parent_close_policy=_PARENT_CLOSE[parent_close],
                run_timeout=duration(run_timeout),
            )
            return {"child": step}

        name = options.get("name", kind)
        read = self._reader(name, hint, errors.ChildFailed)
        return Call(run, kind=types_pb2.STEP_KIND_CHILD, name=name, key=options.get("key", ""), spell=spell, read=read)

    def sleep(self, seconds: Seconds, *, name: str = "sleep", key: str = "") -> Call[None]:
        """Goes on after this long, wherever and whatever happens meanwhile; from when the service records it."""

        def spell() -> dict[str, Any]:
            return {"timer": workers_pb2.TimerStep(duration=duration(seconds))}

        return Call(self._run, kind=types_pb2.STEP_KIND_TIMER, name=name, key=key, spell=spell, read=_nothing)

    @overload
    def wait_signal(self, name: str, *, timeout: Seconds | None = ..., as_type: type[T], key: str = ...) -> Call[T]: ...
    @overload
    def wait_signal(
        self, name: str, *, timeout: Seconds | None = ..., as_type: None = ..., key: str = ...
    ) -> Call[Any]: ...
    def wait_signal(
        self, name: str, *, timeout: Seconds | None = None, as_type: object = None, key: str = ""
    ) -> Call[Any]:
        """Waits for a signal and gives what it carries, as `as_type` if told. Each wait takes one, oldest first.

        Raises `WaitTimeout` when `timeout` seconds (default: for ever) are over before it came.
        """

        def spell() -> dict[str, Any]:
            return {"wait": workers_pb2.WaitStep(signal_name=name, timeout=duration(timeout))}

        value = self._reader(name, as_type, errors.StepFailed)

        def read(record: StepRecord) -> Any:  # noqa: ANN401 - what the signal carries
            if record.timed_out:
                raise errors.WaitTimeout(name)
            return value(record)

        return Call(self._run, kind=types_pb2.STEP_KIND_WAIT, name=name, key=key, spell=spell, read=read)

    async def gather(self, *awaitables: Awaitable[T]) -> list[T]:
        """Does several things in parallel, each in a branch of its own, and gives their results in order.

        Waits for all of them; then raises the failure of the first in order that failed, if any did.
        """
        group = Group(self._run, self._run.present_scope(), len(awaitables), awaitables.__getitem__)
        return await group.join(None)

    @overload
    async def map(self, fn: Callable[[I], Awaitable[T]], items: Iterable[I], *, limit: int | None = ...) -> list[T]: ...
    @overload
    async def map(self, fn: Callable[[I], T], items: Iterable[I], *, limit: int | None = ...) -> list[T]: ...
    async def map(self, fn: Callable[[I], Any], items: Iterable[I], *, limit: int | None = None) -> list[Any]:
        """Does one thing for each item, each in a branch of its own, at most `limit` at a time (default: all).

        `fn` is a function with `@activity`, or gives something to await: `lambda item: ctx.activity(...)`, or an async
        function. Gives the results in order; fails as `gather` does.
        """
        if limit is not None and limit < 1:
            raise ValueError("limit must be at least 1")
        run = self._run
        found = definition_of(fn)
        inputs = list(items)
        if found is not None and not found.is_workflow:
            group = Group(run, run.present_scope(), len(inputs), lambda index: self.activity(fn, inputs[index]))
        else:
            group = Group(run, run.present_scope(), len(inputs), lambda index: fn(inputs[index]))
        return await group.join(limit)

    def side_effect(self, name: str, fn: Callable[[], T]) -> T:
        """Calls a quick function without outside effect once (a random number, the time) and records its value.

        The value travels with the next Progress; a checkpoint's function runs only after that is recorded.
        """
        return cast("T", _checkpoints.side_effect(self._run, name, fn))

    def patched(self, name: str) -> bool:
        """Tells whether this branch shall take the new way: true unless it had gone past here before the patch."""
        return _checkpoints.patched(self._run, name)

    def continue_as_new(self, input: object = None, *, type: str = "", task_queue: str = "") -> NoReturn:  # noqa: A002
        """Ends this run; a new one of the same workflow id goes on, with a record of its own. Never returns.

        `type` and `task_queue` are this run's by default.
        """
        payload = self._run.converter.to_payload(input)
        raise ContinueRun(workers_pb2.ContinueAsNew(input=payload, type=type, task_queue=task_queue))

    def _reader(self, name: str, hint: object, error: type[errors.StepError]) -> Callable[[StepRecord], Any]:
        converter = self._run.converter

        def read(record: StepRecord) -> Any:  # noqa: ANN401 - the hint says what it is
            if record.state == _COMPLETED:
                return converter.from_payload(record.result, hint)
            if record.state == _SKIPPED:
                return None
            raise error(name, record.failure)

        return read


def _nothing(record: StepRecord) -> None:
    """A timer has no value."""
