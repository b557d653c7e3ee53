"""What workers are told: tasks that were given to them, and news of those that they hold.

What concerns a session of another replica goes there as a hint.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from stepwell_server.dispatch.messages import AdvanceRun, TaskNotice
from stepwell_server.dispatch.sessions import Held, TaskKey, WorkerSession
from stepwell_server.model.runs import Phase
from stepwell_server.model.steps import EndedStep, Kind
from stepwell_server.store import recall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell_server.dispatch.assignments import Reader
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.matching import Matcher
    from stepwell_server.dispatch.registry import Registry
    from stepwell_server.engine.change import Change
    from stepwell_server.model.runs import Run
    from stepwell_server.model.tasks import Grant
    from stepwell_server.settings import Settings


class HintSink(Protocol):
    """Where hints for other replicas go."""

    def publish(self, kind: str, data: object) -> None:
        """Sends a hint, some milliseconds later, or never."""
        ...


_STEPS_AT_ONCE = 256
_BYTES_AT_ONCE = 1_000_000


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

    def start(self, hints: HintSink | None) -> None:
        """From here on other replicas hear."""
        self._hints = hints

    def hint(self, kind: str, data: object) -> None:
        """Tells the other replicas, perhaps."""
        if self._hints is not None:
            self._hints.publish(kind, data)

    # --- grants -----------------------------------------------------------------------------------------------------

    def granted_directly(self, grant: Grant) -> None:
        session = self._sessions.get(grant.session_id)
        if session is not None:
            self.granted(session, [grant])

    def granted(self, session: WorkerSession, grants: list[Grant]) -> None:
        """Tasks that were just given to a session, their places occupied: reads what they need and pushes them."""
        for grant in grants:
            key, kind, queue, token = described(grant)
            slot = session.slot_for(kind, queue) or (kind, queue)
            held = session.take(key, token, slot)
            held.seen_event = held.told_event = grant.run.last_event
            held.traceparent, held.run_id = grant.run.traceparent, str(grant.run.run_id)
            if grant.step is not None:
                held.step, held.attempt = grant.step.name, grant.step.attempt
        self._background.spawn(self._assign(session, grants))

    async def _assign(self, session: WorkerSession, grants: list[Grant]) -> None:
        for assign in await self._reader.assignments(grants, session.hello.worker_id):
            key, _, _, token = described(assign.grant)
            held = session.held.get(key)
            if held is not None and held.token == token:
                held.assigned_at = time.monotonic()
                held.assigned = True
                session.outbox.assign(assign)
                for advance in session.early.pop(key, []):
                    session.outbox.advance(advance)
                for notice in session.early_cancels.pop(key, []):
                    session.outbox.cancel(notice)

    # --- news of held tasks -----------------------------------------------------------------------------------------

    def cancel(self, session_id: UUID, notice: TaskNotice) -> None:
        session = self._sessions.get(session_id)
        if session is None:
            self.hint("cancel", [str(session_id), *_plain(notice)])
            return
        key = (notice.run_key, notice.ordinal)
        held = session.held.get(key)
        if held is not None and not held.assigned:
            session.early_cancels.setdefault(key, []).append(notice)
        else:
            session.outbox.cancel(notice)

    def revoke(self, session_id: UUID, notice: TaskNotice) -> None:
        session = self._sessions.get(session_id)
        if session is None:
            self.hint("revoke", [str(session_id), *_plain(notice)])
            return
        key = (notice.run_key, notice.ordinal)
        held = session.held.get(key)
        if held is not None and held.token == notice.token:
            session.drop(key)
            session.outbox.revoke(notice)
            self._matcher.freed()

    def advance(self, change: Change, session_id: UUID) -> None:
        """Tells the holder of a run what this change means for it, or the replica where the holder is.

        A change made elsewhere in between was announced by a hint that may be late or lost: all is then read anew.
        """
        session, run, news = self._sessions.get(session_id), change.run, change.news
        if run is None:
            return
        told = bool(news.ended or news.run_cancel)
        if session is None:
            if told:
                self.hint("run", [str(session_id), run.run_key])
            return
        key = (run.run_key, 0)
        held = session.held.get(key)
        if held is None or held.token != run.grants:
            return
        if change.original is not None and change.original.last_event > held.seen_event:
            self._background.spawn(self.catch_up(session, run.run_key))
            return
        held.seen_event = held.told_event = run.last_event
        if told:
            self._push_all(session, key, run, news.ended)

    def _push_all(self, session: WorkerSession, key: TaskKey, run: Run, ended: list[EndedStep]) -> None:
        """Pushes news of a run, in as many messages as its size asks for."""
        cancel, reason = run.cancel_time is not None, run.cancel_reason or ""
        for part in _portions(ended):
            self._push(session, key, AdvanceRun(run.run_key, run.grants, part, cancel, reason))

    def _push(self, session: WorkerSession, key: TaskKey, advance: AdvanceRun) -> None:
        """Pushes news of a run. A waiting one needs a slot first; if none comes free in time, it is evicted."""
        held = session.held.get(key)
        if held is None or held.token != advance.token:
            return
        if not held.assigned:
            session.early.setdefault(key, []).append(advance)
            return
        if key in session.advances or not session.wake(key):
            if key not in session.advances:
                delay = self._settings.resident_advance_seconds
                asyncio.get_running_loop().call_later(delay, self._evict_if_stuck, session, key, held)
            session.advances.setdefault(key, []).append(advance)
            return
        session.outbox.advance(advance)

    def freed(self, session: WorkerSession) -> None:
        """A place came free at a worker: for its own waiting runs first, then for what waits in the queues."""
        for key in list(session.advances):
            if session.wake(key):
                for advance in session.advances.pop(key):
                    session.outbox.advance(advance)
        self._matcher.freed()

    def _evict_if_stuck(self, session: WorkerSession, key: TaskKey, held: Held) -> None:
        if key not in session.advances or session.held.get(key) is not held:
            return
        session.drop(key)
        session.outbox.revoke(TaskNotice(key[0], 0, held.token, "EVICTED"))
        self._registry.give_back(session, key, held.token, counts=False, reason="evicted")

    async def catch_up(self, session: WorkerSession, run_key: int, *, resumed: bool = False) -> None:
        """Reads what has ended of a resident run since its worker was last told, and tells it."""
        key = (run_key, 0)
        held = session.held.get(key)
        if held is None:
            return
        async with self._reader.connection() as connection:
            run = (await recall.read_runs(connection, [run_key])).get(run_key)
            steps = await recall.closed_steps_since(connection, run_key, held.told_event)
        if run is None or run.session_id != session.session_id or run.grants != held.token:
            return
        if resumed and run.phase == Phase.SUSPENDED:
            session.wait(key)
        # What ended after `run` was read is told by its own commit, or by the next look: telling twice does no harm.
        held.seen_event = max(held.seen_event, run.last_event)
        held.told_event = max(held.told_event, run.last_event)
        news = [EndedStep(step, None, None) for step in steps if step.kind not in (Kind.LOCAL, Kind.MARKER)]
        for start in range(0, max(1, len(news)), _STEPS_AT_ONCE):
            ended = await self._reader.completed(news[start : start + _STEPS_AT_ONCE])
            if ended or run.cancel_time is not None:
                self._push_all(session, key, run, ended)

    def keep(self, session: WorkerSession, kept: list[tuple[TaskKey, int]]) -> None:
        """Takes over the tasks of a resumed session, and tells its runs what they may have missed."""
        for key, token in kept:
            kind = 2 if key[1] else 1
            slot = session.slot_for(kind, "") or next((each for each in session.rooms if each[0] == kind), (kind, ""))
            session.occupy(slot)
            held = session.take(key, token, slot)
            held.acknowledged = held.assigned = True
            if not key[1]:
                self._background.spawn(self.catch_up(session, key[0], resumed=True))


def _portions(ended: list[EndedStep]) -> Iterator[list[EndedStep]]:
    """Ended steps in parts that fit into a message; at least one part, which may be empty."""
    part: list[EndedStep] = []
    size = 0
    for each in ended:
        more = len(each.payload.body) if each.payload is not None else 0
        if part and (size + more > _BYTES_AT_ONCE or len(part) == _STEPS_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(each)
        size += more
    yield part


def described(grant: Grant) -> tuple[TaskKey, int, str, int]:
    if grant.step is None:
        return (grant.run.run_key, 0), 1, grant.run.task_queue, grant.run.grants
    return (grant.run.run_key, grant.step.ordinal), 2, grant.step.task_queue, grant.step.grants


def _plain(notice: TaskNotice) -> list[object]:
    return [notice.run_key, notice.ordinal, notice.token, notice.reason]
