"""WorkerService: the stream, and its unary twins on the same engine code."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import UUID

from msgspec.structs import replace

from stepwell.v1 import workers_pb2, workers_pb2_grpc
from stepwell_server import errors, telemetry
from stepwell_server.api import fields as checks
from stepwell_server.api import remedies
from stepwell_server.api.fields import Fields
from stepwell_server.api.filters import position_of, read_filter, read_order
from stepwell_server.api.interceptors.access import caller
from stepwell_server.api.interceptors.deadlines import wait_seconds
from stepwell_server.api.interceptors.errors import as_refusal
from stepwell_server.api.page import read_page
from stepwell_server.api.reports import BeatReader, ReportReader, hello_from_proto, rooms_from_proto
from stepwell_server.api.streams import Stream, cut, first_message
from stepwell_server.api.task_refs import task_key
from stepwell_server.api.tasks import (
    answer_to_proto,
    assign_to_proto,
    bundle_to_proto,
    records_to_proto,
    task_ref,
    worker_to_proto,
)
from stepwell_server.dispatch.beat_traces import hear
from stepwell_server.dispatch.messages import ReportAnswer
from stepwell_server.dispatch.traces import LOST, RECORDED
from stepwell_server.engine.committer import Claim, Rationed
from stepwell_server.engine.progress import ProgressAnswer
from stepwell_server.model.workers import LISTED, unpack_hello
from stepwell_server.store import recall, workers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.dispatch.dispatcher import Dispatcher
    from stepwell_server.dispatch.sessions import TaskKey, WorkerSession
    from stepwell_server.model.tasks import Grant
    from stepwell_server.model.workers import Session
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

_MOST_CLAIMED = 256
_CLAIM_POLL_SECONDS = 0.1
_LEAVING_PAUSE_SECONDS = 0.5


class WorkerServicer(workers_pb2_grpc.WorkerServiceServicer):
    """See the module."""

    def __init__(
        self, dispatcher: Dispatcher, database: Database, namespaces: Namespaces, settings: Settings, clock: Clock
    ) -> None:
        self._dispatcher = dispatcher
        self._database = database
        self._namespaces = namespaces
        self._settings = settings
        self._clock = clock
        self._fields = Fields(settings.limits)

    # --- the stream -------------------------------------------------------------------------------------------------

    async def Connect(
        self, request_iterator: AsyncIterator[workers_pb2.ConnectRequest], context: object
    ) -> AsyncIterator[workers_pb2.ConnectResponse]:
        del context
        first = await first_message(request_iterator)
        session, welcome = await self._greet(first.hello)
        stream = Stream(self._dispatcher, session, self._fields, self._settings.ping_seconds / 2)
        telemetry.metrics.streams.inc()
        reader: asyncio.Task[None] | None = None
        has_left = False
        cutting = asyncio.create_task(cut(session.outbox.ended, asyncio.current_task()))
        try:
            yield workers_pb2.ConnectResponse(welcome=welcome)
            self._dispatcher.attach(session)
            await stream.take(first)
            reader = asyncio.create_task(stream.read(request_iterator))
            while (bundle := await session.outbox.take()) is not None:
                yield bundle_to_proto(bundle, session.namespace)
            self._say_why(session, stream)
            if stream.left:
                # What a worker says ends alike if its stream is lost. Only one that can be written to has left.
                yield workers_pb2.ConnectResponse()
                has_left = True
        finally:
            telemetry.metrics.streams.dec()
            cutting.cancel()
            if reader is not None:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reader
            if has_left and not session.may_have_moved:
                await self._dispatcher.close(session)
            elif session.attached:
                self._dispatcher.detach(session)

    def _say_why(self, session: WorkerSession, stream: Stream) -> None:
        """Ends a stream with the reason, if its worker did not end it."""
        if stream.fault is not None:
            raise stream.fault
        if session.lost:
            raise errors.SessionExpired(session_id=session.session_id)
        if session.outbox.overflowed:
            raise errors.QueueFull(queue="stream")

    async def _greet(self, hello: workers_pb2.Hello) -> tuple[WorkerSession, workers_pb2.Welcome]:
        namespace = self._fields.namespace(hello.namespace, at="hello.")
        namespace_id = await self._namespaces.id_of(namespace)
        words = hello_from_proto(hello, self._fields)
        rooms = rooms_from_proto(hello.capacity, self._fields, "hello.capacity.")
        dispatcher = self._dispatcher
        if not hello.session_id:
            session = await dispatcher.open(namespace_id, namespace, words, streaming=True, owner=_owner())
            session.set_rooms(rooms)
            return session, self._welcome(session.session_id)
        session_id = checks.uuid(hello.session_id, "session_id", "hello.")
        named = {task_key(ref, f"hello.held[{place}]."): ref.token for place, ref in enumerate(hello.held)}
        found = caller()
        owner = None if found is None or found.uses_all_sessions else found.owner
        session, kept = await dispatcher.resume(session_id, namespace_id, namespace, words, named, owner)
        session.set_rooms(rooms)
        dispatcher.keep(session, kept)
        welcome = self._welcome(session_id)
        welcome.resumed = True
        welcome.held.extend(task_ref(key, token) for key, token in kept)
        return session, welcome

    def _welcome(self, session_id: UUID) -> workers_pb2.Welcome:
        settings = self._settings
        welcome = workers_pb2.Welcome(
            session_id=str(session_id),
            server_version=version("stepwell-server"),
            max_items=settings.limits.message_items,
        )
        welcome.session_ttl.FromTimedelta(timedelta(seconds=settings.session_seconds))
        welcome.heartbeat_interval.FromTimedelta(timedelta(seconds=settings.heartbeat_seconds))
        welcome.ack_timeout.FromTimedelta(timedelta(seconds=settings.ack_seconds))
        welcome.server_time.FromDatetime(self._clock.now())
        return welcome

    # --- the unary twins --------------------------------------------------------------------------------------------

    async def OpenSession(
        self, request: workers_pb2.OpenSessionRequest, context: object
    ) -> workers_pb2.OpenSessionResponse:
        del context
        hello = request.hello
        if hello.session_id or hello.held or hello.HasField("capacity"):
            raise errors.InvalidField(field="hello", problem="may hold no session_id, held or capacity in this call")
        namespace = self._fields.namespace(hello.namespace, at="hello.")
        namespace_id = await self._namespaces.id_of(namespace)
        words = replace(hello_from_proto(hello, self._fields), is_unary=True)
        session = await self._dispatcher.open(namespace_id, namespace, words, streaming=False, owner=_owner())
        return workers_pb2.OpenSessionResponse(welcome=self._welcome(session.session_id))

    async def CloseSession(
        self, request: workers_pb2.CloseSessionRequest, context: object
    ) -> workers_pb2.CloseSessionResponse:
        del context
        namespace, row = await self._session(request.namespace, request.session_id)
        closed = await self._dispatcher.close_unary(row, namespace) if row is not None else False
        return workers_pb2.CloseSessionResponse(closed=closed)

    async def ClaimTasks(
        self, request: workers_pb2.ClaimTasksRequest, context: object
    ) -> workers_pb2.ClaimTasksResponse:
        del context
        namespace, row = await self._live_session(request.namespace, request.session_id)
        most = checks.integer(request.max_tasks or 1, "max_tasks", at_least=1, at_most=_MOST_CLAIMED)
        kind = self._fields.member(request.kind, workers_pb2.TaskKind, "kind")
        queue = self._fields.text(request.task_queue, "task_queue")
        wait = wait_seconds(checks.seconds(request, "wait") or 0.0, default=0.0)
        claims = self._dispatcher.unary_claims(row, namespace, kind, queue, most)
        return_all = self._dispatcher.give_back_claimed
        grants, expire_time = await self._claim(row.session_id, claims, wait, return_all)
        try:
            assigns = await self._dispatcher.reader.assignments(grants)
            assigns = await self._dispatcher.run_calls.deliveries.with_updates(assigns)
        except BaseException:
            return_all(grants)
            raise
        response = workers_pb2.ClaimTasksResponse(tasks=[assign_to_proto(each, namespace) for each in assigns])
        response.session_expire_time.FromDatetime(expire_time)
        return response

    async def _claim(
        self, session_id: UUID, claims: list[Claim], wait: float, return_all: Callable[[object], None]
    ) -> tuple[Sequence[Grant], datetime]:
        """Claims from each queue and kind in turn until there is something or the wait is over.

        The session, whose end is answered too, is prolonged meanwhile: it lives for less than a long wait. What is
        granted to a caller who has gone away meanwhile is given back.
        """
        deadline, prolong_at, expire_time = time.monotonic() + wait, 0.0, self._clock.now()
        while True:
            if time.monotonic() >= prolong_at:
                expire_time = await self._dispatcher.prolong(session_id)
                prolong_at = time.monotonic() + self._settings.heartbeat_seconds
            pause = _CLAIM_POLL_SECONDS
            for claim in claims:
                future = self._dispatcher.committers.submit(claim)
                try:
                    granted = await asyncio.shield(future)
                except asyncio.CancelledError:
                    future.add_done_callback(lambda done: return_all(done.exception() or done.result()))
                    raise
                if isinstance(granted, list) and granted:
                    return granted, expire_time
                if isinstance(granted, Rationed):
                    pause = min(pause, self._dispatcher.seconds_until(granted.next_time))
            remaining = deadline - time.monotonic()
            if self._dispatcher.is_leaving:
                # The caller may ask again at once, and is not to do so without end.
                await asyncio.sleep(min(max(remaining, 0.0), _LEAVING_PAUSE_SECONDS))
                return [], expire_time
            if remaining <= 0:
                return [], expire_time
            await self._dispatcher.tasks_marked(min(remaining, pause))

    async def ReportTasks(
        self, request: workers_pb2.ReportTasksRequest, context: object
    ) -> workers_pb2.ReportTasksResponse:
        del context
        namespace, row = await self._live_session(request.namespace, request.session_id)
        reports = self._fields.items(request.reports, "reports", at_least=1)
        build_id = unpack_hello(row.hello).build_id
        reader = ReportReader(row.namespace_id, namespace, row.session_id, build_id, self._fields)
        answers = [self._report(report, f"reports[{place}].", reader) for place, report in enumerate(reports)]
        return workers_pb2.ReportTasksResponse(
            results=[answer_to_proto(each) for each in await asyncio.gather(*answers)]
        )

    async def _report(self, report: workers_pb2.Report, at: str, reader: ReportReader) -> ReportAnswer:
        key: TaskKey | None = None
        try:
            key = task_key(report.ref, f"{at}ref.")
            order = reader.read(report, key, at, resident=False)
            answer = await self._dispatcher.committers.submit(order, report.ByteSize())
        except Exception as error:  # noqa: BLE001 - each report has an answer of its own
            refusal, is_failure = as_refusal(error, "ReportTasks"), remedies.says_failure(report)
            refused = remedies.refused(report.correlation, refusal, is_failure=is_failure)
            if key is not None and remedies.takes_back(refused):
                self._dispatcher.registry.return_task(reader.return_of(key, report.ref.token))
            return refused
        if not isinstance(answer, ProgressAnswer):
            duplicate = getattr(answer, "duplicate", False) or answer is False
            return ReportAnswer(report.correlation, duplicate=duplicate)
        ended = await self._dispatcher.reader.completed(answer.ended)
        return ReportAnswer(report.correlation, answer.duplicate, ordinals=answer.ordinals, ended=ended)

    async def HeartbeatTasks(
        self, request: workers_pb2.HeartbeatTasksRequest, context: object
    ) -> workers_pb2.HeartbeatTasksResponse:
        del context
        _, row = await self._live_session(request.namespace, request.session_id)
        beats = BeatReader(row.session_id, row.namespace_id, row.worker_id, self._fields).read(request.heartbeats)
        flushed = await self._dispatcher.beats.beat(row.session_id, beats)
        if not beats:
            hear(row.session_id, row.worker_id, RECORDED if flushed.expire_time is not None else LOST)
        if flushed.expire_time is None:
            raise errors.SessionExpired(session_id=row.session_id)
        response = workers_pb2.HeartbeatTasksResponse()
        for item, beat in zip(request.heartbeats, beats, strict=True):
            held = flushed.held.get((beat.run_key, beat.ordinal, beat.token))
            response.results.add(ref=item.ref, cancel_requested=bool(held), lost=held is None)
        response.session_expire_time.FromDatetime(flushed.expire_time)
        return response

    async def ListTaskSteps(
        self, request: workers_pb2.ListTaskStepsRequest, context: object
    ) -> workers_pb2.ListTaskStepsResponse:
        del context
        namespace_id = await self._namespaces.id_of(self._fields.namespace(request.namespace))
        run_key, _ = task_key(request.ref, "ref.")
        after = checks.integer(request.after_ordinal, "after_ordinal", at_most=2**17)
        is_own = _is_own if caller() is not None else None
        steps, more = await self._dispatcher.recorded(namespace_id, run_key, request.ref.token, after, is_own)
        return workers_pb2.ListTaskStepsResponse(steps=records_to_proto(steps), more_steps=more)

    async def ListWorkers(
        self, request: workers_pb2.ListWorkersRequest, context: object
    ) -> workers_pb2.ListWorkersResponse:
        del context
        namespace_id = await self._namespaces.id_of(self._fields.namespace(request.namespace))
        limits = self._settings.limits
        wanted = read_filter(request.filter, LISTED, limits)
        order = read_order(request.order_by, LISTED) or workers.BY_REGISTRATION
        page = read_page(request, position_of(order, LISTED, UUID), limits)
        now = self._clock.now()
        rows = await workers.page(self._database, namespace_id, wanted, order, page.after, now, page.fetch)
        shown = rows[: page.size]
        return workers_pb2.ListWorkersResponse(
            workers=[worker_to_proto(row) for row in shown],
            next_page_token=page.token(workers.place_of(shown[-1], order)) if len(rows) > page.size else "",
        )

    # --- sessions by name -------------------------------------------------------------------------------------------

    async def _session(self, namespace: str, session_id: str) -> tuple[str, Session | None]:
        name = self._fields.namespace(namespace)
        namespace_id = await self._namespaces.id_of(name)
        wanted = checks.uuid(session_id, "session_id")
        async with self._dispatcher.reader.connection() as connection:
            row = await recall.read_session(connection, wanted)
        return name, row if row is not None and row.namespace_id == namespace_id and _is_own(row) else None

    async def _live_session(self, namespace: str, session_id: str) -> tuple[str, Session]:
        name, row = await self._session(namespace, session_id)
        if row is None or row.expire_time <= self._clock.now():
            raise errors.SessionNotFound(session_id=session_id)
        return name, row


def _owner() -> str | None:
    """Whose a session is that is opened now."""
    found = caller()
    return found.owner if found is not None else None


def _is_own(session: Session) -> bool:
    """Whether who calls may use a session. What another identity has opened is as if it were not there."""
    found = caller()
    return found is None or found.owns(session.owner, session.task_queues)
