"""What a workflow's code can do durably: its steps, activities, timers, waits, children and branches."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack, cast, overload

from stepwell import _attributes, _checkpoints, _steps
from stepwell._asked import Asked
from stepwell._calls import Call, ContinueRun
from stepwell._parallel import Parallel
from stepwell.options import ActivityOptions, ChildOptions, UserTaskOptions
from stepwell.policies import RetryPolicy, Seconds
from stepwell.search_attributes import Value
from stepwell.v1 import workers_pb2

if TYPE_CHECKING:
    from stepwell._runs import RunExecution

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a workflow's code may know about its run.

    `attempt` counts how often a worker took it, from 1; `run_attempt` how often it began anew by its retry policy, with
    nothing recorded, from 1.
    """

    namespace: str
    run_id: str
    workflow_id: str
    type: str
    task_queue: str
    attempt: int
    run_attempt: int
    create_time: dt.datetime
    traceparent: str


class Context(Asked, Parallel):
    """A run, as its code sees it: what is awaited here is recorded.

    When the run goes on elsewhere its code runs again from the top, and is answered from the record; so within a branch
    names must come in the same order each time. Calls in parallel belong into `gather`, `map` or
    `race`, which open branches.
    """

    __slots__ = ("_info", "_run")

    def __init__(self, run: RunExecution) -> None:
        """Ties the context to a run."""
        self._run = run
        self._info: RunInfo | None = None

    @property
    def info(self) -> RunInfo:
        """What is known of the run."""
        if self._info is None:
            task = self._run.task
            self._info = RunInfo(
                namespace=task.namespace,
                run_id=task.run_id,
                workflow_id=task.workflow_id,
                type=task.type,
                task_queue=task.task_queue,
                attempt=task.attempt,
                run_attempt=max(1, task.run_attempt),
                create_time=task.run_create_time.ToDatetime(dt.UTC),
                traceparent=task.traceparent,
            )
        return self._info

    @property
    def is_cancelled(self) -> bool:
        """Whether cancellation of the run was asked for."""
        return self._run.cancellation.is_due

    @overload
    async def step(
        self, name: str, fn: Callable[..., Awaitable[T]], *args: object, key: str = ..., retry: RetryPolicy | None = ...
    ) -> T: ...
    @overload
    async def step(
        self, name: str, fn: Callable[..., T], *args: object, key: str = ..., retry: RetryPolicy | None = ...
    ) -> T: ...
    def step(
        self, name: str, fn: Callable[..., Any], *args: object, key: str = "", retry: RetryPolicy | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Calls a function in this worker and records what it returns, before the code goes on.

        A plain function runs in a thread, an async one on the loop. It may run again if the worker dies before the
        record. `retry` tries it again in place (default: not). Raises `StepFailed` when it raised, recorded too.
        """
        return _checkpoints.checkpoint(self._run, name, fn, args, key=key, retry=retry)

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
        return _steps.activity(self._run, fn, input, options)

    @overload
    def child(
        self, workflow: Callable[..., Awaitable[T]], input: object = ..., **options: Unpack[ChildOptions]
    ) -> Call[T]: ...
    @overload
    def child(self, workflow: str, input: object = ..., **options: Unpack[ChildOptions]) -> Call[Any]: ...
    def child(
        self,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[ChildOptions],
    ) -> Call[Any]:
        """Starts a child run and gives its result, that of the run which finally continued it.

        Raises `ChildFailed` when it ended otherwise, or when a run of its workflow id is in the way.
        """
        return _steps.child(self._run, workflow, input, options)

    def sleep(self, seconds: Seconds, *, name: str = "sleep", key: str = "") -> Call[None]:
        """Goes on after this long, wherever and whatever happens meanwhile; from when the service records it."""
        return _steps.sleep(self._run, seconds, name, key)

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
        return _steps.wait_signal(self._run, name, timeout, as_type, key)

    @overload
    def wait_topic(self, topic: str, *, timeout: Seconds | None = ..., as_type: type[T], key: str = ...) -> Call[T]: ...
    @overload
    def wait_topic(
        self, topic: str, *, timeout: Seconds | None = ..., as_type: None = ..., key: str = ...
    ) -> Call[Any]: ...
    def wait_topic(
        self, topic: str, *, timeout: Seconds | None = None, as_type: object = None, key: str = ""
    ) -> Call[Any]:
        """Waits for an event of a topic and gives what it carries, as `as_type` if told.

        That is the earliest event kept for waits like this one that the run has not had; else the next one published
        from when the service has recorded the wait. The step's name is `topic` and the topic's. Raises `WaitTimeout`
        when `timeout` seconds (default: for ever) are over before it came.
        """
        return _steps.wait_topic(self._run, topic, timeout, as_type, key)

    @overload
    def user_task(
        self,
        name: str,
        input: object = ...,
        *,
        due: dt.datetime | Seconds | None = ...,
        timeout: Seconds | None = ...,
        as_type: type[T],
        key: str = ...,
        **options: Unpack[UserTaskOptions],
    ) -> Call[T]: ...
    @overload
    def user_task(
        self,
        name: str,
        input: object = ...,
        *,
        due: dt.datetime | Seconds | None = ...,
        timeout: Seconds | None = ...,
        as_type: None = ...,
        key: str = ...,
        **options: Unpack[UserTaskOptions],
    ) -> Call[Any]: ...
    def user_task(
        self,
        name: str,
        input: object = None,  # noqa: A002
        *,
        due: dt.datetime | Seconds | None = None,
        timeout: Seconds | None = None,
        as_type: object = None,
        key: str = "",
        **options: Unpack[UserTaskOptions],
    ) -> Call[Any]:
        """Asks somebody to do something, and gives what they come to, as `as_type` if told.

        People find it by `role`, `user` or `group`. `due`: a time, or seconds from when the service records it; for
        people only. Raises `WaitTimeout` when `timeout` seconds (default: for ever) are over, and `UserTaskCancelled`
        when somebody cancels the task.
        """
        return _steps.user_task(self._run, name, input, due, timeout, as_type, key, options)

    def side_effect(self, name: str, fn: Callable[[], T]) -> T:
        """Calls a quick function without outside effect once (a random number, the time) and records its value.

        The value travels with the next Progress; a checkpoint's function runs only after that is recorded.
        """
        return cast("T", _checkpoints.side_effect(self._run, name, fn))

    def set_attributes(self, values: Mapping[str, Value] | None = None, /, **named: Value) -> None:
        """Merges search attributes into the run's: text, numbers, flags, times; `None` takes a name away.

        They travel with the next Progress, as a step: a replay does not set them again. Where the run would have too
        many (32 names, 8 KiB) the step is recorded as failed, nothing is set, and the code goes on.
        """
        _attributes.set_attributes(self._run, {**(values or {}), **named})

    def patched(self, name: str) -> bool:
        """Tells whether this branch shall take the new way: true unless it had gone past here before the patch."""
        return _checkpoints.patched(self._run, name)

    def continue_as_new(self, input: object = None, *, type: str = "", task_queue: str = "") -> NoReturn:  # noqa: A002
        """Ends this run; a new one of the same workflow id goes on, with a record of its own. Never returns.

        `type` and `task_queue` are this run's by default.
        """
        payload = self._run.converter.to_payload(input)
        raise ContinueRun(workers_pb2.ContinueAsNew(input=payload, type=type, task_queue=task_queue))
