"""Watching over sessions: assignments that nobody acknowledged, silent streams, sessions that are over, lost news.

A replica that is itself late does not judge others.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from stepwell_server import refusals
from stepwell_server.dispatch.gauges import measure_capacity
from stepwell_server.dispatch.messages import TaskNotice
from stepwell_server.model.jobs import JOB_ORDINAL, Job
from stepwell_server.model.steps import Step
from stepwell_server.store import batch_reads, job_batches, recall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell_server.dispatch.assignments import Reader
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.beats import Beats
    from stepwell_server.dispatch.pushes import Pushes
    from stepwell_server.dispatch.registry import Registry
    from stepwell_server.dispatch.sessions import TaskKey, WorkerSession
    from stepwell_server.settings import Settings

_log = structlog.get_logger("stepwell.dispatch")
_TICK_SECONDS = 1.0
_LATE_SECONDS = 1.5
_RECONCILE_SECONDS = 5.0
_TASKS_AT_ONCE = 500
_SESSIONS_AT_ONCE = 64
_Lease = tuple[UUID, tuple[int, int], int]  # session, task, token


class Upkeep:
    """See the module."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        settings: Settings,
        registry: Registry,
        pushes: Pushes,
        beats: Beats,
        reader: Reader,
        background: Background,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._sessions = registry.sessions
        self._pushes = pushes
        self._beats = beats
        self._reader = reader
        self._background = background
        self._unknown: set[_Lease] = set()
        self._leases_time = time.monotonic() + settings.session_seconds

    def start(self) -> None:
        """Begins."""
        self._background.spawn(self._watch_over())
        self._background.spawn(self._reconcile_for_ever())

    # --- judging ----------------------------------------------------------------------------------------------------

    async def _watch_over(self) -> None:
        settings = self._settings
        tick = min(_TICK_SECONDS, settings.ack_seconds / 4, settings.heartbeat_seconds / 4, settings.ping_seconds / 4)
        last = time.monotonic()
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            measure_capacity(self._sessions.values())
            if now - last < tick + _LATE_SECONDS:
                for session in list(self._sessions.values()):
                    self._judge(session, now)
            last = now

    def _judge(self, session: WorkerSession, now: float) -> None:
        settings = self._settings
        if not session.attached:
            if now - session.detached_at > settings.session_seconds:
                self._registry.forget(session)
            return
        self._judge_assignments(session, now)
        self._judge_age(session, now)
        silent = now - session.heard_at
        if silent > settings.ping_seconds * 1.5:
            self._registry.detach(session)
        elif silent > settings.ping_seconds:
            session.outbox.ping(int(now * 1000))
        if session.heard_since_beat and now - session.beaten_at > settings.heartbeat_seconds / 2:
            session.heard_since_beat, session.beaten_at = False, now
            self._background.spawn(self._prolong(session))

    def _judge_age(self, session: WorkerSession, now: float) -> None:
        """Workers move now and then, so that new replicas get some. Who does not heed it is given work again."""
        if now < session.stays_until:
            return
        if session.stays_until and not session.is_sent_away:
            session.is_sent_away, session.stays_until = True, now + self._settings.ping_seconds
            self._background.spawn(self._registry.send_away([session]))
            return
        if session.is_sent_away:
            session.is_sent_away = False
            if not session.draining:
                self._registry.attach(session)
        # Streams of one age do not all move in the same moment.
        session.stays_until = now + self._settings.connection_seconds * random.uniform(0.9, 1.1)

    def _judge_assignments(self, session: WorkerSession, now: float) -> None:
        """An assignment that lies returns; its worker gets no other before it says something."""
        for key, held in list(session.held.items()):
            if held.acknowledged or not held.assigned or now - held.assigned_at <= self._settings.ack_seconds:
                continue
            session.is_mute = True
            if not session.outbox.withdraw(*key, held.token):
                session.outbox.revoke(TaskNotice(*key, held.token, "ACK_TIMEOUT"))
            session.drop(key)
            self._registry.give_back(session, key, held.token, counts=False, reason="not acknowledged in time")
            self._pushes.freed(session)

    async def _prolong(self, session: WorkerSession) -> None:
        flushed = await self._beats.beat(session.session_id, [])
        if session.is_superseded:
            return
        if flushed.expire_time is None:
            self._registry.lose(session)
        else:
            session.outbox.prolonged(flushed.expire_time)

    # --- reconciliation ---------------------------------------------------------------------------------------------

    async def _reconcile_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_RECONCILE_SECONDS)
            try:
                await self._look()
            except refusals.Refusal as refusal:
                _log.info("nothing was compared", reason=refusal.reason)
            except Exception:  # noqa: BLE001 - what the database refuses once is no reason never to look again
                _log.exception("nothing was compared")

    async def _look(self) -> None:
        await self.reconcile()
        if self._pushes.deliveries is not None:
            self._background.spawn(self._pushes.deliveries.look())
        if self._unknown or time.monotonic() > self._leases_time:
            await self._return_unknown()
            self._leases_time = time.monotonic() + self._settings.session_seconds

    def doubt(self) -> None:
        """What was committed is not known: leases too are compared, at the next round."""
        self._leases_time = 0.0
        self._background.spawn(self.reconcile())

    async def reconcile(self) -> None:
        """Compares what is held in memory with the database, for tasks whose news may have gone astray."""
        runs = self._held(is_run=True)
        while part := _some(runs):
            async with self._reader.connection() as connection:
                found = await recall.read_leases(connection, [key[0] for _, key in part])
            for session, key in part:
                await self._compare(session, key, found.get(key[0]))
        activities = self._held(is_run=False)
        while part := _some(activities):
            await self._compare_activities(part)

    async def _compare_activities(self, part: list[tuple[WorkerSession, TaskKey]]) -> None:
        steps = sorted(key for _, key in part if key[1] != JOB_ORDINAL)
        jobs = sorted(key for key, ordinal in {key for _, key in part} if ordinal == JOB_ORDINAL)
        async with self._reader.connection() as connection:
            found = await batch_reads.read_steps(connection, steps) if steps else []
            open_jobs = await job_batches.read_jobs(connection, jobs) if jobs else {}
        opened: dict[TaskKey, Step | Job] = {(key, JOB_ORDINAL): job for key, job in open_jobs.items()}
        opened |= {(step.run_key, step.ordinal): step for step in found if isinstance(step, Step)}
        for session, key in part:
            each = opened.get(key)
            lease = (each.session_id, each.grants) if each is not None else None
            if self._revoke_unless(session, key, lease) and each is not None and each.cancel_requested:
                reason = each.cancel_reason if isinstance(each, Job) else None
                self._pushes.remind(session, key, each.grants, reason)

    def _held(self, *, is_run: bool) -> Iterator[tuple[WorkerSession, TaskKey]]:
        attached = [session for session in self._sessions.values() if session.attached]
        return iter([(session, key) for session in attached for key in session.held if is_run is not bool(key[1])])

    async def _compare(self, session: WorkerSession, key: TaskKey, found: tuple[UUID | None, int, int] | None) -> None:
        if not self._revoke_unless(session, key, found[:2] if found is not None else None) or found is None:
            return
        held = session.held.get(key)
        if held is not None and found[2] > held.told_event:
            await self._pushes.catch_up(session, key[0])

    def _revoke_unless(self, session: WorkerSession, key: TaskKey, lease: tuple[UUID | None, int] | None) -> bool:
        """Revokes a task that the database says another holds, or nobody; an older look judges no newer grant."""
        held = session.held.get(key)
        if held is None or not held.assigned or not session.attached:
            return False
        if lease is not None and (lease == (session.session_id, held.token) or lease[1] < held.token):
            return True
        self._pushes.revoke(session.session_id, TaskNotice(*key, held.token, "LEASE_LOST"))
        return False

    async def _return_unknown(self) -> None:
        """Gives back what sessions hold in the database and nobody here knows of: seen twice, so not on its way."""
        attached = [session for session in self._sessions.values() if session.attached]
        seen: set[_Lease] = set()
        for start in range(0, len(attached), _SESSIONS_AT_ONCE):
            part = [session.session_id for session in attached[start : start + _SESSIONS_AT_ONCE]]
            async with self._reader.connection() as connection:
                leases = await recall.leases_of_all(connection, part)
            for session_id, key, token in leases:
                session = self._sessions.get(session_id)
                if session is not None and session.holds(key, token) is None:
                    seen.add((session_id, key, token))
        for session_id, key, token in seen & self._unknown:
            session = self._sessions.get(session_id)
            if session is not None and session.holds(key, token) is None:
                self._registry.give_back(session, key, token, counts=False, reason="assignment lost")
        self._unknown = seen - self._unknown


def _some(tasks: Iterator[tuple[WorkerSession, TaskKey]]) -> list[tuple[WorkerSession, TaskKey]]:
    return list(itertools.islice(tasks, _TASKS_AT_ONCE))
