"""One worker's stream: reads what it says, and hears of what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING

from stepwell_server import errors, refusals
from stepwell_server.api import remedies
from stepwell_server.api.intake import Intake
from stepwell_server.api.interceptors.errors import as_refusal
from stepwell_server.api.reports import (
    BeatReader,
    Report,
    ReportReader,
    answer_from_proto,
    rooms_from_proto,
)
from stepwell_server.api.task_refs import task_key
from stepwell_server.dispatch.beat_traces import hear
from stepwell_server.dispatch.messages import AdvanceRun, BeatAnswer, ReportAnswer, TaskNotice, slices
from stepwell_server.engine.activities import FailActivity
from stepwell_server.engine.grants import ReturnTask
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.model.payloads import Failure
from stepwell_server.model.run_calls import CallAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.v1 import workers_pb2
    from stepwell_server.api.fields import Fields
    from stepwell_server.dispatch.beats import Flushed, TaskBeat
    from stepwell_server.dispatch.dispatcher import Dispatcher
    from stepwell_server.dispatch.sessions import Held, TaskKey, WorkerSession
    from stepwell_server.model.steps import EndedStep

_COMMAND_SECONDS = 60.0
_HELLO_SECONDS = 10.0
_REPORTS_AT_ONCE = 32
_LAST_WORDS_SECONDS = 5.0


async def first_message(requests: AsyncIterator[workers_pb2.ConnectRequest]) -> workers_pb2.ConnectRequest:
    """The message with the hello, without which nothing else is listened to. Refuses with INVALID_FIELD."""
    first = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HELLO_SECONDS):
            first = await anext(requests, None)
    if first is None or not first.HasField("hello"):
        raise errors.InvalidField(field="hello", problem="is required in the first message")
    return first


async def cut(ended: asyncio.Event, call: asyncio.Task[object] | None) -> None:
    """Ends a call whose stream has ended, should its reader not take the last words in time."""
    await ended.wait()
    await asyncio.sleep(_LAST_WORDS_SECONDS)
    if call is not None:
        call.cancel()


class Stream:
    """See the module. `left` if it ended as by a goodbye, or was lost; `fault` if its worker broke the protocol."""

    def __init__(self, dispatcher: Dispatcher, session: WorkerSession, fields: Fields, patience: float) -> None:
        self._dispatcher = dispatcher
        self._session = session
        self._fields = fields
        build_id = session.hello.build_id
        self._reports = ReportReader(session.namespace_id, session.namespace, session.session_id, build_id, fields)
        self._beats = BeatReader(session.session_id, session.namespace_id, session.hello.worker_id, fields)
        self._intake = Intake(session, fields.limits, patience)
        self._under_way: set[asyncio.Future[object]] = set()
        self._details: dict[tuple[TaskKey, int], asyncio.Future[Flushed]] = {}
        self.left = False
        self.fault: refusals.Refusal | None = None

    async def read(self, requests: AsyncIterator[workers_pb2.ConnectRequest]) -> None:
        """Reads until the worker half-closes, breaks the protocol, or is cut off."""
        try:
            async for request in requests:
                await self.take(request)
                await self._intake.room()
            self.left = self._session.draining
        except Exception as error:  # noqa: BLE001 - whatever it was, the stream is over
            self.fault = as_refusal(error, "Connect")
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._session.outbox.close()

    async def take(self, request: workers_pb2.ConnectRequest) -> None:
        """Takes in one message."""
        session = self._session
        if session.heard():
            self._dispatcher.matcher.look(session)
        if request.HasField("capacity"):
            session.set_rooms(rooms_from_proto(request.capacity, self._fields, "capacity."))
            self._dispatcher.freed(session)
            self._dispatcher.matcher.look(session)
        for place, ref in enumerate(self._fields.items(request.acks, "acks")):
            self._acknowledge(task_key(ref, f"acks[{place}]."), ref.token)
        if request.heartbeats:
            self._beat(request)
        elif _is_bare(request):
            hear(session.session_id, session.hello.worker_id)
        for place, report in enumerate(self._fields.items(request.reports, "reports")):
            if place % _REPORTS_AT_ONCE == _REPORTS_AT_ONCE - 1:
                await asyncio.sleep(0)  # other streams have their turn
            self._report(report, f"reports[{place}].")
        if request.answers:
            for place, answer in enumerate(self._fields.items(request.answers, "answers")):
                self._answer_query(answer, f"answers[{place}].")
        if request.ping:
            session.outbox.pong(request.ping)
        if request.drain and not session.draining:
            session.draining = True
            self._dispatcher.matcher.leave(session)

    def _acknowledge(self, key: TaskKey, token: int) -> Held | None:
        held = self._session.holds(key, token)
        if held is not None:
            held.acknowledged = True
        return held

    # --- reports ----------------------------------------------------------------------------------------------------

    def _report(self, report: workers_pb2.Report, at: str) -> None:
        session = self._session
        key: TaskKey = (0, 0)
        try:
            key, token = task_key(report.ref, f"{at}ref."), report.ref.token
            held = self._acknowledge(key, token)
            if not key[1]:
                session.run_on(key, token)
                if key in session.advances:
                    self._dispatcher.freed(session)
            told = held.advances if held is not None else 0
            resident = report.progress.waiting and session.may_keep(key, token)
            order = self._reports.read(report, key, at, resident=resident)
            details = self._details.get((key, token))
            if details is not None and isinstance(order, FailActivity | ReturnTask):
                future: asyncio.Future[object] = asyncio.ensure_future(self._behind(details, order, report.ByteSize()))
            else:
                future = self._dispatcher.committers.submit(order, report.ByteSize(), _COMMAND_SECONDS)
        except refusals.Refusal as refusal:
            session.go_on(key, report.ref.token)
            is_failure = remedies.says_failure(report)
            self._tell_refusal(report.correlation, key, report.ref.token, refusal, is_failure=is_failure)
            return
        self._intake.begin(1)
        self._under_way.add(future)
        future.add_done_callback(functools.partial(self._answered, report.correlation, key, told, order))

    async def _behind(self, details: asyncio.Future[Flushed], order: Report, size: int) -> object:
        """Commits the end of an attempt once its last heartbeat is written: the next attempt begins with that."""
        await asyncio.wait([details], timeout=_COMMAND_SECONDS)
        return await self._dispatcher.committers.submit(order, size, _COMMAND_SECONDS)

    def _answered(
        self, correlation: int, key: TaskKey, told: int, order: Report, future: asyncio.Future[object]
    ) -> None:
        self._intake.end(1)
        self._under_way.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._refused(correlation, key, order, error)
            return
        answer = future.result()
        if isinstance(answer, ProgressAnswer) and isinstance(order, ProgressRun):
            self._progressed(correlation, key, told, order, answer)
            return
        self._forget(key, order.token)
        duplicate = getattr(answer, "duplicate", False) or answer is False
        self._session.outbox.answer(ReportAnswer(correlation, duplicate=duplicate))

    def _refused(self, correlation: int, key: TaskKey, order: Report, error: BaseException) -> None:
        refusal = (
            error
            if isinstance(error, refusals.Refusal)
            else as_refusal(error if isinstance(error, Exception) else RuntimeError(), "Connect")
        )
        self._tell_refusal(correlation, key, order.token, refusal, is_failure=remedies.is_failure(order))

    def _tell_refusal(
        self, correlation: int, key: TaskKey, token: int, refusal: refusals.Refusal, *, is_failure: bool
    ) -> None:
        held = self._session.holds(key, token)
        answer = remedies.refused(correlation, refusal, is_failure=is_failure, held=held)
        if held is not None and remedies.takes_back(answer):
            self._dispatcher.give_back(self._session, key, token, reason="report refused")
        if remedies.is_dropped(answer):
            self._forget(key, token)
        self._session.outbox.answer(answer)

    def _progressed(
        self, correlation: int, key: TaskKey, told: int, order: ProgressRun, answer: ProgressAnswer
    ) -> None:
        """A progress was recorded. A run waits unless something of it has ended since its worker wrote that it does."""
        session = self._session
        held = session.holds(key, order.token)
        if order.end is not None:
            self._forget(key, order.token)
        elif order.waiting and not order.resident:
            self._evict(key, order, answer)
        elif order.waiting and not answer.ended and held is not None and held.advances == told:
            session.wait(key, order.token)
            self._dispatcher.freed(session)
        else:
            session.go_on(key, order.token)
        if any(each.payload is None for each in answer.ended):
            task = asyncio.ensure_future(self._answer_later(correlation, key, order, answer))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            return
        self._answer(correlation, key, order, answer, answer.ended)

    def _evict(self, key: TaskKey, order: ProgressRun, answer: ProgressAnswer) -> None:
        """The worker has no room for a run that waits. If it was recorded as staying, before, it is given back now."""
        session = self._session
        if session.holds(key, order.token) is None:
            return
        if answer.duplicate:
            self._dispatcher.give_back(session, key, order.token, reason="evicted")
        self._forget(key, order.token)
        session.outbox.revoke(TaskNotice(key[0], 0, order.token, "EVICTED"))

    async def _answer_later(self, correlation: int, key: TaskKey, order: ProgressRun, answer: ProgressAnswer) -> object:
        """Answers a progress some of whose steps ended at once with payloads that must be read."""
        try:
            ended = await self._dispatcher.reader.completed(answer.ended)
        except Exception as error:  # noqa: BLE001 - whatever it was, the worker sends it again, and hears then
            self._refused(correlation, key, order, error)
            return None
        self._answer(correlation, key, order, answer, ended)
        return None

    def _answer(
        self, correlation: int, key: TaskKey, order: ProgressRun, answer: ProgressAnswer, ended: list[EndedStep]
    ) -> None:
        """Answers a progress. Ended steps beyond a message's worth follow as news."""
        outbox = self._session.outbox
        first, *others = slices(ended)
        outbox.answer(ReportAnswer(correlation, answer.duplicate, ordinals=answer.ordinals, ended=first))
        for part in others:
            outbox.advance(AdvanceRun(key[0], order.token, part))

    def _forget(self, key: TaskKey, token: int) -> None:
        if self._session.holds(key, token) is not None:
            self._session.drop(key)
            self._dispatcher.freed(self._session)

    # --- queries ----------------------------------------------------------------------------------------------------

    def _answer_query(self, answer: workers_pb2.QueryAnswer, at: str) -> None:
        """A malformed answer is an answer too: that the query failed."""
        key = task_key(answer.ref, f"{at}ref.")
        self._acknowledge(key, answer.ref.token)
        try:
            said = answer_from_proto(answer, self._fields, at)
        except errors.InvalidField as refusal:
            said = CallAnswer(failure=Failure(refusal.message, refusal.reason))
        self._dispatcher.run_calls.deliveries.answered(self._session, answer.ref.token, answer.correlation, said)

    # --- heartbeats -------------------------------------------------------------------------------------------------

    def _beat(self, request: workers_pb2.ConnectRequest) -> None:
        session = self._session
        beats = self._beats.read(request.heartbeats)
        for beat in beats:
            self._acknowledge((beat.run_key, beat.ordinal), beat.token)
        future = self._dispatcher.beats.beat(session.session_id, beats)
        for beat in beats:
            if beat.details is not None:
                self._details[(beat.run_key, beat.ordinal), beat.token] = future
        self._intake.begin(len(beats))
        future.add_done_callback(functools.partial(self._beaten, beats))

    def _beaten(self, beats: list[TaskBeat], future: asyncio.Future[Flushed]) -> None:
        self._intake.end(len(beats))
        for beat in beats:
            holder = (beat.run_key, beat.ordinal), beat.token
            if self._details.get(holder) is future:
                del self._details[holder]
        if future.cancelled() or future.exception() is not None:
            return
        flushed, session = future.result(), self._session
        for beat in beats:
            held = flushed.held.get((beat.run_key, beat.ordinal, beat.token))
            key = (beat.run_key, beat.ordinal)
            session.outbox.beat(BeatAnswer(*key, beat.token, bool(held), held is None))
            if held is None:
                self._forget(key, beat.token)
        if session.is_superseded:
            return
        if flushed.expire_time is None:
            self._dispatcher.lose(session)
        else:
            session.outbox.prolonged(flushed.expire_time)


def _is_bare(request: workers_pb2.ConnectRequest) -> bool:
    """Whether a message says no more than that its worker lives: it may ask for a pong."""
    return all(field.name == "ping" for field, _ in request.ListFields())
