"""Queries and updates of this replica's callers: handed over to whoever holds the run, and waited for.

A caller looks, hands its call over, and waits for news; then it looks again. Whoever holds the run may change
meanwhile, and news may get lost: what counts is what is recorded, or answered under a lease that stands.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from enum import Enum, IntEnum, auto
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from stepwell_server import errors
from stepwell_server.dispatch.call_waits import CallWaits
from stepwell_server.dispatch.deliveries import Deliveries
from stepwell_server.engine.run_calls import CallRun
from stepwell_server.ids import uuid7
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.run_calls import CallAnswer, CallKind, RunCall
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.workers import unpack_hello
from stepwell_server.store import published, recall, run_calls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.assignments import Reader
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.call_waits import Wait
    from stepwell_server.dispatch.pushes import Pushes
    from stepwell_server.dispatch.registry import Registry
    from stepwell_server.engine.change import Change
    from stepwell_server.store.database import Database
    from stepwell_server.store.run_calls import CalledRun, RecordedUpdate


class Stage(IntEnum):
    """How far an update has come; the proto's UpdateStage."""

    ACCEPTED = 1
    COMPLETED = 2


class Queried(NamedTuple):
    """The answer to a query. `publish_time` is None if the run's worker gave it."""

    run_id: UUID
    result: Payload
    publish_time: datetime | None


class Updated(NamedTuple):
    """What came of an update: how far it is recorded, or why it was not accepted."""

    run_id: UUID
    update_id: str
    outcome: CallAnswer | None
    rejection: Failure | None


class _Reach(Enum):
    ASKED = auto()  # somebody who has the run knows
    LATER = auto()  # nobody can answer now, and somebody may soon
    NOBODY = auto()


class RunCalls:
    """See the module."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        clock: Clock,
        reader: Reader,
        registry: Registry,
        pushes: Pushes,
        background: Background,
    ) -> None:
        self._database = database
        self._clock = clock
        self._reader = reader
        self._registry = registry
        self._pushes = pushes
        self._background = background
        self._waits = CallWaits()
        self.deliveries = Deliveries(database, clock, registry, pushes, self._waits, background)
        pushes.deliveries = self.deliveries

    def committed(self, change: Change) -> None:
        """A run was changed: those hear who wait for its updates, or for anything of a run that has ended."""
        news = change.news
        if not news.updates and not news.rejections and change.run is not None:
            return
        self._waits.stir(change.run_key)
        if news.updates:
            self._pushes.hint("answered", change.run_key)
        for rejection in news.rejections:
            self.deliveries.rejected(change.run_key, rejection)

    def hinted(self, kind: str, run_key: int) -> None:
        """Another replica says that a run was called, or that an answer is there."""
        if kind == "called":
            self._background.spawn(self.deliveries.look([run_key]))
        else:
            self._waits.stir(run_key)

    @contextlib.contextmanager
    def _wait(self, call: RunCall, seconds: float) -> Iterator[Wait]:
        with self._waits.wait(call, seconds) as wait:
            try:
                yield wait
            finally:
                self.deliveries.forget(call)
                if wait.is_posted:
                    self._background.spawn(run_calls.remove(self._database, call.call_id))

    def _expire_time(self, seconds: float) -> datetime:
        return self._clock.now() + timedelta(seconds=seconds)

    async def _again(self, run: CalledRun) -> CalledRun:
        return await run_calls.find(self._database, RunRef(run.namespace_id, "", run.run_key))

    async def _answer(self, wait: Wait) -> CallAnswer | None:
        if wait.answer is None and wait.is_posted:
            return await run_calls.read_answer(self._database, wait.call.call_id)
        return wait.answer

    async def _post(self, wait: Wait) -> None:
        """Leaves a call for whoever has the run, or gets it."""
        if not wait.is_posted:
            wait.is_posted = True
            await run_calls.add(self._database, wait.call)

    # --- queries ----------------------------------------------------------------------------------------------------

    async def query(self, ref: RunRef, name: str, given: Payload, seconds: float) -> Queried:
        """Asks a run. Refuses with RUN_NOT_FOUND, QUERY_FAILED, NOTHING_PUBLISHED, CALL_TIMED_OUT, QUEUE_FULL."""
        run = await run_calls.find(self._database, ref)
        call = RunCall(uuid7(), run.run_key, CallKind.QUERY, name, "", given, self._expire_time(seconds))
        reach = _Reach.NOBODY
        with self._wait(call, seconds) as wait:
            while not run.is_closed:
                reach = await self._ask(run, wait)
                if reach is _Reach.NOBODY:
                    break
                if reach is _Reach.LATER and (found := await self._published(run, name)) is not None:
                    return found
                if not await wait.news():
                    break
                answer = await self._answer(wait)
                if answer is not None:
                    return _told(run, name, answer)
                run = await self._again(run)
        found = await self._published(run, name)
        if found is not None:
            return found
        if reach is _Reach.ASKED and not run.is_closed:
            raise errors.CallTimedOut
        raise errors.NothingPublished(run_id=run.run_id, query=name)

    async def _published(self, run: CalledRun, name: str) -> Queried | None:
        found = await published.read(self._database, run.run_key, name)
        return Queried(run.run_id, *found) if found is not None else None

    async def _ask(self, run: CalledRun, wait: Wait) -> _Reach:
        """Hands a query over, if it is not yet."""
        if run.session_id is None:
            return _Reach.LATER if run.queued else _Reach.NOBODY
        session = self.deliveries.holder(run)
        if session is not None:
            asked = self.deliveries.tell(session, run.grants, wait.call, wait.take)
            return _Reach.ASKED if asked else _Reach.LATER
        if run.session_id in self._registry.sessions:
            # Its stream is gone, or it has not shown yet that it knows of the run.
            return _Reach.LATER
        if wait.called_for != run.session_id and await self._is_unary(run.session_id):
            return _Reach.NOBODY
        wait.called_for = run.session_id
        await self._post(wait)
        self._pushes.hint("called", run.run_key)
        return _Reach.ASKED

    async def _is_unary(self, session_id: UUID) -> bool:
        """Whether a worker has no stream on which it could be asked."""
        async with self._reader.connection() as connection:
            row = await recall.read_session(connection, session_id)
        return row is not None and unpack_hello(row.hello).is_unary

    # --- updates ----------------------------------------------------------------------------------------------------

    async def update(  # noqa: PLR0917 - what a caller gives
        self, ref: RunRef, name: str, update_id: str, given: Payload, stage: Stage, seconds: float
    ) -> Updated:
        """Asks a run's code for a change, and waits until it is recorded that far.

        A run that goes on as another before it has accepted the update takes it along.
        Refuses with RUN_NOT_FOUND, RUN_TERMINAL, RUN_PAUSED, RUN_DRIVEN, REQUEST_ID_REUSED, UPDATE_UNDECIDED and
        QUEUE_FULL.
        """
        run = await run_calls.find(self._database, ref)
        update_id = update_id or str(uuid7())
        end = asyncio.get_running_loop().time() + seconds
        while True:
            left = max(0.0, end - asyncio.get_running_loop().time())
            call = RunCall(uuid7(), run.run_key, CallKind.UPDATE, name, update_id, given, self._expire_time(left))
            with self._wait(call, left) as wait:
                updated = await self._update(run, wait, stage)
            if isinstance(updated, Updated):
                return updated
            run = await run_calls.find(self._database, updated)

    async def _update(self, run: CalledRun, wait: Wait, stage: Stage) -> Updated | RunRef:
        """What came of an update that waits, or the run that goes on with the work of one that has not accepted it."""
        name, update_id = wait.call.name, wait.call.update_id
        while True:
            # Looked up after the run: if that has ended, nothing more will be recorded.
            recorded = await run_calls.read_update(self._database, run.run_key, update_id)
            if recorded is not None and _is_done(recorded, name, update_id, stage):
                return Updated(run.run_id, update_id, recorded.outcome, None)
            rejection = await self._answer(wait) if recorded is None else None
            if rejection is not None:
                return Updated(run.run_id, update_id, None, rejection.failure)
            if run.is_closed and recorded is None and run.continued_key:
                return RunRef(run.namespace_id, "", run.continued_key)
            if run.is_closed:
                raise errors.RunTerminal(run_id=run.run_id, phase=Phase(run.phase).name)
            if recorded is None:
                await self._hand_over(run, wait)
            if not await wait.news():
                so_far = "NONE" if recorded is None else "ACCEPTED"
                raise errors.UpdateUndecided(run_id=run.run_id, update_id=update_id, stage=so_far)
            run = await self._again(run)

    async def _hand_over(self, run: CalledRun, wait: Wait) -> None:
        """Tells whoever has the run, or leaves the update for who will, and sees to it that somebody does."""
        _refuse_idle(run)
        session = self.deliveries.holder(run)
        if session is not None:
            self.deliveries.tell(session, run.grants, wait.call)
            return
        known = self._registry.sessions.get(run.session_id) if run.session_id is not None else None
        if known is not None and known.is_open:
            # It has been given the run, and has yet to show that it knows.
            return
        await self._post(wait)
        seen = (run.session_id, run.grants)
        if wait.called_for is None or (wait.called_for != seen and not run.queued):
            order = CallRun(RunRef(run.namespace_id, "", run.run_key))
            with contextlib.suppress(errors.RunTerminal):
                await self._registry.committers.do(bool, order, seconds=wait.seconds)
            wait.called_for = seen
        self._pushes.hint("called", run.run_key)


def _refuse_idle(run: CalledRun) -> None:
    """Refuses to wait for a run that no worker gets as it is."""
    if run.driven:
        raise errors.RunDriven(run_id=run.run_id)
    if run.pause_reason is not None:
        raise errors.RunPaused(run_id=run.run_id, pause_reason=run.pause_reason)


def _told(run: CalledRun, name: str, answer: CallAnswer) -> Queried:
    failure = answer.failure
    if failure is not None:
        raise errors.QueryFailed(run_id=run.run_id, query=name, type=failure.type, problem=failure.message)
    return Queried(run.run_id, answer.payload, None)


def _is_done(recorded: RecordedUpdate, name: str, update_id: str, stage: Stage) -> bool:
    """Whether an update is recorded as far as is wanted.

    Inputs are not compared: an encrypted one is another each time it is sent.
    """
    if recorded.name != name:
        raise errors.RequestIdReused(method="UpdateRun", request_id=update_id)
    return stage is Stage.ACCEPTED or recorded.outcome is not None
