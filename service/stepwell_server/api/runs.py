"""RunService: starting and steering runs.

Reading is in `runs_read`, asking in `run_asks`, mending in `run_mends` and `run_repairs`, attributes in
`run_attributes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import runs_pb2, runs_pb2_grpc, types_pb2
from stepwell_server.api.fields import Fields
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.interceptors.errors import as_refusal, to_status
from stepwell_server.api.requests import asked_of, asked_of_start
from stepwell_server.api.run_asks import RunAsks
from stepwell_server.api.run_attributes import RunAttributes
from stepwell_server.api.run_forks import RunForks
from stepwell_server.api.run_mends import RunMends
from stepwell_server.api.run_repairs import RunRepairs
from stepwell_server.api.run_starts import (
    require_namespace,
    signal_from_proto,
    signal_with_start_from_proto,
    size_of,
    start_from_proto,
)
from stepwell_server.api.run_values import RunRefs, each
from stepwell_server.api.runs_read import RunReads
from stepwell_server.engine import runs
from stepwell_server.engine.builds import Pinned, PinRun
from stepwell_server.engine.signal_with_start import SignalledWithStart
from stepwell_server.engine.signals import Signalled
from stepwell_server.engine.starts import Started

if TYPE_CHECKING:
    import asyncio

    from google.protobuf.message import Message

    from stepwell_server.dispatch.run_calls import RunCalls
    from stepwell_server.dispatch.watches import Watches
    from stepwell_server.engine.commands import Command
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.crews import Crews
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]


class Runs(RunReads, RunAsks, RunMends, RunRepairs, RunForks, RunAttributes, runs_pb2_grpc.RunServiceServicer):
    """Starts, reads and steers runs."""

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        committers: Committers,
        database: Database,
        namespaces: Namespaces,
        crews: Crews,
        watches: Watches,
        run_calls: RunCalls,
        settings: Settings,
    ) -> None:
        fields = Fields(settings.limits)
        refs = RunRefs(fields, namespaces)
        RunReads.__init__(self, database, namespaces, crews, watches, fields, refs)
        RunAsks.__init__(self, run_calls, fields, refs)
        self._committers = committers
        self._namespaces = namespaces
        self._fields = fields
        self._refs = refs

    async def StartRun(self, request: runs_pb2.StartRunRequest, context: Context) -> runs_pb2.StartRunResponse:
        namespace = self._fields.namespace(request.namespace)
        namespace_id = await self._namespaces.id_of(namespace)
        metadata = context.invocation_metadata() or ()
        command = start_from_proto(request, namespace_id, namespace, metadata, self._fields)
        asked = asked_of_start(request, namespace_id, Started, self._fields)
        return started_to_proto(await self._committers.do(Started, command, size_of(request), remaining(), asked))

    async def BatchStartRuns(
        self, request: runs_pb2.BatchStartRunsRequest, context: Context
    ) -> runs_pb2.BatchStartRunsResponse:
        namespace = self._fields.namespace(request.namespace)
        namespace_id = await self._namespaces.id_of(namespace)
        metadata = context.invocation_metadata() or ()

        def submit(place: int, item: runs_pb2.StartRunRequest) -> asyncio.Future[object]:
            at = f"requests[{place}]."
            require_namespace(item.namespace, namespace, at)
            command = start_from_proto(item, namespace_id, namespace, metadata, self._fields, at)
            asked = asked_of_start(item, namespace_id, Started, self._fields)
            return self._committers.submit(command, size_of(item), remaining(), asked)

        items = self._fields.items(request.requests, "requests", at_least=1)
        answers = await each(items, submit)
        return runs_pb2.BatchStartRunsResponse(results=[start_result_to_proto(answer) for answer in answers])

    async def SignalWithStartRun(
        self, request: runs_pb2.SignalWithStartRunRequest, context: Context
    ) -> runs_pb2.SignalWithStartRunResponse:
        namespace = self._fields.namespace(request.namespace)
        namespace_id = await self._namespaces.id_of(namespace)
        metadata = context.invocation_metadata() or ()
        command = signal_with_start_from_proto(request, namespace_id, namespace, metadata, self._fields)
        asked = asked_of(request, namespace_id, SignalledWithStart, self._fields)
        answer = await self._committers.do(SignalledWithStart, command, size_of(request), remaining(), asked)
        return runs_pb2.SignalWithStartRunResponse(run_id=str(answer.run_id), started=answer.started)

    async def SignalRun(self, request: runs_pb2.SignalRunRequest, context: Context) -> runs_pb2.SignalRunResponse:
        command = signal_from_proto(request, await self._refs.read(request), self._fields)
        return signalled_to_proto(await self._committers.do(Signalled, command, size_of(request), remaining()))

    async def BatchSignalRuns(
        self, request: runs_pb2.BatchSignalRunsRequest, context: Context
    ) -> runs_pb2.BatchSignalRunsResponse:
        namespace = self._fields.namespace(request.namespace)
        namespace_id = await self._namespaces.id_of(namespace)

        def submit(place: int, item: runs_pb2.SignalRunRequest) -> asyncio.Future[object]:
            at = f"requests[{place}]."
            require_namespace(item.namespace, namespace, at)
            ref = self._refs.within(namespace_id, namespace, item, at)
            command = signal_from_proto(item, ref, self._fields, at)
            return self._committers.submit(command, size_of(item), remaining())

        items = self._fields.items(request.requests, "requests", at_least=1)
        answers = await each(items, submit)
        return runs_pb2.BatchSignalRunsResponse(results=[signal_result_to_proto(answer) for answer in answers])

    async def CancelRun(self, request: runs_pb2.CancelRunRequest, context: Context) -> runs_pb2.CancelRunResponse:
        reason = self._fields.remark(request.reason, "reason")
        steered = await self._steer(runs.CancelRun(await self._refs.read(request), reason), request)
        phase = types_pb2.RunPhase.ValueType(steered.phase)
        return runs_pb2.CancelRunResponse(accepted=steered.accepted, run_id=str(steered.run_id), phase=phase)

    async def TerminateRun(
        self, request: runs_pb2.TerminateRunRequest, context: Context
    ) -> runs_pb2.TerminateRunResponse:
        reason = self._fields.remark(request.reason, "reason")
        steered = await self._steer(runs.TerminateRun(await self._refs.read(request), reason), request)
        phase = types_pb2.RunPhase.ValueType(steered.phase)
        return runs_pb2.TerminateRunResponse(accepted=steered.accepted, run_id=str(steered.run_id), phase=phase)

    async def PauseRun(self, request: runs_pb2.PauseRunRequest, context: Context) -> runs_pb2.PauseRunResponse:
        reason = self._fields.remark(request.reason, "reason")
        steered = await self._steer(runs.PauseRun(await self._refs.read(request), reason), request)
        return runs_pb2.PauseRunResponse(accepted=steered.accepted)

    async def ResumeRun(self, request: runs_pb2.ResumeRunRequest, context: Context) -> runs_pb2.ResumeRunResponse:
        command = runs.ResumeRun(await self._refs.read(request), request.accept_order)
        steered = await self._steer(command, request)
        return runs_pb2.ResumeRunResponse(accepted=steered.accepted)

    async def PinRun(self, request: runs_pb2.PinRunRequest, context: Context) -> runs_pb2.PinRunResponse:
        build_id = self._fields.text(request.build_id, "build_id")
        command = PinRun(await self._refs.read(request), build_id)
        asked = asked_of(request, command.ref.namespace_id, Pinned, self._fields)
        pinned = await self._committers.do(Pinned, command, seconds=remaining(), asked=asked)
        return runs_pb2.PinRunResponse(accepted=pinned.accepted, previous_build_id=pinned.previous_build_id)

    async def _steer(self, command: Command, request: Message) -> runs.Steered:
        asked = asked_of(request, command.ref.namespace_id, runs.Steered, self._fields)
        return await self._committers.do(runs.Steered, command, size_of(request), remaining(), asked)


def started_to_proto(started: Started) -> runs_pb2.StartRunResponse:
    """Renders the answer to a start."""
    return runs_pb2.StartRunResponse(run_id=str(started.run_id), started=started.started)


def signalled_to_proto(signalled: Signalled) -> runs_pb2.SignalRunResponse:
    """Renders the answer to a signal."""
    run_id, number = str(signalled.run_id), signalled.number
    return runs_pb2.SignalRunResponse(run_id=run_id, signal_number=number, recorded=signalled.recorded)


def start_result_to_proto(answer: object) -> runs_pb2.BatchStartRunsResponse.Result:
    """Renders what came of one start of several."""
    if isinstance(answer, Started):
        return runs_pb2.BatchStartRunsResponse.Result(started=started_to_proto(answer))
    return runs_pb2.BatchStartRunsResponse.Result(error=to_status(as_refusal(_error(answer), "StartRun")))


def signal_result_to_proto(answer: object) -> runs_pb2.BatchSignalRunsResponse.Result:
    """Renders what came of one signal of several."""
    if isinstance(answer, Signalled):
        return runs_pb2.BatchSignalRunsResponse.Result(signalled=signalled_to_proto(answer))
    return runs_pb2.BatchSignalRunsResponse.Result(error=to_status(as_refusal(_error(answer), "SignalRun")))


def _error(answer: object) -> Exception:
    return answer if isinstance(answer, Exception) else TypeError(f"answered with {type(answer).__name__}")
