"""Workers without a stream for programs without asyncio: those of `stepwell.sessions`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from stepwell.policies import Seconds
    from stepwell.sessions import Kind, Session
    from stepwell.sync import Loop
    from stepwell.v1 import workers_pb2 as messages


class SyncSession:
    """A worker's session. It ends with `close`, or `ttl` seconds after its last sign of life, with all it holds."""

    def __init__(self, loop: Loop, inner: Session) -> None:
        """Use `Client.open_session`."""
        self._loop = loop
        self._inner = inner
        self.session_id = inner.session_id
        self.ttl = inner.ttl

    def close(self) -> bool:
        """Ends the session at once: what it holds goes back, no attempt is spent. False if it was over."""
        return self._loop.call(self._inner.close())

    def __enter__(self) -> Self:
        """Gives the session."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def claim(
        self, kind: Kind | None = None, *, task_queue: str = "", max_tasks: int = 1, wait: Seconds = 0
    ) -> list[messages.Task]:
        """Takes at most `max_tasks` (1 to 256) that wait, of one queue, as `stepwell.sessions.Session.claim`."""
        return self._loop.call(self._inner.claim(kind, task_queue=task_queue, max_tasks=max_tasks, wait=wait))

    def steps_of(self, task: messages.Task) -> Iterator[messages.StepRecord]:
        """Reads all recorded steps of a run's task by ordinal, also what it could not carry. Raises `LeaseLost`."""
        return self._loop.iterate(self._inner.steps_of(task))

    def input_of(self, task: messages.Task, as_type: object = None) -> Any:  # noqa: ANN401 - the type says
        """What a task was given, as `as_type` if told. Raises `ConversionError`."""
        return self._inner.input_of(task, as_type)

    def details_of(self, task: messages.Task, as_type: object = None) -> Any:  # noqa: ANN401
        """What an activity's attempt before told by its last heartbeat; None if nothing. Raises `ConversionError`."""
        return self._inner.details_of(task, as_type)

    def complete(self, task: messages.Task, result: object = None) -> None:
        """Reports that an activity is done. Raises `LeaseLost` if it is the session's no more, `SessionNotFound`."""
        self._loop.call(self._inner.complete(task, result))

    def fail(self, task: messages.Task, error: BaseException) -> None:
        """Reports that an activity's attempt failed: the service decides whether to try again. Raises as `complete`."""
        self._loop.call(self._inner.fail(task, error))

    def cancelled(self, task: messages.Task, details: object = None) -> None:
        """Reports that an activity stopped, because it was asked to. Raises as `complete`."""
        self._loop.call(self._inner.cancelled(task, details))

    def release(self, task: messages.Task, reason: str = "") -> None:
        """Gives a task back undone, of an activity or a run; no attempt is spent. Raises as `complete`."""
        self._loop.call(self._inner.release(task, reason))

    def report(self, reports: Iterable[messages.Report]) -> list[messages.ReportResult]:
        """Sends 1 to 256 reports and gives the answer of each, as `stepwell.sessions.Session.report`."""
        return self._loop.call(self._inner.report(reports))

    def heartbeat(
        self, tasks: Sequence[messages.Task] = (), details: object = None
    ) -> list[messages.TaskHeartbeatResult]:
        """Extends the session, and notes a sign of life of each activity, as `stepwell.sessions.Session.heartbeat`."""
        return self._loop.call(self._inner.heartbeat(tasks, details))
