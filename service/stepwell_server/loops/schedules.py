"""Schedules: fires what is due, and what waited for an open run to end."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from stepwell_server import refusals, telemetry
from stepwell_server.engine import schedules as engine
from stepwell_server.engine.cron import BadTimes, with_jitter
from stepwell_server.engine.runs import CancelRun, TerminateRun
from stepwell_server.engine.starts import Started
from stepwell_server.loops.orders import SLICE, CommandLoop, submit_all
from stepwell_server.model.runs import RunRef
from stepwell_server.model.schedules import ScheduleRun
from stepwell_server.store import schedules as store
from stepwell_server.store.schedule_runs import bound, open_runs_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from stepwell_server.engine.committer.orders import Order
    from stepwell_server.engine.schedules import Plan
    from stepwell_server.model.schedules import OpenRun, Schedule, Waiting

_log = structlog.get_logger("stepwell.schedules")
_FIRINGS = 64
_SHORTEST_SECONDS = 0.01
_BEFORE_ALL = UUID(int=0)


class Schedules(CommandLoop):
    """See the module. Runs are started first and noted after: their ids follow from the times, so a repeat is none."""

    name = "schedules"

    _place = _BEFORE_ALL
    _next: datetime | None = None

    def pause(self, done: int) -> float:
        """None, if more is due than one round took; else until the next time that is known."""
        pause = super().pause(done)
        if not pause or self._next is None:
            return pause
        return max(_SHORTEST_SECONDS, min(pause, (self._next - self._clock.now()).total_seconds()))

    async def run_once(self) -> int:
        """Answers how many schedules something became of."""
        now = self._clock.now()
        async with self._connection.use() as connection:
            due = await store.read_due(connection, now, SLICE)
            waiting = await store.read_waiting(connection, self._place, SLICE)
            self._place = waiting[-1].schedule_id if len(waiting) == SLICE else _BEFORE_ALL
            known = {schedule.schedule_id for schedule in due}
            looked_at = [*due, *(schedule for schedule in waiting if schedule.schedule_id not in known)]
            firings = await store.read_firings(connection, looked_at, _FIRINGS)
            heeding = [each for each in looked_at if engine.heeds_open_runs(each, firings.get(each.schedule_id, []))]
            open_runs = await open_runs_of(connection, heeding)
            self._next = await store.next_after(connection, now)
        self._has_more = len(due) == SLICE
        looks = [self._look(schedule, firings, open_runs, now) for schedule in looked_at]
        news = [look for look in looks if look is not None and look.is_news]
        if not news:
            return 0
        await self._make_way(news)
        return await self._fire(news)

    def _look(
        self,
        schedule: Schedule,
        firings: dict[UUID, list[Waiting]],
        open_runs: dict[UUID, list[OpenRun]],
        now: datetime,
    ) -> _Look | None:
        waiting, still_open = firings.get(schedule.schedule_id, []), open_runs.get(schedule.schedule_id, [])
        try:
            plan = engine.plan(schedule, waiting, still_open, now)
        except BadTimes as error:
            # A zone that this machine does not know: another replica may.
            _log.warning("schedule left alone", schedule=schedule.name, cause=error.problem)
            return None
        return _Look(schedule, waiting, still_open, plan, now)

    async def _make_way(self, looks: Sequence[_Look]) -> None:
        """Stops the open runs that are in the way."""
        orders: list[Order] = []
        for look in looks:
            reason = f"schedule {look.schedule.name} is due again"
            for run in look.open_runs:
                ref = RunRef(look.schedule.namespace_id, "", run.run_key)
                if look.plan.terminate:
                    orders.append(TerminateRun(ref, reason))
                elif look.plan.cancel and not run.cancel_requested:
                    orders.append(CancelRun(ref, reason))
        await submit_all(self._committers, orders)

    async def _fire(self, looks: Sequence[_Look]) -> int:
        starts = [(look, nominal) for look in looks for nominal in look.plan.starts]
        orders: list[Order] = [
            engine.start_of(look.schedule, nominal, _new_trace(look.schedule)) for look, nominal in starts
        ]
        for (look, nominal), answer in zip(starts, await submit_all(self._committers, orders), strict=True):
            look.started(nominal, answer)
        settled = [look for look in looks if not look.is_held_up]
        gone = [each for look in settled for each in look.waiting if each not in look.plan.keep]
        kept = [each for look in settled for each in look.plan.keep if each not in look.waiting]
        begun = [each for look in settled for each in look.begun]
        if not settled:
            return 0
        async with self._connection.use() as connection:
            written = await store.write_fired(connection, [look.fired() for look in settled], gone, kept, begun)
            await bound(connection, begun)
        return written


class _Look:
    """One schedule in one round."""

    def __init__(
        self, schedule: Schedule, waiting: list[Waiting], open_runs: list[OpenRun], plan: Plan, now: datetime
    ) -> None:
        self.schedule = schedule
        self.waiting = waiting
        self.open_runs = open_runs
        self.plan = plan
        self.begun: list[ScheduleRun] = []
        self.is_held_up = False
        self._now = now
        self._last: tuple[datetime, Started] | None = None
        self._fired = 0
        self._error = "" if plan.starts else schedule.last_error

    @property
    def is_news(self) -> bool:
        """Whether anything becomes of it."""
        plan = self.plan
        moved = plan.next_nominal != self.schedule.next_nominal
        return bool(moved or plan.starts or plan.cancel or plan.keep != self.waiting)

    def started(self, nominal: datetime, answer: object) -> None:
        """Notes what came of a start. One that was not decided on holds its schedule up until the next round."""
        if isinstance(answer, Started):
            # One that is found was started by a look that did not come to note it, or is repeated by a backfill.
            last_time = self.schedule.last_time
            self._fired += answer.started or last_time is None or nominal > last_time
            self._last = (nominal, answer)
            name = engine.workflow_id_of(self.schedule, nominal)
            self.begun.append(ScheduleRun(self.schedule.schedule_id, name, self._now))
        elif isinstance(answer, refusals.AlreadyExists | refusals.NotFound | refusals.InvalidArgument):
            self._error = str(answer)
            _log.warning("firing refused", schedule=self.schedule.name, time=str(nominal), cause=self._error)
        else:
            self.is_held_up = True
            _log.warning("firing held up", schedule=self.schedule.name, time=str(nominal), cause=str(answer))

    def fired(self) -> store.Fired:
        """How its row changes."""
        schedule, plan = self.schedule, self.plan
        nominal, next_time = plan.next_nominal, schedule.next_time
        if nominal != schedule.next_nominal:
            next_time = None if nominal is None else with_jitter(schedule.spec, schedule.schedule_id, nominal)
        last_time, last = self._last or (None, None)
        return store.Fired(
            schedule_id=schedule.schedule_id,
            version=schedule.version,
            next_time=next_time,
            next_nominal=nominal,
            last_time=last_time,
            last_workflow_id=None if last_time is None else engine.workflow_id_of(schedule, last_time),
            last_run_id=None if last is None else last.run_id,
            fired=self._fired,
            skipped=plan.skipped,
            missed=plan.missed,
            last_error=self._error,
        )


def _new_trace(schedule: Schedule) -> str:
    """A firing begins a trace, linked to the call by which the schedule is as it is."""
    template = engine.unpack_run(schedule.run)
    return telemetry.new_root(template.traceparent, type=template.type)
