"""Timers: what waits for a time, a slice at a time. Steps and runs are read alike; the commands look again."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from stepwell_server.engine.change import Change
from stepwell_server.engine.timers import FireStep
from stepwell_server.loops.orders import SLICE, CommandLoop, submit_all
from stepwell_server.model.jobs import JobRef
from stepwell_server.model.runs import RunRef
from stepwell_server.store import timers
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.timers import Due

_WAKE = "wake"
_GRAIN_SECONDS = 0.02


class Firing(CommandLoop):
    """Fires what is due. Between rounds it sleeps until the next time that it knows of, and not beyond its pause."""

    heard_since: Callable[[], datetime | None] = staticmethod(lambda: None)
    """Since when beats are written, as far as that is known: none is missed before."""
    _alarm: tuple[datetime, asyncio.TimerHandle] | None = None

    @abstractmethod
    async def read(self, connection: Connection, now: datetime, most: int) -> list[Due]:
        """What is due, earliest first."""

    @abstractmethod
    async def read_next(self, connection: Connection, now: datetime) -> datetime | None:
        """When the next is due after that."""

    @abstractmethod
    def order(self, due: Due) -> Order:
        """The command that looks at it; answers whether anything came of it."""

    def nudge(self, wake_time: datetime) -> None:
        """Tells of something that will be due, perhaps earlier than what is known."""
        if self._alarm is not None:
            if self._alarm[0] <= wake_time:
                return
            self._alarm[1].cancel()
        delay = (wake_time - self._clock.now()).total_seconds()
        self._alarm = (wake_time, asyncio.get_running_loop().call_later(max(0.0, delay), self.wake))

    def is_soon(self, wake_time: datetime) -> bool:
        """Whether that is before the next look."""
        return (wake_time - self._clock.now()).total_seconds() < self._seconds

    async def run_once(self) -> int:
        """Fires a slice."""
        self._clear_alarm()
        now, steady = self._clock.now(), self._clock.monotonic()
        self._deferred.forget_old(steady)
        most = SLICE + len(self._deferred)
        async with self._connection.use() as connection:
            found = await self.read(connection, now, most)
            self._has_more = len(found) == most
            following = None if self._has_more else await self.read_next(connection, now)
        if following is not None:
            self.nudge(following)
        wanted = [due for due in found if not self._deferred.is_left(due, steady)][:SLICE]
        # What nothing came of before is due, and yet not late.
        first = next((due for due in wanted if due not in self._deferred), None)
        if first is not None:
            metrics.observe_lateness(self.name, (now - first.wake_time).total_seconds())
        return await self._fire(wanted)

    async def _fire(self, found: Sequence[Due]) -> int:
        """What nothing comes of may stay due, and is left alone for a while, so that it does not hide the rest."""
        answers = await submit_all(self._committers, [self.order(due) for due in found])
        done = 0
        for due, answer in zip(found, answers, strict=True):
            if answer is True:
                done += 1
                self._deferred.forget(due)
            else:
                self._deferred.add(due, self._clock.monotonic())
        return done

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm[1].cancel()
            self._alarm = None


class Timers(Firing):
    """Steps: timers fire, waits and activities time out, activities try again."""

    name = "timers"

    async def read(self, connection: Connection, now: datetime, most: int) -> list[Due]:
        return await timers.read_due_steps(connection, now, most)

    async def read_next(self, connection: Connection, now: datetime) -> datetime | None:
        return await timers.next_step_after(connection, now)

    def order(self, due: Due) -> Order:
        return FireStep(RunRef(due.namespace_id, "", due.run_key), due.ordinal, self.heard_since())


class JobTimers(Firing):
    """Jobs: they begin, time out, try again."""

    name = "jobs"

    async def read(self, connection: Connection, now: datetime, most: int) -> list[Due]:
        return await timers.read_due_jobs(connection, now, most)

    async def read_next(self, connection: Connection, now: datetime) -> datetime | None:
        return await timers.next_job_after(connection, now)

    def order(self, due: Due) -> Order:
        return FireStep(JobRef(due.namespace_id, "", due.run_key), due.ordinal, self.heard_since())


class Alarms:
    """Hears what this replica commits, and nudges the timers, here or at the leader: they need not wait for a look."""

    def __init__(
        self,
        steps: Firing,
        runs: Firing,
        jobs: Firing,
        is_leading: Callable[[], bool],
        publish: Callable[[str, object], None],
    ) -> None:
        self._steps = steps
        self._runs = runs
        self._jobs = jobs
        self._is_leading = is_leading
        self._publish = publish

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """Tells of each time that was set."""
        del committer, position
        for change in changes:
            if not isinstance(change, Change):
                if change.has_changed and change.job is not None and change.job.wake_time is not None:
                    self._tell(self._jobs, change.job.wake_time)
                continue
            run, before = change.run, change.original
            if run is None:
                continue
            if run.wake_time is not None and (before is None or before.wake_time != run.wake_time):
                self._tell(self._runs, run.wake_time)
            for ordinal in change.touched:
                step = change.steps.get(ordinal)
                if step is not None and step.wake_time is not None:
                    self._tell(self._steps, step.wake_time)

    def unsettled(self) -> None:
        """The next look finds whatever there is."""

    def hinted(self, kind: str, data: object) -> None:
        """What another replica tells."""
        if kind == _WAKE and isinstance(data, list) and self._is_leading():
            loops = {loop.name: loop for loop in (self._steps, self._runs, self._jobs)}
            loops[data[0]].nudge(datetime.fromtimestamp(data[1] * _GRAIN_SECONDS, UTC))

    def _tell(self, loop: Firing, wake_time: datetime) -> None:
        if self._is_leading():
            loop.nudge(wake_time)
        elif loop.is_soon(wake_time):
            # Rounded up, so that many within a moment are one.
            self._publish(_WAKE, [loop.name, math.ceil(wake_time.timestamp() / _GRAIN_SECONDS)])
