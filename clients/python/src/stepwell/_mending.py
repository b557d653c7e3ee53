"""Mending a run's record, or going on from an earlier place of it: what run handles do for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stepwell import _tracing
from stepwell._rpc import uuid7
from stepwell.v1 import repairs_pb2

if TYPE_CHECKING:
    from stepwell.client import Client
    from stepwell.repairs import Repair
    from stepwell.sync import Loop


def step_name(step: int | str, *, scope: str = "", occurrence: int = 0, key: str = "") -> repairs_pb2.StepName:
    """Names a step: by its ordinal, or by its name in a branch."""
    if isinstance(step, int):
        return repairs_pb2.StepName(ordinal=step)
    return repairs_pb2.StepName(scope=scope, name=step, occurrence=occurrence, key=key)


class Mending(ABC):
    """The part of `stepwell.RunHandle`."""

    __slots__ = ()

    _client: Client

    @abstractmethod
    def _name(self) -> dict[str, Any]:
        """Names the run in a request."""

    @abstractmethod
    def _forget_end(self, run_id: str) -> None:
        """Takes in that the run is open again."""

    async def retry(
        self, *, steps: Sequence[int] = (), reason: str = "", request_id: str | None = None
    ) -> repairs_pb2.RetryRunResponse:
        """Lets the run, which ended otherwise than `COMPLETED`, go on from its record: what failed is done anew.

        `steps` are ordinals of failed steps that are meant, with all that may have come of them (default: those that
        the code did not get past). Tells what was taken out of the record. Raises `RunPhaseConflict`, `RunContinued`,
        `StepNotFound`, `StepStateConflict`, `WorkflowIdInUse`.
        """
        request = repairs_pb2.RetryRunRequest(
            **self._name(), step_ordinals=steps, reason=reason, request_id=uuid7() if request_id is None else request_id
        )
        response = await self._client.caller.call(
            self._client.run_stub.RetryRun, request, traceparent=_tracing.current_traceparent()
        )
        self._forget_end(response.run_id)
        return response

    async def rewind(
        self,
        step: int | str,
        *,
        scope: str = "",
        occurrence: int = 0,
        key: str = "",
        reason: str = "",
        request_id: str | None = None,
    ) -> repairs_pb2.RewindRunResponse:
        """Takes the run, open or ended, back to before a step: that and all that was recorded after it is done anew.

        The step is named by its ordinal, or by its name in a branch (default: the run's own line). Tells what was taken
        out of the record. Raises `StepNotFound`, `RunContinued`, `WorkflowIdInUse`.
        """
        wanted = step_name(step, scope=scope, occurrence=occurrence, key=key)
        request = repairs_pb2.RewindRunRequest(
            **self._name(), step=wanted, reason=reason, request_id=uuid7() if request_id is None else request_id
        )
        response = await self._client.caller.call(
            self._client.run_stub.RewindRun, request, traceparent=_tracing.current_traceparent()
        )
        self._forget_end(response.run_id)
        return response

    async def repair(
        self, *repairs: Repair, accept: bool = False, reason: str = "", request_id: str | None = None
    ) -> repairs_pb2.RepairRunResponse:
        """Mends the record of the run, which is paused, to fit its code, which was changed on purpose; all or nothing.

        The repairs are `stepwell.Rename` and `stepwell.Skip`. `accept`: the code was mended, too, so that what it last
        did is not held against the record. A run that was paused for its order goes on. Tells what became of which
        step. Raises `RunNotPaused`, `StepNotFound`, `RepairDisagrees`, `InvalidField`, `RunTerminal`.
        """
        spelled = [repair.to_proto() for repair in repairs]
        if accept:
            spelled.append(repairs_pb2.Repair(accept=repairs_pb2.Repair.Accept()))
        request = repairs_pb2.RepairRunRequest(
            **self._name(), repairs=spelled, reason=reason, request_id=uuid7() if request_id is None else request_id
        )
        return await self._client.caller.call(
            self._client.run_stub.RepairRun, request, traceparent=_tracing.current_traceparent()
        )

    async def fork(
        self,
        step: int | str,
        *,
        scope: str = "",
        occurrence: int = 0,
        key: str = "",
        workflow_id: str = "",
        request_id: str | None = None,
    ) -> str:
        """Starts a new run whose record begins with what this one had recorded before a step; gives its id.

        The step is named as in `rewind`; this run stays as it is. `workflow_id` is the new run's (default: none).
        Raises `StepNotFound`, `LimitExceeded`, `WorkflowIdInUse`.
        """
        request = repairs_pb2.ForkRunRequest(
            **self._name(),
            step=step_name(step, scope=scope, occurrence=occurrence, key=key),
            new_workflow_id=workflow_id,
            request_id=uuid7() if request_id is None else request_id,
        )
        response = await self._client.caller.call(
            self._client.run_stub.ForkRun, request, traceparent=_tracing.current_traceparent()
        )
        return response.run_id


class SyncMending(ABC):
    """The part of `stepwell.sync.RunHandle`."""

    _loop: Loop

    @property
    @abstractmethod
    def _mending(self) -> Mending:
        """The handle on the loop."""

    def retry(self, *, steps: Sequence[int] = (), reason: str = "") -> repairs_pb2.RetryRunResponse:
        """Lets the run, which ended otherwise than `COMPLETED`, go on from its record, as `RunHandle.retry`."""
        return self._loop.call(self._mending.retry(steps=steps, reason=reason))

    def rewind(
        self, step: int | str, *, scope: str = "", occurrence: int = 0, key: str = "", reason: str = ""
    ) -> repairs_pb2.RewindRunResponse:
        """Takes the run back to before a step, as `RunHandle.rewind`."""
        wanted = self._mending.rewind(step, scope=scope, occurrence=occurrence, key=key, reason=reason)
        return self._loop.call(wanted)

    def repair(self, *repairs: Repair, accept: bool = False, reason: str = "") -> repairs_pb2.RepairRunResponse:
        """Mends the record of the run, which is paused, to fit its code, as `RunHandle.repair`."""
        return self._loop.call(self._mending.repair(*repairs, accept=accept, reason=reason))

    def fork(
        self,
        step: int | str,
        *,
        scope: str = "",
        occurrence: int = 0,
        key: str = "",
        workflow_id: str = "",
        request_id: str | None = None,
    ) -> str:
        """Starts a new run whose record begins with what this one had recorded before a step, as `RunHandle.fork`."""
        call = self._mending.fork(
            step, scope=scope, occurrence=occurrence, key=key, workflow_id=workflow_id, request_id=request_id
        )
        return self._loop.call(call)
