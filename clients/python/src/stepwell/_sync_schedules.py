"""Schedules for programs without asyncio: those of `stepwell.schedules`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from stepwell.schedules import Overlap, ScheduleOptions, Schedules
    from stepwell.sync import Loop
    from stepwell.v1 import schedules_pb2


class SyncSchedules:
    """A client's schedules; `client.schedules`."""

    def __init__(self, loop: Loop, inner: Schedules) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def create(
        self,
        name: str,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[ScheduleOptions],
    ) -> schedules_pb2.Schedule:
        """Makes a schedule; `cron` is required. Raises `ScheduleExists`, `InvalidField`."""
        return self._loop.call(self._inner.create(name, workflow, input, **options))

    def get(self, name: str) -> schedules_pb2.Schedule:
        """Reads a schedule. Raises `ScheduleNotFound`."""
        return self._loop.call(self._inner.get(name))

    def list(self) -> Iterator[schedules_pb2.Schedule]:
        """Lists the namespace's schedules by name, without their runs' input."""
        return self._loop.iterate(self._inner.list())

    def update(self, name: str, **options: Unpack[ScheduleOptions]) -> schedules_pb2.Schedule:
        """Changes the options given, but for `paused`. Raises `ScheduleNotFound`, `InvalidField`."""
        return self._loop.call(self._inner.update(name, **options))

    def delete(self, name: str) -> bool:
        """Deletes a schedule; its runs go on. False if there was none."""
        return self._loop.call(self._inner.delete(name))

    def pause(self, name: str, reason: str = "") -> bool:
        """Stops a schedule from firing by the clock. False if it was paused. Raises `ScheduleNotFound`."""
        return self._loop.call(self._inner.pause(name, reason))

    def resume(self, name: str) -> bool:
        """Lets a schedule fire from now on. False if it was not paused. Raises `ScheduleNotFound`."""
        return self._loop.call(self._inner.resume(name))

    def trigger(
        self, name: str, *, request_id: str = "", skip_if_open: bool = False
    ) -> schedules_pb2.TriggerScheduleResponse:
        """Starts a run of it now, paused or not, and tells which. Raises `ScheduleNotFound`."""
        return self._loop.call(self._inner.trigger(name, request_id=request_id, skip_if_open=skip_if_open))

    def backfill(self, name: str, start: dt.datetime, end: dt.datetime, overlap: Overlap = "allow_all") -> int:
        """Fires the times of a span that is over, each once. Raises `ScheduleNotFound`, `LimitExceeded`."""
        return self._loop.call(self._inner.backfill(name, start, end, overlap))

    def next_times(self, name: str, count: int = 10) -> Sequence[dt.datetime]:
        """Tells when a schedule would fire, in UTC, without jitter. Raises `ScheduleNotFound`."""
        return self._loop.call(self._inner.next_times(name, count))
