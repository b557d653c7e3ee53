"""A run, as seen from outside: wait for it, signal it, look at it, end it."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from stepwell import _tracing, reasons
from stepwell._attributes import Attributes
from stepwell._mending import Mending
from stepwell._rpc import uuid7
from stepwell._settling import Settling
from stepwell.errors import RunFailed, UpdateFailed, UpdateRejected
from stepwell.policies import duration
from stepwell.v1 import explanations_pb2, history_pb2, run_store_pb2, runs_pb2, types_pb2
from stepwell.v1.types_pb2 import RunPhase, StepState

if TYPE_CHECKING:
    from stepwell._ends import RunEnd
    from stepwell._watch import Wait
    from stepwell.client import Client

T_co = TypeVar("T_co", covariant=True)

PAGE_SIZE = 500
_LOOK_MILLISECONDS = 1_000
# Seconds. A call is given up and repeated after 20; what it waits for must be over before.
_LONGEST_WAIT, _MARGIN = 15.0, 1.0


def phase_name(phase: RunPhase.ValueType) -> str:
    """Gives a phase as people say it: `COMPLETED`."""
    return RunPhase.Name(phase).removeprefix("RUN_PHASE_")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueryAnswer:
    """What a run's code told of its state. `publish_time` is `None` if the worker that has the run gave it."""

    value: Any
    is_live: bool
    publish_time: dt.datetime | None


class RunHandle(Mending, Settling, Attributes, Generic[T_co]):
    """A run of this client's namespace, by `run_id` or by `workflow_id` (then its open run is meant, else the latest).

    `started` tells, after a start, whether this start made the run or found it.
    """

    __slots__ = ("_client", "_hint", "_wait", "run_id", "started", "workflow_id")

    def __init__(
        self,
        client: Client,
        run_id: str,
        workflow_id: str,
        *,
        hint: object = None,
        started: bool = False,
        wait: Wait[RunEnd] | None = None,
    ) -> None:
        """Made by `Client.start_run` and `Client.run`."""
        self._client = client
        self._hint = hint
        self._wait = wait
        self.run_id = run_id
        self.workflow_id = workflow_id
        self.started = started

    def __repr__(self) -> str:
        """Names the run."""
        return f"RunHandle(run_id={self.run_id!r}, workflow_id={self.workflow_id!r})"

    async def result(self) -> T_co:
        """Waits until the run has ended, and the runs that continue it, and gives what it returned.

        Raises `RunFailed` when it ended otherwise (without the failure, if its history was archived or pruned since),
        `RunPurged` when it returned something that is here no more, `RunNotFound` when there is none. Bound it with
        `asyncio.timeout`.
        """
        client = self._client
        run_id = self.run_id or (await self.describe()).run_id
        end = await client.watcher.end(run_id, self._wait)
        if end.phase != types_pb2.RUN_PHASE_COMPLETED:
            raise RunFailed(
                end.run_id or run_id, phase_name(end.phase), end.failure if end.HasField("failure") else None
            )
        result = end.result
        if end.result_omitted or end.purged:
            request = runs_pb2.GetRunRequest(namespace=client.namespace, run_id=end.run_id)
            run = (await client.caller.call(client.run_stub.GetRun, request)).run
            if run.purged:
                raise _purged(run)
            result = run.result
        value: T_co = client.converter.from_payload(result, self._hint)
        return value

    async def signal(self, name: str, value: object = None, *, request_id: str | None = None) -> None:
        """Sends a signal; it is kept until the run waits for it. Safe to repeat with the same `request_id`.

        Raises `RunNotFound`; `RunTerminal` or `SignalRefused` when the run has ended.
        """
        client = self._client
        request = runs_pb2.SignalRunRequest(
            run_id=self.run_id,
            workflow_id="" if self.run_id else self.workflow_id,
            signal_name=name,
            payload=client.converter.to_payload(value),
            request_id=uuid7() if request_id is None else request_id,
        )
        await client.signals.submit(request, _tracing.current_traceparent())

    async def query(
        self,
        name: str,
        input: object = None,  # noqa: A002
        *,
        wait: float = 10.0,
        as_type: object = None,
    ) -> QueryAnswer:
        """Asks the run's code about its state: the worker that has the run answers, or what was published does.

        `wait` is how many seconds the worker has, at most 15. The value becomes an `as_type` if told. Raises
        `RunNotFound`, `QueryFailed`, `NothingPublished`, `CallTimedOut`.
        """
        client, seconds = self._client, min(wait, _LONGEST_WAIT)
        request = runs_pb2.QueryRunRequest(
            **self._name(), query_name=name, input=client.converter.to_payload(input), wait=duration(seconds)
        )
        answer = await client.caller.call(
            client.run_stub.QueryRun, request, traceparent=_tracing.current_traceparent(), timeout=seconds + _MARGIN
        )
        value = client.converter.from_payload(answer.result, as_type)
        time = answer.publish_time.ToDatetime(dt.UTC) if answer.HasField("publish_time") else None
        return QueryAnswer(value=value, is_live=answer.live, publish_time=time)

    async def update(
        self,
        name: str,
        input: object = None,  # noqa: A002
        *,
        update_id: str = "",
        wait_for: Literal["accepted", "completed"] = "completed",
        as_type: object = None,
    ) -> Any:  # noqa: ANN401 - what the code returned
        """Asks the run's code to make a change, and gives what it returned, as `as_type` if told.

        Waits as long as it takes; bound it with `asyncio.timeout`. With `wait_for="accepted"` it gives `None` once the
        change is sure to be made. A repeat with the same `update_id` (default: a new one) finds what was recorded, also
        after the run's end. Raises `UpdateRejected`, `UpdateFailed`, `RunNotFound`, `RunTerminal`, `RunPaused`.
        """
        client = self._client
        request = runs_pb2.UpdateRunRequest(
            **self._name(),
            update_name=name,
            input=client.converter.to_payload(input),
            update_id=update_id or uuid7(),
            wait_for=runs_pb2.UpdateStage.Value(f"UPDATE_STAGE_{wait_for.upper()}"),
            wait=duration(_LONGEST_WAIT),
        )
        traceparent = _tracing.current_traceparent()
        while True:
            try:
                answer = await client.caller.call(client.run_stub.UpdateRun, request, traceparent=traceparent)
            except reasons.UpdateUndecided:
                continue
            break
        if answer.HasField("rejection"):
            raise UpdateRejected(name, answer.update_id, answer.rejection)
        if wait_for == "accepted":
            return None
        if answer.HasField("failure"):
            raise UpdateFailed(name, answer.update_id, answer.failure)
        return client.converter.from_payload(answer.result, as_type)

    async def cancel(self, reason: str = "") -> bool:
        """Asks the run to cancel: its code may clean up first. False if it had ended or had been asked before."""
        request = runs_pb2.CancelRunRequest(**self._name(), reason=reason, request_id=uuid7())
        response = await self._client.caller.call(
            self._client.run_stub.CancelRun, request, traceparent=_tracing.current_traceparent()
        )
        return response.accepted

    async def terminate(self, reason: str = "") -> bool:
        """Ends the run at once, without clean-up. False if it had ended."""
        request = runs_pb2.TerminateRunRequest(**self._name(), reason=reason, request_id=uuid7())
        response = await self._client.caller.call(
            self._client.run_stub.TerminateRun, request, traceparent=_tracing.current_traceparent()
        )
        return response.accepted

    async def pause(self, reason: str = "") -> bool:
        """Stops work on the run until it is resumed; what is in work is finished. False if it was paused already."""
        request = runs_pb2.PauseRunRequest(**self._name(), reason=reason, request_id=uuid7())
        return (await self._client.caller.call(self._client.run_stub.PauseRun, request)).accepted

    async def resume(self, *, accept_order: bool = False) -> bool:
        """Lets a paused run go on. False if it was not paused.

        `accept_order` is needed when it was paused because its code called other steps than were recorded, and the
        code was mended since. Raises `RunPaused` without it. See `repair`, too.
        """
        request = runs_pb2.ResumeRunRequest(**self._name(), accept_order=accept_order, request_id=uuid7())
        return (await self._client.caller.call(self._client.run_stub.ResumeRun, request)).accepted

    async def pin(self, build_id: str) -> bool:
        """Pins the run to a build, or with `""` to none: only workers that take this build get it from now on.

        Whoever holds the run loses it. False if it was pinned so already. Raises `RunNotFound`, `RunTerminal`.
        """
        request = runs_pb2.PinRunRequest(**self._name(), build_id=build_id, request_id=uuid7())
        return (await self._client.caller.call(self._client.run_stub.PinRun, request)).accepted

    async def describe(self) -> runs_pb2.Run:
        """Reads the run as it is now. Raises `RunNotFound`."""
        request = runs_pb2.GetRunRequest(**self._name())
        return (await self._client.caller.call(self._client.run_stub.GetRun, request)).run

    async def explain(self) -> list[explanations_pb2.Explanation]:
        """Tells why the run does not move: what it waits for, and what to do about it. Raises `RunNotFound`.

        Of very many open steps only the first 100 are explained.
        """
        request = explanations_pb2.ExplainRunRequest(**self._name())
        return list((await self._client.caller.call(self._client.explanation_stub.ExplainRun, request)).explanations)

    async def history(self) -> AsyncGenerator[history_pb2.Event, None]:
        """Reads the run's events by number: `async for event in handle.history()`. Raises `RunNotFound`."""
        request = history_pb2.ListEventsRequest(**self._name(), page_size=PAGE_SIZE)
        while True:
            page = await self._client.caller.call(self._client.history_stub.ListEvents, request)
            for event in page.events:
                yield event
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def follow(self) -> AsyncGenerator[history_pb2.Event, None]:
        """Reads the run's events from the first on, as they are recorded, to its end.

        Goes on with the run that continues it, if there is one. Raises `RunNotFound`, `RunPurged`.
        """
        client = self._client
        run_id = self.run_id or (await self.describe()).run_id
        while run_id:
            wait = runs_pb2.WaitRunRequest(namespace=client.namespace, run_id=run_id, only_this_run=True)
            wait.wait.FromMilliseconds(0)
            events = history_pb2.ListEventsRequest(namespace=client.namespace, run_id=run_id, page_size=PAGE_SIZE)
            seen, ended = 0, False
            while not ended:
                answer = await client.caller.call(client.run_stub.WaitRun, wait)
                ended, run_id = answer.ended, answer.run.continued_run_id
                while seen < answer.run.event_count:
                    events.filter = f"number > {seen}"
                    found = (await client.caller.call(client.history_stub.ListEvents, events)).events
                    for event in found:
                        seen = event.number
                        yield event
                    if not found and answer.run.purged:
                        raise _purged(answer.run)
                    if not found:  # those that are left were removed
                        break
                wait.wait.FromMilliseconds(_LOOK_MILLISECONDS)

    async def data(self, *names: str) -> dict[str, Any]:
        """Reads the data that an outside engine keeps of the run, by name: those named, default all.

        Raises `RunNotFound`.
        """
        client, found = self._client, dict[str, Any]()
        request = run_store_pb2.GetRunDataRequest(**self._name(), names=names, page_size=PAGE_SIZE)
        while True:
            page = await client.caller.call(client.run_store_stub.GetRunData, request)
            found |= {name: client.converter.from_payload(page.data[name]) for name in sorted(page.data)}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def steps(self, *, states: Sequence[str] = ()) -> AsyncGenerator[runs_pb2.Step, None]:
        """Reads the run's steps in the order of their creation: of `states` such as `waiting`, default all.

        Raises `RunNotFound`.
        """
        only = [StepState.Value(f"STEP_STATE_{state.upper()}") for state in states]
        request = runs_pb2.ListRunStepsRequest(**self._name(), states=only, page_size=PAGE_SIZE)
        while True:
            page = await self._client.caller.call(self._client.run_stub.ListRunSteps, request)
            for step in page.steps:
                yield step
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _forget_end(self, run_id: str) -> None:
        """The run is open again: what is known of its end is over."""
        self._wait = None
        self._client.watcher.forget(run_id)

    def _name(self) -> dict[str, Any]:
        if self.run_id:
            return {"namespace": self._client.namespace, "run_id": self.run_id}
        return {"namespace": self._client.namespace, "workflow_id": self.workflow_id}


def _purged(run: runs_pb2.Run) -> reasons.RunPurged:
    where = f"it was archived to {run.archive_uri}" if run.archive_uri else "its history was pruned"
    message = f"the history of run {run.run_id} is here no more, nor what it returned: {where}"
    return reasons.RunPurged(message, metadata={"run_id": run.run_id, "archive_uri": run.archive_uri})
