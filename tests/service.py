"""A server within the test: database, committers, watches and the servicers about runs, over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from stepwell.v1 import (
    definitions_pb2_grpc,
    history_pb2_grpc,
    jobs_pb2_grpc,
    namespaces_pb2_grpc,
    retention_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    schedules_pb2_grpc,
    transactions_pb2_grpc,
)
from stepwell_server.api.definitions import DefinitionCalls
from stepwell_server.api.history import History
from stepwell_server.api.jobs import Jobs
from stepwell_server.api.namespaces import NamespaceCalls
from stepwell_server.api.retention import RetentionCalls
from stepwell_server.api.runs import Runs
from stepwell_server.api.schedules import ScheduleCalls
from stepwell_server.api.server import build_server
from stepwell_server.api.store_servicers import store_servicers
from stepwell_server.api.transactions import Transactions
from stepwell_server.api.user_tasks import UserTasks
from stepwell_server.clock import SystemClock
from stepwell_server.dispatch.dispatcher import Dispatcher
from stepwell_server.dispatch.watches import Watches
from stepwell_server.engine.committer import Claim, Committers
from stepwell_server.engine.committer.protocols import NoCapacity
from stepwell_server.engine.progress import ProgressAnswer, ProgressRun
from stepwell_server.engine.reported import End, NewStep, ScopeClaim
from stepwell_server.ids import uuid7
from stepwell_server.model.payloads import NULL, Payload
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.tasks import Grant, TaskKind
from stepwell_server.settings import Settings
from stepwell_server.store.crews import Crews
from stepwell_server.store.database import Database
from stepwell_server.store.namespaces import Namespaces

if TYPE_CHECKING:
    from stepwell_server.engine.committer.protocols import AnyChange

TIMEOUT = 30


class ToWatches:
    """Tells watches what was committed, as the dispatcher does."""

    def __init__(self, watches: Watches) -> None:
        self.watches = watches

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        self.watches.committed(committer, position, changes)

    def unsettled(self) -> None:
        self.watches.hint()


class Service:
    """One replica."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.database = Database(settings)
        self.namespaces = Namespaces(self.database)
        self.watches = Watches(self.database, self.clock, settings)
        self.committers = Committers(self.database, self.clock, settings, NoCapacity(), ToWatches(self.watches))
        # It has no streams, and answers for runs that nobody holds.
        self.dispatcher = Dispatcher(self.database, settings, self.clock, self.clock)
        crews = Crews(self.database, self.clock)
        servicers: tuple[object, ...] = (
            Runs(
                self.committers,
                self.database,
                self.namespaces,
                crews,
                self.watches,
                self.dispatcher.run_calls,
                settings,
            ),
            Jobs(self.committers, self.database, self.namespaces, crews, self.watches, settings),
            History(self.database, self.namespaces, settings),
            RetentionCalls(self.committers, self.database, self.namespaces, self.clock, settings),
            ScheduleCalls(self.committers, self.database, self.namespaces, self.clock, settings),
            DefinitionCalls(self.database, self.namespaces, self.clock, settings),
            NamespaceCalls(self.database, self.namespaces, self.clock, settings),
            UserTasks(self.committers, self.database, self.namespaces, self.clock, settings),
            *store_servicers(self.committers, self.database, self.namespaces, self.clock, settings),
        )
        servicers = (*servicers, Transactions(self.committers, self.namespaces, settings, servicers))
        self.server = build_server(settings, servicers)
        self.channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        await self.committers.start()
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}")

    async def stop(self) -> None:
        await self.watches.stop()
        if self.channel is not None:
            await self.channel.close()
        await self.server.stop()
        await self.committers.stop()
        await self.database.close()

    @property
    def runs(self) -> Any:
        return runs_pb2_grpc.RunServiceStub(self.channel)  # type: ignore[arg-type]

    @property
    def jobs(self) -> Any:
        return jobs_pb2_grpc.JobServiceStub(self.channel)  # type: ignore[arg-type]

    @property
    def transactions(self) -> Any:
        return transactions_pb2_grpc.TransactionServiceStub(self.channel)  # type: ignore[arg-type]

    @property
    def history(self) -> Any:
        return history_pb2_grpc.HistoryServiceStub(self.channel)  # type: ignore[arg-type]

    @property
    def schedules(self) -> Any:
        return schedules_pb2_grpc.ScheduleServiceStub(self.channel)  # type: ignore[arg-type]

    @property
    def retention(self) -> Any:
        return retention_pb2_grpc.RetentionServiceStub(self.channel)  # type: ignore[arg-type]

    @property
    def definitions(self) -> Any:
        return definitions_pb2_grpc.DefinitionServiceStub(self.channel)  # type: ignore[arg-type]

    @property
    def namespace_calls(self) -> Any:
        return namespaces_pb2_grpc.NamespaceServiceStub(self.channel)  # type: ignore[arg-type]

    async def begin(self, **fields: Any) -> str:
        """Starts a run of type `t` and answers its id."""
        request = runs_pb2.StartRunRequest(**{"type": "t", **fields})
        return str((await self.runs.StartRun(request, timeout=TIMEOUT)).run_id)

    async def end(self, run_id: str, namespace: str = "") -> None:
        """Ends a run."""
        request = runs_pb2.TerminateRunRequest(namespace=namespace, run_id=run_id, reason="test")
        assert (await self.runs.TerminateRun(request, timeout=TIMEOUT)).accepted

    async def get(self, run_id: str, namespace: str = "") -> Any:
        request = runs_pb2.GetRunRequest(namespace=namespace, run_id=run_id)
        return (await self.runs.GetRun(request, timeout=TIMEOUT)).run


@asynccontextmanager
async def serving(database_url: str, **settings: Any) -> AsyncIterator[Service]:
    """A replica on its database."""
    service = Service(Settings(**{"database_url": database_url, "port": 0, "shutdown_seconds": 1.0, **settings}))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def refusal(call: Any) -> tuple[str, str]:
    """The canonical code and the reason with which a call is refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        return error.code().name, reason_of(status)
    raise AssertionError("the call was not refused")


def reason_of(status: Any) -> str:
    """The reason in a status."""
    info = error_details_pb2.ErrorInfo()
    details: Sequence[AnyMessage] = status.details
    assert any(detail.Unpack(info) for detail in details)
    return str(info.reason)


async def soon(condition: Any) -> None:
    """Waits for what only the database or another task knows."""
    async with asyncio.timeout(TIMEOUT):
        while not await condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


class Holder:
    """Holds one run as a worker does, and reports on it."""

    def __init__(self, service: Service, grant: Grant) -> None:
        self._service = service
        self._run = grant.run
        self._scope = ScopeClaim("", 0, bytes(8), closed=False)

    @classmethod
    async def of(cls, service: Service, task_queue: str) -> Holder:
        """Claims the one run that waits in a queue."""
        claim = Claim(1, "main", task_queue, TaskKind.RUN, ("t",), uuid7(), "worker", (), 1)
        (grant,) = await service.committers.do(list, claim)
        return cls(service, grant)

    async def record(self, *steps: NewStep) -> None:
        """Records the run's first steps."""
        await self._report(list(steps), None)

    async def end(self, phase: Phase, payload: Payload = NULL, **how: Any) -> None:
        """Ends the run."""
        await self._report([], End(phase, payload, **how))

    async def _report(self, steps: list[NewStep], end: End | None) -> None:
        run = self._run
        ref = RunRef(run.namespace_id, "main", run.run_key)
        scopes = [self._scope] if steps else []
        session_id = run.session_id
        assert session_id is not None
        command = ProgressRun(ref, session_id, run.grants, scopes, steps, [], False, end, True)
        await self._service.committers.do(ProgressAnswer, command)
