"""Search attributes: what run handles and the code of runs do with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stepwell import _tracing
from stepwell._rpc import uuid7
from stepwell.search_attributes import Value, spelled, values_of
from stepwell.v1 import search_attributes_pb2, types_pb2, workers_pb2

if TYPE_CHECKING:
    from stepwell._runs import RunExecution
    from stepwell.client import Client
    from stepwell.sync import Loop

STEP_NAME = "attributes"
_MARKER = types_pb2.STEP_KIND_MARKER


def set_attributes(run: RunExecution, values: Mapping[str, Value]) -> None:
    """Puts a patch on its way, unless it is recorded."""
    scope = run.present_scope()
    if run.recall(scope, _MARKER, STEP_NAME, "", None) is not None:
        return
    if run.is_broken:
        raise RuntimeError(f"{STEP_NAME} was recorded as another kind of step")
    step = workers_pb2.SearchAttributesStep(attributes=spelled(values))
    run.add_step(scope, _MARKER, STEP_NAME, "", body={"search_attributes": step})


class Attributes(ABC):
    """The part of `stepwell.RunHandle`."""

    __slots__ = ()

    _client: Client

    @abstractmethod
    def _name(self) -> dict[str, Any]:
        """Names the run in a request."""

    async def set_attributes(self, values: Mapping[str, Value], *, keep_absent: bool = False) -> dict[str, Value]:
        """Merges search attributes into the run's, open or ended, and gives all that it has then.

        `None` takes a name away, or with `keep_absent` leaves it without a value. What is not named stays. Raises
        `RunNotFound`, `InvalidField`, `LimitExceeded`.
        """
        request = search_attributes_pb2.UpsertSearchAttributesRequest(
            **self._name(), attributes=spelled(values), keep_absent=keep_absent, request_id=uuid7()
        )
        client = self._client
        response = await client.caller.call(
            client.run_stub.UpsertSearchAttributes, request, traceparent=_tracing.current_traceparent()
        )
        return values_of(response.attributes)


class SyncAttributes(ABC):
    """The part of `stepwell.sync.RunHandle`."""

    _loop: Loop

    @property
    @abstractmethod
    def _attributed(self) -> Attributes:
        """The handle on the loop."""

    def set_attributes(self, values: Mapping[str, Value], *, keep_absent: bool = False) -> dict[str, Value]:
        """Merges search attributes into the run's and gives all that it has then, as `RunHandle.set_attributes`."""
        return self._loop.call(self._attributed.set_attributes(values, keep_absent=keep_absent))
