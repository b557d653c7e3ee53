"""One server, put together: what there is, in which order it starts, and in which it ends.

    start   ports bound, NOT_SERVING -> schema in its window -> clock, committers, hints, dispatcher, leader -> SERVING
    stop    NOT_SERVING -> workers drained -> calls ended -> leader resigned -> dispatcher, hints, committers -> pool
            -> the port of health

A server whose database is away or does not suit it stands by, says why, and looks again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from stepwell_server import telemetry
from stepwell_server.api.api_keys import ApiKeys
from stepwell_server.api.bulk import Bulk
from stepwell_server.api.certificates import CertificateError
from stepwell_server.api.clock import ClockCalls
from stepwell_server.api.definitions import DefinitionCalls
from stepwell_server.api.explanations import Explanations
from stepwell_server.api.history import History
from stepwell_server.api.inbox import InboxCalls
from stepwell_server.api.interceptors.door import Door
from stepwell_server.api.interceptors.gate import Gate
from stepwell_server.api.jobs import Jobs
from stepwell_server.api.methods import Interceptor
from stepwell_server.api.namespaces import NamespaceCalls
from stepwell_server.api.retention import RetentionCalls
from stepwell_server.api.runs import Runs
from stepwell_server.api.schedules import ScheduleCalls
from stepwell_server.api.server import Server, build_server
from stepwell_server.api.store_servicers import store_servicers
from stepwell_server.api.task_queues import TaskQueues
from stepwell_server.api.topics import TopicCalls
from stepwell_server.api.transactions import Transactions
from stepwell_server.api.user_tasks import UserTasks
from stepwell_server.api.workers import WorkerServicer
from stepwell_server.clock import SystemClock, TestClock
from stepwell_server.dispatch.api_keys import KnownKeys
from stepwell_server.dispatch.dispatcher import Dispatcher
from stepwell_server.dispatch.traces import Traces
from stepwell_server.dispatch.watches import Watches
from stepwell_server.engine.committer import Committers
from stepwell_server.engine.committer.listeners import Listeners
from stepwell_server.loops.alignment import Alignment
from stepwell_server.loops.api_keys import KeyWatch
from stepwell_server.loops.certificates import CertificateWatch
from stepwell_server.loops.duties import Duties
from stepwell_server.loops.leader import Leader
from stepwell_server.loops.queue_settings import HINT as QUEUES_HINT
from stepwell_server.loops.queue_settings import QueueWatch
from stepwell_server.loops.readiness import Readiness
from stepwell_server.store.crews import Crews
from stepwell_server.store.database import Database
from stepwell_server.store.faults import Lost
from stepwell_server.store.hints import Hints
from stepwell_server.store.namespaces import Namespaces
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from stepwell_server.settings import Settings

_log = structlog.get_logger("stepwell")
_RETRY_SECONDS = 0.2
# Workers are asked to be elsewhere within a second.
_LEAVE_SECONDS, _LEAVE_POLL_SECONDS = 3.0, 0.02


class StartError(Exception):
    """The server can't start; the message says why."""


class Service:
    """See the module. As a context manager it is entered when it is ready."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        telemetry.slow.set_seconds(settings.slow_seconds)
        self.database = Database(settings)
        self.real_clock = SystemClock()
        self.clock = TestClock(self.real_clock) if settings.test_clock else self.real_clock
        self.database.lineage.tell_time = self.real_clock.align
        self.namespaces = Namespaces(self.database)
        self.crews = Crews(self.database, self.real_clock)
        self.watches = Watches(self.database, self.clock, settings)
        self.dispatcher = Dispatcher(self.database, settings, self.clock, self.real_clock, self.watches)
        self.hints = Hints(self.database, settings.database_schema)
        self._listeners = Listeners()
        self.committers = Committers(
            self.database, self.clock, settings, self.dispatcher, self._listeners, self.dispatcher.queues
        )
        for committer in self.committers.members:
            committer.on_loss = self.dispatcher.take_back_runs
        self.leader = Leader(self.database, self.clock, settings)
        self.duties = Duties(
            self.database,
            self.committers,
            self.namespaces,
            self.crews,
            self.clock,
            self.real_clock,
            settings,
            self.leader,
            self.hints.publish,
            self._heard_since,
        )
        self.leader.duties = self.duties.every
        self._listeners.members = (self.dispatcher, self.duties.alarms, self.duties.slots, Traces())
        self.alignment = Alignment(self.database, self.duties.shared, self.real_clock, settings.clock_align_seconds)
        self.readiness = Readiness(settings, self.database.check_pool, self._tell, self._tell_database)
        self._gate = Gate(lambda: self.readiness.advice)
        self.door = Door(settings, self.clock)
        self.keys = KnownKeys(self.database, self.clock, settings.key_seconds, self.door.streams)
        self.key_watch = KeyWatch(self.keys, self.door.streams, self.clock, settings.key_seconds)
        self.queue_watch = QueueWatch(self.dispatcher.queues, self.clock, settings.queue_settings_seconds)
        self._server: Server | None = None
        self._certificate_watch: CertificateWatch | None = None
        self._has_begun = False
        self._ready = asyncio.Event()

    def _heard_since(self) -> datetime | None:
        """Before there was a leader nobody's beats counted, nor while this replica could write none."""
        times = (self.leader.led_since(), self.dispatcher.beats.failed_time)
        return max((time for time in times if time is not None), default=None)

    async def __aenter__(self) -> Self:
        """Starts, and waits until it is ready."""
        await self.start()
        await self.wait_ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops."""
        await self.stop()

    @property
    def address(self) -> str:
        """Where it is served."""
        return self.addresses["address"]

    @property
    def addresses(self) -> dict[str, str]:
        """All its addresses: `address`, and if there are such `client_address`, `health_address`."""
        if self._server is None:
            raise StartError("the server has not been started")
        return self._server.addresses

    async def start(self) -> None:
        """Binds the ports, and becomes ready in the background.

        Raises StartError if a port is in use, or if its certificate can't be used.
        """
        try:
            self._server = build_server(self.settings, self._servicers(), self._interceptors())
        except StartError:
            await self.database.close()
            raise
        except (RuntimeError, CertificateError) as error:
            await self.database.close()
            raise StartError(str(error)) from error
        await self._server.start()
        if self._server.certificates is not None:
            self._certificate_watch = CertificateWatch(self._server.certificates.look, self.settings.tls_reload_seconds)
            self._certificate_watch.start()
        metrics.build.labels(version("stepwell-server")).set(1)
        metrics.committer_waiting.set_function(lambda: self.committers.waiting)
        metrics.pool_allowed.set(self.settings.pool_connections)
        metrics.pool_used.set_function(self.database.pool_use)
        self.readiness.start()

    async def wait_ready(self) -> None:
        """Returns once calls are answered."""
        await self._ready.wait()

    async def stop(self) -> None:
        """Ends in the order that the module names."""
        if self._server is not None:
            self._server.leave()
        metrics.ready.set(0)
        await self.readiness.stop()
        if self._server is not None:
            await self._server.stop(self._drain)
        await self.key_watch.stop()
        await self.queue_watch.stop()
        await self.leader.stop()
        await self.alignment.stop()
        if self._has_begun:
            await self.dispatcher.stop()
        await self.duties.slots.stop()
        await self.hints.stop()
        await self.committers.stop()
        await self.duties.close()
        await self.database.close()
        if self._certificate_watch is not None:
            await self._certificate_watch.stop()
        if self._server is not None:
            await self._server.close()
        self.door.close()

    async def _drain(self) -> None:
        """Workers and watchers go on elsewhere. Who does not leave in time loses the stream, but no task."""
        await asyncio.gather(self.dispatcher.drain(), self.watches.stop())
        sessions = self.dispatcher.sessions
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                while any(session.attached for session in sessions.values()):  # noqa: ASYNC110 - a matter of once
                    await asyncio.sleep(_LEAVE_POLL_SECONDS)
        for session in list(sessions.values()):
            session.outbox.close()

    def _interceptors(self) -> Sequence[Interceptor]:
        try:
            return [self._gate, *self.door.interceptors(self.keys)]
        except OSError as error:
            where = self.settings.audit_file
            raise StartError(f"the audit log {where} can't be written: {error.strerror}") from error

    def _servicers(self) -> Iterable[object]:
        settings, namespaces = self.settings, self.namespaces
        servicers = self._single_servicers()
        return (*servicers, Transactions(self.committers, namespaces, settings, servicers))

    def _single_servicers(self) -> Sequence[object]:
        """All but those whose calls are made of theirs."""
        settings, namespaces = self.settings, self.namespaces
        return (
            NamespaceCalls(self.database, namespaces, self.clock, settings),
            ApiKeys(self.database, namespaces, self.clock, settings, self._key_changed),
            Runs(
                self.committers,
                self.database,
                namespaces,
                self.crews,
                self.watches,
                self.dispatcher.run_calls,
                settings,
            ),
            Bulk(self.committers, self.database, namespaces, settings),
            Jobs(self.committers, self.database, namespaces, self.crews, self.watches, settings),
            History(self.database, namespaces, settings),
            RetentionCalls(self.committers, self.database, namespaces, self.clock, settings),
            ScheduleCalls(self.committers, self.database, namespaces, self.clock, settings),
            DefinitionCalls(self.database, namespaces, self.clock, settings),
            InboxCalls(self.database, namespaces, self.clock, settings),
            TopicCalls(self.database, namespaces, self.clock, settings, self.duties.topic_news.published),
            UserTasks(self.committers, self.database, namespaces, self.clock, settings),
            WorkerServicer(self.dispatcher, self.database, namespaces, settings, self.real_clock),
            Explanations(self.database, namespaces, self.crews, self.clock, self.real_clock, settings),
            TaskQueues(
                self.database, namespaces, self.crews, self.dispatcher, self.clock, settings, self._queue_changed
            ),
            *store_servicers(self.committers, self.database, namespaces, self.clock, settings),
            *([ClockCalls(self.clock, self._look_at_all)] if isinstance(self.clock, TestClock) else []),
        )

    def _look_at_all(self) -> None:
        """The clock was moved: what is due now was not before."""
        self.duties.wake()
        self.dispatcher.matcher.settings_changed()

    def _key_changed(self) -> None:
        """Here it holds no more from now on; elsewhere within seconds."""
        self.keys.forget()
        self.key_watch.wake()

    async def _queue_changed(self) -> None:
        """Here it counts from now on; elsewhere in a moment."""
        await self.dispatcher.queues.look()
        self.hints.publish(QUEUES_HINT)

    # --- readiness --------------------------------------------------------------------------------------------------

    async def _tell(self, is_ready: bool) -> None:  # noqa: FBT001 - what is told
        """Readiness has changed."""
        if is_ready:
            await self._begin()
            self.leader.start()
        else:
            self._ready.clear()
            await self.leader.stop()
        self._gate.is_open = is_ready
        metrics.ready.set(is_ready)
        if self._server is not None:
            await self._server.ready(is_ready=is_ready)
        if is_ready:
            self._ready.set()
            _log.info("serving", address=self.address)

    def _tell_database(self, is_there: bool) -> None:  # noqa: FBT001 - what is told
        """The database has gone, or is back."""
        if self._server is not None:
            self._server.database(is_there=is_there)

    async def _begin(self) -> None:
        if self._has_begun:
            return
        await self.alignment.run_once()
        self.alignment.start()
        for committer in self.committers.members:
            await _started(committer.start)
        self.hints.subscribe(self.dispatcher.hinted)
        self.hints.subscribe(self.duties.alarms.hinted)
        self.hints.subscribe(self.duties.topic_news.hinted)
        self.hints.subscribe(self.queue_watch.hinted)
        self.hints.start()
        if self.settings.require_keys:
            self.key_watch.start()
        await _started(self.dispatcher.queues.look)
        self.queue_watch.start()
        await self.dispatcher.start(self.committers, self.hints)
        self.duties.slots.start()
        self._has_begun = True


async def _started(start: Callable[[], Awaitable[object]]) -> None:
    """Starts what needs the database, which may go away at any moment."""
    while True:
        try:
            await start()
            return
        except Lost:
            await asyncio.sleep(_RETRY_SECONDS)
