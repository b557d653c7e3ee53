"""Calls brought to the workers that hold the runs: those of this replica's callers, and those left in `run_calls`.

A call is told once under each grant and stream. A query's answer counts only if it comes from whoever has the run. An
update is answered by what its run records, or by a rejection that
comes with a progress.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import structlog
from msgspec.structs import replace

from stepwell_server.dispatch.assignments import was_called
from stepwell_server.dispatch.messages import AdvanceRun, Question
from stepwell_server.model.run_calls import CallAnswer, CallKind, Rejection, RunCall
from stepwell_server.store import run_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.background import Background
    from stepwell_server.dispatch.call_waits import CallWaits
    from stepwell_server.dispatch.messages import Assign
    from stepwell_server.dispatch.pushes import Pushes
    from stepwell_server.dispatch.registry import Registry
    from stepwell_server.dispatch.sessions import WorkerSession
    from stepwell_server.store.database import Database
    from stepwell_server.store.run_calls import CalledRun

_log = structlog.get_logger("stepwell.dispatch")


class _Told(NamedTuple):
    call: RunCall
    session: WorkerSession
    token: int
    take: Callable[[CallAnswer], None] | None  # None: it was asked at another replica


class Deliveries:
    """See the module."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        clock: Clock,
        registry: Registry,
        pushes: Pushes,
        waits: CallWaits,
        background: Background,
    ) -> None:
        self._database = database
        self._clock = clock
        self._sessions = registry.sessions
        self._pushes = pushes
        self._waits = waits
        self._background = background
        self._told: dict[UUID, _Told] = {}
        self._questions: dict[int, UUID] = {}
        self._numbers = itertools.count(1)

    # --- telling ----------------------------------------------------------------------------------------------------

    def holder(self, run: CalledRun) -> WorkerSession | None:
        """The stream whose worker has the run and knows so; None if there is none at this replica."""
        session = self._sessions.get(run.session_id) if run.session_id is not None else None
        if session is None or self._token(session, run.run_key) != run.grants:
            return None
        return session

    def _token(self, session: WorkerSession, run_key: int) -> int | None:
        """Under which token a worker has a run, and has shown so: what is told before might overtake the assignment."""
        held = session.held.get((run_key, 0))
        return held.token if held is not None and held.acknowledged and session.is_open else None

    def tell(
        self, session: WorkerSession, token: int, call: RunCall, take: Callable[[CallAnswer], None] | None = None
    ) -> bool:
        """Tells the worker that holds a run of a call, unless it was told. False if it has to wait for its turn."""
        told = self._told.get(call.call_id)
        if told is not None and told.session is session and told.token == token:
            return True
        if call.kind == CallKind.QUERY:
            number = next(self._numbers)
            if not session.outbox.ask(Question(number, call.run_key, token, call.name, call.input)):
                return False
            self._questions[number] = call.call_id
        else:
            self._pushes.tell(session, AdvanceRun(call.run_key, token, [], updates=[call]))
        self._told[call.call_id] = _Told(call, session, token, take)
        return True

    def forget(self, call: RunCall) -> None:
        """Nobody waits for a call any more: its answer will mean nothing."""
        self._told.pop(call.call_id, None)

    async def look(self, run_keys: Collection[int] | None = None) -> None:
        """Tells of calls that were left for runs which this replica's workers hold: of all, or of some."""
        now = self._clock.now()
        self._told = {key: told for key, told in self._told.items() if told.call.expire_time > now}
        self._questions = {number: key for number, key in self._questions.items() if key in self._told}
        if not self._sessions:
            return
        for call in await run_calls.waiting(self._database, now, run_keys):
            for session in self._sessions.values():
                token = self._token(session, call.run_key)
                if token is not None:
                    self.tell(session, token, call)

    # --- assignments ------------------------------------------------------------------------------------------------

    async def with_updates(self, assigns: list[Assign]) -> list[Assign]:
        """Assignments with the updates that were left for their runs."""
        called = [assign.key[0] for assign in assigns if was_called(assign.grant)]
        if not called:
            return assigns
        try:
            waiting = await run_calls.waiting(self._database, self._clock.now(), called, CallKind.UPDATE)
        except Exception as error:  # noqa: BLE001 - the driver's many; they are found by looking, a little later
            _log.warning("updates are told later", cause=str(error))
            return assigns
        return [replace(each, updates=_of_run(waiting, each)) if was_called(each.grant) else each for each in assigns]

    def assigned(self, session: WorkerSession, assign: Assign) -> None:
        """A run went out to a worker, with its updates."""
        for call in assign.updates:
            self._told[call.call_id] = _Told(call, session, assign.token, None)
        self._waits.stir(assign.key[0])

    def resumed(self, run_keys: Collection[int]) -> None:
        """A session goes on here with its runs: what its old stream was told may never have arrived."""
        if run_keys:
            for run_key in run_keys:
                self._waits.stir(run_key)
            self._background.spawn(self.look(run_keys))

    # --- answers ----------------------------------------------------------------------------------------------------

    def answered(self, session: WorkerSession, token: int, correlation: int, said: CallAnswer) -> None:
        """A worker answers a query. Of a run that it does not hold under that token it has nothing to say."""
        call_id = self._questions.get(correlation)
        told = self._told.get(call_id) if call_id is not None else None
        if told is None or session.holds((told.call.run_key, 0), token) is None:
            return
        del self._questions[correlation]
        if told.take is not None:
            told.take(said)
        else:
            self._background.spawn(self._answer(told.call, session.session_id, token, said))

    async def _answer(self, call: RunCall, session_id: UUID, token: int, said: CallAnswer) -> None:
        await run_calls.answer(self._database, call, session_id, token, said)
        self._tell_all(call.run_key)

    def rejected(self, run_key: int, rejection: Rejection) -> None:
        """A run's code did not accept an update, as a progress told."""
        said = CallAnswer(failure=rejection.failure)
        self._waits.reject(run_key, rejection, said)
        self._background.spawn(self._reject(run_key, rejection.update_id, said))

    async def _reject(self, run_key: int, update_id: str, said: CallAnswer) -> None:
        await run_calls.reject(self._database, run_key, update_id, said)
        self._tell_all(run_key)

    def _tell_all(self, run_key: int) -> None:
        """Lets those look who wait for answers of a run, here and elsewhere."""
        self._waits.stir(run_key)
        self._pushes.hint("answered", run_key)


def _of_run(waiting: list[RunCall], assign: Assign) -> list[RunCall]:
    return [call for call in waiting if call.run_key == assign.key[0]]
