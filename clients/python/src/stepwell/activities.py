"""The decorator for activity functions, and what such a function may ask and tell while it runs.

    @activity(retry=RetryPolicy(maximum_attempts=3), heartbeat_timeout=10)
    def measure(path: str) -> Measures:
        for number, line in enumerate(open(path)):
            activity.heartbeat(number)

A plain function runs in a thread or process of the worker's, an async one on its loop.
"""

from __future__ import annotations

import contextvars
import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

from stepwell.definitions import ATTRIBUTE, ActivityDefaults, Definition
from stepwell.errors import StepwellError
from stepwell.policies import RetryPolicy, Seconds

F = TypeVar("F", bound=Callable[..., Any])


class ActivityCancelled(StepwellError):  # noqa: N818 - not an error: it was asked to stop
    """The activity was asked to stop. Raised by `activity.raise_if_cancelled`; let it pass."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ActivityInfo:
    """What an activity's function may know about its attempt.

    `attempt` counts from 1. `heartbeat_details` is what the attempt before told last, `None` if nothing; `deadline` is
    when the attempt times out. `run_id` and `workflow_id` name the run that asked for it; of a job they are empty, and
    `job_id` is its id.
    """

    namespace: str
    run_id: str
    workflow_id: str
    job_id: str
    type: str
    task_queue: str
    step_name: str
    step_ordinal: int
    attempt: int
    heartbeat_details: Any
    heartbeat_timeout: float | None
    deadline: dt.datetime | None
    schedule_time: dt.datetime | None
    traceparent: str


class Attempt(Protocol):
    """A running attempt, as its function sees it."""

    @property
    def info(self) -> ActivityInfo:
        """What is known of it."""
        ...

    def heartbeat(self, details: object) -> None:
        """Takes note of a sign of life."""
        ...

    def cancelled(self) -> bool:
        """Tells whether it was asked to stop."""
        ...


current: contextvars.ContextVar[Attempt] = contextvars.ContextVar("stepwell_attempt")


class _Activity:
    """The decorator `activity`, and the calls for inside an activity's function."""

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(
        self,
        fn: None = None,
        /,
        *,
        name: str = ...,
        retry: RetryPolicy | None = ...,
        start_to_close: Seconds | None = ...,
        schedule_to_close: Seconds | None = ...,
        heartbeat_timeout: Seconds | None = ...,
        task_queue: str = ...,
    ) -> Callable[[F], F]: ...
    def __call__(
        self,
        fn: F | None = None,
        /,
        *,
        name: str = "",
        retry: RetryPolicy | None = None,
        start_to_close: Seconds | None = None,
        schedule_to_close: Seconds | None = None,
        heartbeat_timeout: Seconds | None = None,
        task_queue: str = "",
    ) -> F | Callable[[F], F]:
        """Declares an activity; the function stays as it is.

        `name` is its type, default the function's name. The rest are defaults for `ctx.activity`: when to try again
        (default: without limit, from 1 s, doubling, up to 100 s), the seconds that one attempt or all together may take
        and that may pass between heartbeats (default: no limits), and its queue (default: the run's).
        """
        defaults = ActivityDefaults(
            retry=retry,
            start_to_close=start_to_close,
            schedule_to_close=schedule_to_close,
            heartbeat_timeout=heartbeat_timeout,
            task_queue=task_queue,
        )

        def declare(fn: F) -> F:
            definition = Definition(fn, name or fn.__name__, is_workflow=False, defaults=defaults)
            setattr(fn, ATTRIBUTE, definition)
            return fn

        return declare if fn is None else declare(fn)

    def info(self) -> ActivityInfo:
        """Tells about the running attempt. Raises `RuntimeError` outside of an activity."""
        return self._attempt().info

    def heartbeat(self, details: object = None) -> None:
        """Tells the service that the attempt is alive, and how far it is: the next attempt gets the last details.

        Cheap: what is told in quick succession is sent as one. Raises `RuntimeError` outside of an activity.
        """
        self._attempt().heartbeat(details)

    def is_cancelled(self) -> bool:
        """Tells whether the activity was asked to stop. Async functions get `asyncio.CancelledError` besides."""
        return self._attempt().cancelled()

    def raise_if_cancelled(self) -> None:
        """Raises `ActivityCancelled` if the activity was asked to stop."""
        if self._attempt().cancelled():
            raise ActivityCancelled("the activity was asked to stop")

    def _attempt(self) -> Attempt:
        attempt = current.get(None)
        if attempt is None:
            raise RuntimeError("this works only inside an activity that a worker runs")
        return attempt


activity = _Activity()
