"""Starting runs: the part of a client that is about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from stepwell import _tracing, errors, reasons
from stepwell._rpc import start_ids, uuid7, uuid_of
from stepwell.definitions import type_and_hint
from stepwell.options import StartOptions, debounce_of, run_fields
from stepwell.policies import CONFLICT, REUSE, duration
from stepwell.v1 import runs_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stepwell._batches import Coalescer
    from stepwell._ends import RunEnd
    from stepwell._rpc import Caller
    from stepwell._watch import Wait, Watchers
    from stepwell.converter import DataConverter
    from stepwell.runs import RunHandle
    from stepwell.v1.runs_pb2_grpc import RunServiceAsyncStub

T = TypeVar("T")


def start_request(
    converter: DataConverter,
    workflow: Callable[..., Awaitable[Any]] | str,
    value: object,
    run_id: str,
    options: StartOptions,
) -> tuple[runs_pb2.StartRunRequest, object]:
    """Spells a start, without what makes a repeat of it safe; gives also what its result becomes."""
    kind, hint = type_and_hint(workflow, "workflow")
    request = runs_pb2.StartRunRequest(
        type=kind,
        run_id=run_id,
        input=converter.to_payload(value),
        reuse_policy=REUSE[options.get("reuse", "allow")],
        conflict_policy=CONFLICT[options.get("conflict", "fail")],
        start_delay=duration(options.get("start_delay")),
        debounce=debounce_of(options),
        **run_fields(options),
    )
    return request, hint


class RunStarts(ABC):
    """See the module. What it stands on is the client's."""

    namespace: str
    caller: Caller
    converter: DataConverter
    run_stub: RunServiceAsyncStub
    watcher: Watchers[RunEnd]
    starts: Coalescer[runs_pb2.StartRunRequest, runs_pb2.StartRunResponse]

    @abstractmethod
    def _handle(
        self, run_id: str, workflow_id: str, hint: object, *, started: bool, wait: Wait[RunEnd] | None = None
    ) -> RunHandle[Any]: ...

    @overload
    async def start_run(
        self,
        workflow: Callable[..., Awaitable[T]],
        input: object = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[T]: ...
    @overload
    async def start_run(
        self,
        workflow: str,
        input: object = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]: ...
    async def start_run(
        self,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]:
        """Starts a run of a function with `@workflow`, or of a type by name, and gives a handle to it.

        Starts that are under way at the same time share calls. A repeat after a lost answer finds the run that the
        first made. Raises `WorkflowIdInUse`, `RunExists`, `NamespaceNotFound`, `InvalidField`, `RequestIdReused`.
        """
        run_id, request_id = start_ids(options.get("run_id"), options.get("request_id", ""), self.watcher.ending)
        request, hint = start_request(self.converter, workflow, input, run_id, options)
        request.request_id = request_id
        wait = self.watcher.expect(run_id) if run_id else None
        started = await self.starts.submit(request, _tracing.current_traceparent())
        if started.run_id != run_id or not started.started:
            wait = None
        return self._handle(started.run_id, request.workflow_id, hint, started=started.started, wait=wait)

    @overload
    async def signal_with_start(
        self,
        workflow: Callable[..., Awaitable[T]],
        input: object = ...,
        *,
        signal: str,
        value: object = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[T]: ...
    @overload
    async def signal_with_start(
        self,
        workflow: str,
        input: object = ...,
        *,
        signal: str,
        value: object = ...,
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]: ...
    async def signal_with_start(
        self,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002
        *,
        signal: str,
        value: object = None,
        **options: Unpack[StartOptions],
    ) -> RunHandle[Any]:
        """Signals the open run of a `workflow_id`, which is required; if there is none, starts one, and signals that.

        `value` is what the signal carries. With the same `request_id` a repeat does nothing more; by default only this
        call's own repeats are safe. The handle's `started` tells whether the run was started. Raises what `start_run`
        does, and `SignalRefused`.
        """
        given = options.get("run_id")
        start, hint = start_request(self.converter, workflow, input, uuid_of(given) if given else "", options)
        request = runs_pb2.SignalWithStartRunRequest(
            namespace=self.namespace,
            start=start,
            signal_name=signal,
            payload=self.converter.to_payload(value),
            request_id=options.get("request_id") or uuid7(),
        )
        traceparent = _tracing.current_traceparent()
        response = await self.caller.call(self.run_stub.SignalWithStartRun, request, traceparent=traceparent)
        return self._handle(response.run_id, start.workflow_id, hint, started=response.started)

    async def _send_starts(
        self, requests: list[runs_pb2.StartRunRequest], traceparent: str
    ) -> list[runs_pb2.StartRunResponse | errors.ServiceError]:
        batch = runs_pb2.BatchStartRunsRequest(namespace=self.namespace, requests=requests)
        response = await self.caller.call(self.run_stub.BatchStartRuns, batch, traceparent=traceparent)
        return [
            reasons.from_status(result.error) if result.HasField("error") else result.started
            for result in response.results
        ]
