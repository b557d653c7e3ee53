"""Settling open steps of a run by hand: what run handles do for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from stepwell import _tracing
from stepwell._mending import step_name
from stepwell._rpc import uuid7
from stepwell.v1 import repairs_pb2
from stepwell.v1.types_pb2 import Failure

if TYPE_CHECKING:
    from stepwell.client import Client
    from stepwell.sync import Loop

_Request = repairs_pb2.SettleRunStepRequest


class Place(TypedDict, total=False):
    """Which step of a name is meant, and why it is settled."""

    scope: str
    """The branch, such as `2/1`. Default: the run's own line."""
    occurrence: int
    """Which of that name in the branch, from 0."""
    key: str
    """The key in place of the occurrence."""
    reason: str
    """Why, for the history."""


class Settling(ABC):
    """The part of `stepwell.RunHandle`. A step is named by its ordinal, or by its name in a branch.

    Whoever is at it loses it, and the code goes on with what was decided. All raise `StepNotFound`, `RunTerminal`,
    `RunDriven`, and `StepStateConflict` for a step that has ended or does not allow it.
    """

    __slots__ = ()

    _client: Client

    @abstractmethod
    def _name(self) -> dict[str, Any]:
        """Names the run in a request."""

    async def complete_step(self, step: int | str, result: object = None, **place: Unpack[Place]) -> None:
        """Ends an open step with a result (default: null), which the code gets."""
        payload = self._client.converter.to_payload(result)
        await self._settle(step, place, complete=_Request.Complete(result=payload))

    async def fail_step(
        self, step: int | str, message: str, *, error_type: str = "Settled", **place: Unpack[Place]
    ) -> None:
        """Ends an open step, not a timer, with a failure, which the code gets."""
        await self._settle(step, place, fail=_Request.Fail(failure=Failure(message=message, type=error_type)))

    async def skip_step(self, step: int | str, **place: Unpack[Place]) -> None:
        """Ends an open step as skipped: the code gets `None`."""
        await self._settle(step, place, skip=_Request.Skip())

    async def retry_step(self, step: int | str, **place: Unpack[Place]) -> bool:
        """Has an open activity tried again at once. False if it waits in its queue already."""
        return await self._settle(step, place, retry=_Request.Retry())

    async def _settle(self, step: int | str, place: Place, **outcome: Any) -> bool:  # noqa: ANN401 - one of the messages
        named = step_name(
            step, scope=place.get("scope", ""), occurrence=place.get("occurrence", 0), key=place.get("key", "")
        )
        request = _Request(**self._name(), step=named, reason=place.get("reason", ""), request_id=uuid7(), **outcome)
        call = self._client.caller.call(
            self._client.run_stub.SettleRunStep, request, traceparent=_tracing.current_traceparent()
        )
        return (await call).accepted


class SyncSettling(ABC):
    """The part of `stepwell.sync.RunHandle`; see `Settling`."""

    _loop: Loop

    @property
    @abstractmethod
    def _settling(self) -> Settling:
        """The handle on the loop."""

    def complete_step(self, step: int | str, result: object = None, **place: Unpack[Place]) -> None:
        """Ends an open step with a result (default: null), which the code gets."""
        self._loop.call(self._settling.complete_step(step, result, **place))

    def fail_step(self, step: int | str, message: str, *, error_type: str = "Settled", **place: Unpack[Place]) -> None:
        """Ends an open step, not a timer, with a failure, which the code gets."""
        self._loop.call(self._settling.fail_step(step, message, error_type=error_type, **place))

    def skip_step(self, step: int | str, **place: Unpack[Place]) -> None:
        """Ends an open step as skipped: the code gets `None`."""
        self._loop.call(self._settling.skip_step(step, **place))

    def retry_step(self, step: int | str, **place: Unpack[Place]) -> bool:
        """Has an open activity tried again at once. False if it waits in its queue already."""
        return self._loop.call(self._settling.retry_step(step, **place))
