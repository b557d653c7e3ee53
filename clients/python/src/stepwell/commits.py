"""Commits: several writes that happen together or not at all.

    async with client.commit() as commit:
        order = commit.create_run("order", workflow_id="order-17", running=True)
        commit.save_step(order, "reserve", {"seats": 2})
        reserved = commit.append_event(order, "Reserved")
    print(reserved.answer.number)

Writes are sent when the block is left, in their order; not if an exception leaves it. A write takes a run's handle, or
its id. With `expected_version` it refuses the whole, by `RunVersionChanged`, unless the run has that version before the
commit. An error's metadata name the write that was refused as `at`: `writes[3].append_event`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, Unpack

from stepwell._rpc import start_ids, uuid7, uuid_of
from stepwell.options import StartOptions
from stepwell.policies import Seconds, duration, timestamp
from stepwell.starts import start_request
from stepwell.v1 import (
    event_store_pb2,
    run_store_pb2,
    runs_pb2,
    signal_store_pb2,
    step_store_pb2,
    timer_store_pb2,
    transactions_pb2,
    types_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stepwell.converter import DataConverter
    from stepwell.sync import Loop

T = TypeVar("T")
_NAMES: dict[str, str] = {
    field.message_type.full_name: field.name
    for field in transactions_pb2.CommitRequest.Write.DESCRIPTOR.oneofs_by_name["write"].fields
    if field.message_type is not None
}


def write_name(request: Message) -> str | None:
    """What a commit calls a write of that request; None if it takes no such write."""
    return _NAMES.get(request.DESCRIPTOR.full_name)


class NamedRun(Protocol):
    """A run's handle."""

    @property
    def run_id(self) -> str:
        """The run's id, or empty."""
        ...

    @property
    def workflow_id(self) -> str:
        """The caller's name for it, or empty."""
        ...


Run = NamedRun | str
Send = Callable[[transactions_pb2.CommitRequest], Coroutine[Any, Any, transactions_pb2.CommitResponse]]


class Written(Generic[T]):
    """A write of a commit. `answer` is the single call's response, once the commit is done."""

    def __init__(self) -> None:
        """Made by the commit."""
        self._answer: T | None = None

    @property
    def answer(self) -> T:
        """What came of the write. Raises `RuntimeError` before the commit is done."""
        if self._answer is None:
            raise RuntimeError("the commit is not done yet")
        return self._answer

    def told(self, answer: T) -> None:
        """Takes in what came of it."""
        self._answer = answer


class Writes:
    """What is to be written. Each method adds a write, and gives what will tell of it."""

    def __init__(self, namespace: str, converter: DataConverter, request_id: str = "") -> None:
        """Made by `Client.commit`."""
        self._namespace = namespace
        self._converter = converter
        self._written: list[Written[Any]] = []
        self._request = transactions_pb2.CommitRequest(namespace=namespace, request_id=request_id or uuid7())

    def __len__(self) -> int:
        """How many writes there are."""
        return len(self._written)

    def add(self, request: Message, *, expected_version: int | None = None) -> Written[Any]:
        """Adds any write that a commit takes, as the request of its call. Raises `TypeError` for another."""
        name = write_name(request)
        if name is None:
            raise TypeError(f"a commit takes no {request.DESCRIPTOR.name}")
        fields: dict[str, Any] = {name: request}
        self._request.writes.add(expected_version=expected_version, **fields)
        written: Written[Any] = Written()
        self._written.append(written)
        return written

    # --- runs -------------------------------------------------------------------------------------------------------

    def start_run(
        self,
        workflow: Callable[..., Awaitable[Any]] | str,
        input: object = None,  # noqa: A002 - as in `Client.start_run`
        **options: Unpack[StartOptions],
    ) -> str:
        """Starts a run for workers, as `Client.start_run`, and gives its id, by which later writes may name it."""
        run_id, request_id = start_ids(options.get("run_id"), options.get("request_id", ""))
        run_id = run_id or uuid7()
        request, _ = start_request(self._converter, workflow, input, run_id, options)
        request.request_id = request_id
        self.add(request)
        return run_id

    def create_run(
        self,
        type: str,  # noqa: A002 - the field's name in the protocol
        input: object = None,  # noqa: A002
        *,
        workflow_id: str = "",
        run_id: str | None = None,
        task_queue: str = "",
        running: bool = False,
        managed: bool = False,
        ttl: Seconds | None = None,
    ) -> str:
        """Creates a driven run, PENDING or RUNNING, and gives its id, by which later writes may name it."""
        own = uuid_of(run_id) if run_id else uuid7()
        self.add(
            run_store_pb2.CreateRunRequest(
                type=type,
                run_id=own,
                workflow_id=workflow_id,
                task_queue=task_queue,
                input=self._converter.to_payload(input),
                initial_phase=types_pb2.RUN_PHASE_RUNNING if running else types_pb2.RUN_PHASE_PENDING,
                managed=managed,
                ttl=duration(ttl),
            )
        )
        return own

    def cancel_run(self, run: Run, reason: str = "") -> Written[runs_pb2.CancelRunResponse]:
        """Asks a run to cancel."""
        return self.add(runs_pb2.CancelRunRequest(**_named(run), reason=reason))

    def terminate_run(self, run: Run, reason: str = "") -> Written[runs_pb2.TerminateRunResponse]:
        """Ends a run at once."""
        return self.add(runs_pb2.TerminateRunRequest(**_named(run), reason=reason))

    def complete_run(
        self, run: Run, result: object = None, *, token: int = 0, expected_version: int | None = None
    ) -> Written[run_store_pb2.MarkRunCompletedResponse]:
        """Ends a driven run well."""
        payload = self._converter.to_payload(result)
        request = run_store_pb2.MarkRunCompletedRequest(**_named(run), result=payload, token=token)
        return self.add(request, expected_version=expected_version)

    def fail_run(
        self, run: Run, failure: types_pb2.Failure, *, token: int = 0, expected_version: int | None = None
    ) -> Written[run_store_pb2.MarkRunFailedResponse]:
        """Ends a driven run with a failure."""
        request = run_store_pb2.MarkRunFailedRequest(**_named(run), failure=failure, terminal=True, token=token)
        return self.add(request, expected_version=expected_version)

    def cancel_driven_run(
        self, run: Run, reason: str = "", *, expected_version: int | None = None
    ) -> Written[run_store_pb2.CancelDrivenRunResponse]:
        """Cancels a driven run, whoever holds it."""
        request = run_store_pb2.CancelDrivenRunRequest(**_named(run), reason=reason)
        return self.add(request, expected_version=expected_version)

    # --- what belongs to them ---------------------------------------------------------------------------------------

    def save_step(
        self, run: Run, name: str, value: object = None, *, token: int = 0, expected_version: int | None = None
    ) -> Written[step_store_pb2.SaveStepResponse]:
        """Saves a checkpoint, in the place of an earlier one of that name."""
        payload = self._converter.to_payload(value)
        request = step_store_pb2.SaveStepRequest(**_named(run), step_name=name, value=payload, token=token)
        return self.add(request, expected_version=expected_version)

    def begin_step(
        self,
        run: Run,
        name: str,
        input: object = None,  # noqa: A002
        *,
        token: int = 0,
        expected_version: int | None = None,
    ) -> Written[step_store_pb2.BeginStepResponse]:
        """Begins a step, unless it is under way or done."""
        payload = self._converter.to_payload(input)
        request = step_store_pb2.BeginStepRequest(**_named(run), step_name=name, input=payload, token=token)
        return self.add(request, expected_version=expected_version)

    def complete_step(
        self, number: int, result: object = None, *, token: int = 0, expected_version: int | None = None
    ) -> Written[step_store_pb2.CompleteStepResponse]:
        """Completes a step that is under way, by its number."""
        payload = self._converter.to_payload(result)
        request = step_store_pb2.CompleteStepRequest(step_number=number, result=payload, token=token)
        return self.add(request, expected_version=expected_version)

    def fail_step(
        self, number: int, failure: types_pb2.Failure, *, token: int = 0, expected_version: int | None = None
    ) -> Written[step_store_pb2.FailStepResponse]:
        """Fails a step that is under way, by its number."""
        request = step_store_pb2.FailStepRequest(step_number=number, failure=failure, token=token)
        return self.add(request, expected_version=expected_version)

    def append_event(
        self,
        run: Run,
        type: str,  # noqa: A002
        payload: object = None,
        *,
        caller_seq: int = 0,
        token: int = 0,
        expected_version: int | None = None,
    ) -> Written[event_store_pb2.AppendEventResponse]:
        """Appends an event of the caller's own to a run's history."""
        request = event_store_pb2.AppendEventRequest(
            **_named(run),
            type=type,
            payload=self._converter.to_payload(payload),
            caller_seq=caller_seq,
            token=token,
        )
        return self.add(request, expected_version=expected_version)

    def signal(
        self, run: Run, name: str, payload: object = None, *, request_id: str = "", expected_version: int | None = None
    ) -> Written[signal_store_pb2.SendSignalResponse]:
        """Sends a signal. Its own `request_id` makes it be recorded once in its run, whoever sends it again."""
        request = signal_store_pb2.SendSignalRequest(
            **_named(run), signal_name=name, payload=self._converter.to_payload(payload), request_id=request_id
        )
        return self.add(request, expected_version=expected_version)

    def create_timer(
        self, run: Run, seq: int, fire_time: dt.datetime, *, token: int = 0, expected_version: int | None = None
    ) -> Written[timer_store_pb2.CreateTimerResponse]:
        """Creates a timer of a driven run. Raises `ValueError` for a time without a zone."""
        time = timestamp(fire_time)
        request = timer_store_pb2.CreateTimerRequest(**_named(run), seq=seq, fire_time=time, token=token)
        return self.add(request, expected_version=expected_version)

    def _told(self, response: transactions_pb2.CommitResponse) -> None:
        for written, result in zip(self._written, response.results, strict=True):
            written.told(getattr(result, result.WhichOneof("result") or ""))


class Commit(Writes):
    """See the module. Made by `Client.commit`."""

    def __init__(self, send: Send, namespace: str, converter: DataConverter, request_id: str) -> None:
        """Made by the client."""
        super().__init__(namespace, converter, request_id)
        self._send = send

    async def send(self) -> None:
        """Does all writes, or none; nothing if there are none. Sent again, it does nothing twice.

        Raises `ServiceError`: then nothing was done, unless the outcome is unknown.
        """
        if self._written:
            self._told(await self._send(self._request))

    async def __aenter__(self) -> Self:
        """Gives the commit."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends it, unless an exception leaves the block."""
        if kind is None:
            await self.send()


class SyncCommit(Writes):
    """The same for programs without asyncio: `with client.commit() as commit`."""

    def __init__(self, loop: Loop, send: Send, namespace: str, converter: DataConverter, request_id: str) -> None:
        """Made by the client."""
        super().__init__(namespace, converter, request_id)
        self._loop = loop
        self._send = send

    def send(self) -> None:
        """As `Commit.send`."""
        if self._written:
            self._told(self._loop.call(self._send(self._request)))

    def __enter__(self) -> Self:
        """Gives the commit."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends it, unless an exception leaves the block."""
        if kind is None:
            self.send()


def _named(run: Run) -> dict[str, Any]:
    """The run by its id, else by its workflow id."""
    if isinstance(run, str):
        return {"run_id": uuid_of(run)}
    return {"run_id": run.run_id} if run.run_id else {"workflow_id": run.workflow_id}
