"""What workers are told: tasks that were given to them, and news of those that they hold.

What concerns a session of another replica goes there as a hint. Of each held run it is known up to which event its
worker was told: news that leave a gap, since another replica's hint went astray, are completed from the database.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import structlog

from stepwell_server import refusals, telemetry
from stepwell_server.dispatch.messages import AdvanceRun, TaskNotice, slices
from stepwell_server.dispatch.sessions import Held, TaskKey, WorkerSession
from stepwell_server.model.steps import EndedStep, Kind
from stepwell_server.model.tasks import AnyGrant, Grant
from stepwell_server.store import recall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.dispatch.assignments import Reader
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.deliveries import Deliveries
    from stepwell_server.dispatch.matching import Matcher
    from stepwell_server.dispatch.messages import Assign
    from stepwell_server.dispatch.registry import Registry
    from stepwell_server.engine.change import Change
    from stepwell_server.settings import Settings

_log = structlog.get_logger("stepwell.dispatch")
_RETRY_SECONDS = 0.2
_STEPS_AT_ONCE = 256


class HintSink(Protocol):
    """Where hints for other replicas go."""

    def publish(self, kind: str, data: object) -> None:
        """Sends a hint, some milliseconds later, or never."""
        ...


class Pushes:
    """See the module."""

    def __init__(
        self, settings: Settings, registry: Registry, reader: Reader, matcher: Matcher, background: Background
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._sessions = registry.sessions
        self._reader = reader
        self._matcher = matcher
        self._background = background
        self._hints: HintSink | None = None
        self.deliveries: Deliveries | None = None

    def start(self, hints: HintSink | None) -> None:
        """From here on other replicas hear."""
        self._hints = hints

    def hint(self, kind: str, data: object) -> None:
        """Tells the other replicas, perhaps."""
        if self._hints is not None:
            self._hints.publish(kind, data)

    # --- grants -----------------------------------------------------------------------------------------------------

    def granted_directly(self, grant: AnyGrant) -> None:
        """A fresh task that went straight to the stream for which a place had been reserved."""
        session = self._matcher.unreserve(grant.key)
        if session is None:
            session = self._sessions.get(grant.session_id)
        if session is not None:
            self.granted(session, [grant])

    def granted(self, session: WorkerSession, grants: Sequence[AnyGrant]) -> None:
        """Tasks that were just given to a session: pushes them, or gives them back if its stream is gone meanwhile."""
        pushed: list[AnyGrant] = []
        for grant in grants:
            key, token = grant.key, grant.token
            if not session.is_open:
                self._registry.give_back(session, key, token, counts=False, reason="stream lost before assignment")
                continue
            held = Held(token, grant.kind, grant.task_queue)
            if isinstance(grant, Grant):
                held.told_event = grant.run.last_event
            session.take(key, held)
            pushed.append(grant)
        if pushed and (assigns := self._reader.at_hand(pushed)) is not None:
            self._send(session, assigns)
        elif pushed:
            self._background.spawn(self._assign(session, pushed))
        self._serve(session)

    async def _assign(self, session: WorkerSession, grants: Sequence[AnyGrant]) -> None:
        """Reads what the tasks need, and pushes them; while the database is away, tries on as long as they are held."""
        while grants := [grant for grant in grants if session.holds(grant.key, grant.token)]:
            try:
                assigns = await self._reader.assignments(grants)
                if self.deliveries is not None:
                    assigns = await self.deliveries.with_updates(assigns)
            except refusals.Refusal:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except Exception:  # noqa: BLE001 - a task that can't be told of must not stay with this worker
                _log.exception("assignment failed", of=len(grants))
                for grant in grants:
                    about = telemetry.about if isinstance(grant, Grant) else telemetry.about_job
                    with about(grant.origin_id, grant.origin.traceparent):
                        _log.warning("task goes back", worker=session.hello.worker_id)
                    self._take_back(session, grant.key, "assignment failed")
                return
            self._send(session, assigns)
            return

    def _send(self, session: WorkerSession, assigns: Sequence[Assign]) -> None:
        """Pushes those tasks that are still held, and what was to be told of them meanwhile."""
        for assign in assigns:
            key = assign.key
            held = session.holds(key, assign.token)
            if held is not None:
                session.assigned(held)
                session.outbox.assign(assign)
                if not key[1] and self.deliveries is not None:
                    self.deliveries.assigned(session, assign)
                for advance in session.early.pop(key, ()):
                    session.outbox.advance(advance)

    def _take_back(self, session: WorkerSession, key: TaskKey, reason: str) -> None:
        held = session.held.get(key)
        if held is not None:
            session.drop(key)
            self._registry.give_back(session, key, held.token, counts=False, reason=reason)

    # --- news of held tasks -----------------------------------------------------------------------------------------

    def cancel(self, session_id: UUID, notice: TaskNotice) -> None:
        """An activity that should stop; one that its worker has not been sent yet is withdrawn instead."""
        session = self._sessions.get(session_id)
        if session is None:
            self.hint("cancel", [str(session_id), *_plain(notice)])
            return
        key = (notice.run_key, notice.ordinal)
        if self._withdrawn(session, notice):
            # What should stop is over only when its holder says so, and this one has not heard of it.
            self._registry.give_back(session, key, notice.token, counts=False, reason="cancelled before it began")
            return
        session.outbox.cancel(notice)
        held = session.holds(key, notice.token)
        if held is not None:
            held.cancelled = True

    def remind(self, session: WorkerSession, key: TaskKey, token: int, reason: str | None) -> None:
        """Tells a worker to stop that was not told before: its replica did not hear, or its stream was away."""
        held = session.holds(key, token)
        if held is not None and not held.cancelled:
            self.cancel(session.session_id, TaskNotice(*key, token, reason or "it was asked to stop"))

    def revoke(self, session_id: UUID, notice: TaskNotice) -> None:
        """A task that is no longer the session's."""
        session = self._sessions.get(session_id)
        if session is None:
            self.hint("revoke", [str(session_id), *_plain(notice)])
            return
        key = (notice.run_key, notice.ordinal)
        if session.holds(key, notice.token) is None:
            return
        if not self._withdrawn(session, notice):
            session.drop(key)
            session.outbox.revoke(notice)
            self.freed(session)

    def _withdrawn(self, session: WorkerSession, notice: TaskNotice) -> bool:
        """Takes a task back that the worker has not been sent yet: what says stop would overtake it."""
        key = (notice.run_key, notice.ordinal)
        held = session.holds(key, notice.token)
        if held is None or (held.assigned and not session.outbox.withdraw(*key, notice.token)):
            return False
        session.drop(key)
        self.freed(session)
        return True

    def changed(self, change: Change) -> None:
        """A run was changed: its holder hears what has ended, and whether it was asked to cancel."""
        run, news = change.run, change.news
        if run is None or run.session_id is None:
            return
        session = self._sessions.get(run.session_id)
        if session is None:
            if news.ended or news.run_cancel:
                self.hint("run", [str(run.session_id), run.run_key])
            return
        key = (run.run_key, 0)
        held = session.holds(key, run.grants)
        if held is None:
            return
        has_missed = change.original is not None and held.told_event < change.original.last_event
        if has_missed or any(each.payload is None for each in news.ended):
            self._background.spawn(self.catch_up(session, run.run_key))
            return
        held.told_event = run.last_event
        if news.ended or news.run_cancel:
            self._tell(session, key, held, change)

    def _tell(self, session: WorkerSession, key: TaskKey, held: Held, change: Change) -> None:
        run, ended = change.open, change.news.ended
        for part in slices(ended):
            cancel = run.cancel_time is not None
            self._push(session, key, held, AdvanceRun(key[0], held.token, part, cancel, run.cancel_reason or ""))

    def tell(self, session: WorkerSession, advance: AdvanceRun) -> None:
        """Pushes news of a run that the session holds."""
        key = (advance.run_key, 0)
        held = session.holds(key, advance.token)
        if held is not None:
            self._push(session, key, held, advance)

    def _push(self, session: WorkerSession, key: TaskKey, held: Held, advance: AdvanceRun) -> None:
        """Pushes news of a run. A waiting one needs a slot first; if none comes free in time, it is evicted."""
        held.advances += 1
        if not held.assigned:
            session.early.setdefault(key, []).append(advance)
            return
        if key in session.advances or not session.wake(key):
            stuck = session.advances.setdefault(key, [])
            if not stuck:
                delay = self._settings.resident_advance_seconds
                asyncio.get_running_loop().call_later(delay, self._evict_if_stuck, session, key, stuck)
            stuck.append(advance)
            return
        session.outbox.advance(advance)

    def freed(self, session: WorkerSession) -> None:
        """A place came free at a worker: for its own waiting runs first, then for what waits in the queues."""
        self._serve(session)
        self._matcher.freed()

    def _serve(self, session: WorkerSession) -> None:
        for key in list(session.advances):
            if session.wake(key):
                for advance in session.advances.pop(key):
                    session.outbox.advance(advance)

    def _evict_if_stuck(self, session: WorkerSession, key: TaskKey, stuck: list[AdvanceRun]) -> None:
        if session.advances.get(key) is stuck:
            session.outbox.revoke(TaskNotice(key[0], 0, session.held[key].token, "EVICTED"))
            self._take_back(session, key, "evicted")

    # --- what may have gone astray ----------------------------------------------------------------------------------

    def keep(self, session: WorkerSession, kept: list[tuple[TaskKey, int]]) -> None:
        """Takes over the tasks of a resumed session, and tells its runs what they may have missed."""
        for key, _ in kept:
            held = session.resumed.pop(key)
            session.take(key, held)
            if held.is_to_stop:
                self.remind(session, key, held.token, None)
            if not key[1]:
                self._background.spawn(self.catch_up(session, key[0]))
        if self.deliveries is not None:
            self.deliveries.resumed([key[0] for key, _ in kept if not key[1]])
        self.hint("moved", str(session.session_id))

    async def catch_up(self, session: WorkerSession, run_key: int) -> None:
        """Tells a held run what it has missed; once at a time, however often it is asked for."""
        held = session.held.get((run_key, 0))
        if held is None or not held.assigned:
            return
        held.missed = True
        if held.catching_up:
            return
        held.catching_up = True
        try:
            while held.missed and session.held.get((run_key, 0)) is held:
                held.missed = False
                await self._tell_missed(session, run_key, held)
        finally:
            held.catching_up = False

    async def _tell_missed(self, session: WorkerSession, run_key: int, held: Held) -> None:
        """Reads what has ended of a run since its worker was last told, and tells it, a message's worth at a time."""
        async with self._reader.connection() as connection:
            run = (await recall.read_runs(connection, [run_key])).get(run_key)
            steps = await recall.closed_steps_since(connection, run_key, held.told_event)
        if run is None or run.session_id != session.session_id or run.grants != held.token:
            return
        news = [EndedStep(step, None, None) for step in steps if step.kind not in (Kind.LOCAL, Kind.MARKER)]
        is_cancelled, reason = run.cancel_time is not None, run.cancel_reason or ""
        for start in range(0, max(1, len(news)), _STEPS_AT_ONCE):
            ended = await self._reader.completed(news[start : start + _STEPS_AT_ONCE])
            if session.held.get((run_key, 0)) is not held:
                return
            for part in slices(ended) if ended or is_cancelled else ():
                self._push(session, (run_key, 0), held, AdvanceRun(run_key, held.token, part, is_cancelled, reason))
        held.told_event = max(held.told_event, run.last_event)


def _plain(notice: TaskNotice) -> list[object]:
    return [notice.run_key, notice.ordinal, notice.token, notice.reason]
