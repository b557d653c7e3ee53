"""One worker's stream: reads what it says, and hears of what became of it."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING

from stepwell_server import errors, telemetry
from stepwell_server.api.interceptors.errors import as_refusal
from stepwell_server.api.reports import Report, ReportReader, beat_from_proto, rooms_from_proto, task_key
from stepwell_server.dispatch.messages import BeatAnswer, ReportAnswer, TaskNotice
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.v1 import workers_pb2
    from stepwell_server.api.fields import Fields
    from stepwell_server.dispatch.beats import Flushed, TaskBeat
    from stepwell_server.dispatch.dispatcher import Dispatcher
    from stepwell_server.dispatch.sessions import TaskKey, WorkerSession

# Refusals after which the worker does not hold the task any more.
_OVER = (errors.LeaseLost, errors.StepOrderChanged, errors.RunTerminal, errors.RunNotFound)
_COMMAND_SECONDS = 60.0


class Stream:
    """See the module. `left` once the worker said goodbye; `fault` if it broke the protocol."""

    def __init__(self, dispatcher: Dispatcher, session: WorkerSession, fields: Fields) -> None:
        self._dispatcher = dispatcher
        self._session = session
        self._fields = fields
        self._reports = ReportReader(session.namespace_id, session.namespace, session.session_id, fields)
        self._under_way: set[asyncio.Future[object]] = set()
        self.left = False
        self.fault: errors.Refusal | None = None

    async def read(self, requests: AsyncIterator[workers_pb2.ConnectRequest]) -> None:
        """Reads until the worker half-closes, breaks the protocol, or is cut off."""
        try:
            async for request in requests:
                self.take(request)
            self.left = self._session.draining
        except Exception as error:  # noqa: BLE001 - whatever it was, the stream is over
            self.fault = as_refusal(error, "Connect")
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._session.outbox.close()

    def take(self, request: workers_pb2.ConnectRequest) -> None:
        """Takes in one message."""
        session = self._session
        session.heard()
        if request.HasField("capacity"):
            session.set_rooms(rooms_from_proto(request.capacity, self._fields, "capacity."))
            self._dispatcher.matcher.look(session)
        for place, ref in enumerate(request.acks):
            self._acknowledge(task_key(ref, f"acks[{place}]."))
        for place, report in enumerate(self._fields.items(request.reports, "reports")):
            self._report(report, f"reports[{place}].")
        if request.heartbeats:
            self._beat(request)
        if request.ping:
            session.outbox.pong(request.ping)
        if request.drain and not session.draining:
            session.draining = True
            self._dispatcher.matcher.leave(session)

    def _acknowledge(self, key: TaskKey) -> None:
        held = self._session.held.get(key)
        if held is not None:
            held.acknowledged = True

    # --- reports ----------------------------------------------------------------------------------------------------

    def _report(self, report: workers_pb2.Report, at: str) -> None:
        session = self._session
        try:
            key = task_key(report.ref, at)
            self._acknowledge(key)
            if not key[1]:
                session.run_on(key)
            order = self._reports.read(report, at, resident=session.may_keep(key))
            future = self._dispatcher.committers.submit(order, report.ByteSize(), _COMMAND_SECONDS)
        except errors.Refusal as refusal:
            session.outbox.answer(ReportAnswer(report.correlation, refusal=refusal))
            return
        self._under_way.add(future)
        future.add_done_callback(functools.partial(self._answered, report.correlation, key, order))

    def _answered(self, correlation: int, key: TaskKey, order: Report, future: asyncio.Future[object]) -> None:
        self._under_way.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._refused(correlation, key, order, error)
            return
        answer = future.result()
        if isinstance(answer, ProgressAnswer) and isinstance(order, ProgressRun):
            self._progressed(correlation, key, order, answer)
            return
        self._forget(key, order.token)
        duplicate = getattr(answer, "duplicate", False) or answer is False
        self._session.outbox.answer(ReportAnswer(correlation, duplicate=duplicate))

    def _refused(self, correlation: int, key: TaskKey, order: Report, error: BaseException) -> None:
        refusal = error if isinstance(error, errors.Refusal) else as_refusal(Exception(str(error)), "Connect")
        if isinstance(refusal, _OVER):
            telemetry.metrics.leases_lost.labels(refusal.reason).inc()
            self._forget(key, order.token)
        self._session.outbox.answer(ReportAnswer(correlation, refusal=refusal))

    def _progressed(self, correlation: int, key: TaskKey, order: ProgressRun, answer: ProgressAnswer) -> None:
        session = self._session
        if order.end is not None:
            self._forget(key, order.token)
        elif order.waiting and not order.resident:
            self._forget(key, order.token)
            session.outbox.revoke(TaskNotice(key[0], 0, order.token, "EVICTED"))
        elif order.waiting and not answer.ended:
            session.wait(key)
            self._dispatcher.freed(session)
        if any(each.payload is None for each in answer.ended):
            task = asyncio.ensure_future(self._answer_later(correlation, answer))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            return
        session.outbox.answer(ReportAnswer(correlation, answer.duplicate, ordinals=answer.ordinals, ended=answer.ended))

    async def _answer_later(self, correlation: int, answer: ProgressAnswer) -> object:
        """Answers a progress some of whose steps ended at once with payloads that must be read."""
        ended = await self._dispatcher.reader.completed(answer.ended)
        self._session.outbox.answer(ReportAnswer(correlation, answer.duplicate, ordinals=answer.ordinals, ended=ended))
        return None

    def _forget(self, key: TaskKey, token: int) -> None:
        held = self._session.held.get(key)
        if held is not None and held.token == token:
            self._session.drop(key)
            self._dispatcher.freed(self._session)

    # --- heartbeats -------------------------------------------------------------------------------------------------

    def _beat(self, request: workers_pb2.ConnectRequest) -> None:
        session = self._session
        items = self._fields.items(request.heartbeats, "heartbeats")
        beats = [
            beat_from_proto(beat, session.session_id, self._fields, f"heartbeats[{place}].")
            for place, beat in enumerate(items)
        ]
        for beat in beats:
            self._acknowledge((beat.run_key, beat.ordinal))
        reported = [beat.traceparent for beat in items]
        started = time.time_ns()
        future = self._dispatcher.beats.beat(session.session_id, beats)
        future.add_done_callback(functools.partial(self._beaten, beats, reported, started))

    def _beaten(
        self, beats: list[TaskBeat], reported: list[str], started: int, future: asyncio.Future[Flushed]
    ) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        flushed, session = future.result(), self._session
        for beat, parent in zip(beats, reported, strict=True):
            held = flushed.held.get((beat.run_key, beat.ordinal))
            key = (beat.run_key, beat.ordinal)
            self._dispatcher.trace_beat(session, key, parent, "lost" if held is None else "recorded", started)
            session.outbox.beat(BeatAnswer(*key, beat.token, bool(held), held is None))
            if held is None:
                self._forget(key, beat.token)
        if flushed.expire_time is None:
            self._dispatcher.lose(session)
        else:
            session.outbox.prolonged(flushed.expire_time)
