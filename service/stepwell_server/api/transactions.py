"""TransactionService: several writes in one transaction."""

from __future__ import annotations

import asyncio
from types import GenericAlias
from typing import TYPE_CHECKING, Any, cast

import grpc.aio

from stepwell.v1 import transactions_pb2, transactions_pb2_grpc
from stepwell_server import errors, refusals
from stepwell_server.api.fields import Fields
from stepwell_server.api.gathering import Given, Part
from stepwell_server.api.interceptors.deadlines import remaining
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_starts import require_namespace, size_of
from stepwell_server.api.run_values import MESSAGE_MARGIN
from stepwell_server.engine.committer.orders import Birth, Single, Writes
from stepwell_server.engine.sets import Expecting
from stepwell_server.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell_server.engine.commands import Command
    from stepwell_server.engine.committer import Committers
    from stepwell_server.settings import Settings
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

Write = transactions_pb2.CommitRequest.Write
Result = transactions_pb2.CommitResponse.Result


class Transactions(transactions_pb2_grpc.TransactionServiceServicer):
    """Commits writes, each of which is a call of one of the other servicers."""

    def __init__(
        self, committers: Committers, namespaces: Namespaces, settings: Settings, servicers: Iterable[object]
    ) -> None:
        self._committers = committers
        self._namespaces = namespaces
        self._fields = Fields(settings.limits)
        others = list(servicers)
        self._callees: dict[str, tuple[object, str]] = {}
        for name, method in write_methods().items():
            self._callees[name] = next(each for each in others if hasattr(each, method)), method

    async def Commit(
        self, request: transactions_pb2.CommitRequest, context: Context
    ) -> transactions_pb2.CommitResponse:
        namespace = self._fields.namespace(request.namespace)
        namespace_id = await self._namespaces.id_of(namespace)
        labels = self._labels(request)
        requests = [getattr(write, write.WhichOneof("write") or "") for write in request.writes]
        parts = [self._part(place, requests, labels[place], namespace, context) for place in range(len(requests))]
        try:
            given = await _all_given(parts, labels)
            orders = [
                _expecting(each.order, write, label)
                for each, write, label in zip(given, request.writes, labels, strict=True)
            ]
            answer_type: Any = GenericAlias(tuple, tuple(each.kind for each in given))
            asked = asked_of(request, namespace_id, answer_type, self._fields)
            writes = Writes(tuple(orders), tuple(labels))
            answers = await self._committers.commit(writes, size_of(request), remaining(), asked)
            return await self._response(parts, answers, request)
        finally:
            for part in parts:
                part.leave()

    def _labels(self, request: transactions_pb2.CommitRequest) -> list[str]:
        """What each write is called in an error. Refuses too many, none, and empty ones."""
        count, at_most = len(request.writes), self._fields.limits.commit_writes
        if not 0 < count <= at_most:
            raise InvalidField(field="writes", problem=f"holds {count}: a commit takes 1 to {at_most}")
        labels = []
        for place, write in enumerate(request.writes):
            name = write.WhichOneof("write")
            if name is None:
                raise InvalidField(field=f"writes[{place}]", problem="is empty: it must be one of the writes")
            labels.append(f"writes[{place}].{name}")
        return labels

    def _part(self, place: int, requests: Sequence[Any], label: str, namespace: str, context: Context) -> Part:
        request = requests[place]
        require_namespace(request.namespace, namespace, f"{label}.")
        request.namespace = namespace
        return Part(*self._callees[label.partition(".")[2]], request, context, requests[:place])

    async def _response(
        self, parts: Sequence[Part], answers: Sequence[object], request: transactions_pb2.CommitRequest
    ) -> transactions_pb2.CommitResponse:
        """Renders one answer after the other, so that no more is in memory than what fits."""
        response = transactions_pb2.CommitResponse()
        left = self._fields.limits.message_bytes - MESSAGE_MARGIN
        for part, answer, write in zip(parts, answers, request.writes, strict=True):
            shown = await part.answered(answer)
            if shown.ByteSize() > left:
                response.payloads_omitted = _without_payloads(shown) or response.payloads_omitted
            left -= shown.ByteSize()
            response.results.append(Result(**{write.WhichOneof("write") or "": shown}))  # type: ignore[arg-type]
        return response


def write_methods() -> dict[str, str]:
    """The single call of each write, by the write's name."""
    fields = Write.DESCRIPTOR.oneofs_by_name["write"].fields
    return {
        field.name: field.message_type.name.removesuffix("Request")
        for field in fields
        if field.message_type is not None
    }


async def _all_given(parts: Sequence[Part], labels: Sequence[str]) -> list[Given]:
    """What all calls came to. The first that gives no command tells why."""
    found = await asyncio.gather(*(part.given for part in parts), return_exceptions=True)
    given: list[Given] = []
    for each, label in zip(found, labels, strict=True):
        if isinstance(each, BaseException):
            raise errors.placed(each, label) if isinstance(each, refusals.Refusal) else each
        given.append(each)
    return given


def _expecting(order: Single, write: Write, label: str) -> Single:
    if not write.HasField("expected_version"):
        return order
    if isinstance(order, Birth):
        problem = "is for runs that there are: leave it out"
        raise InvalidField(field=f"{label.partition('.')[0]}.expected_version", problem=problem)
    return Expecting(cast("Command", order), write.expected_version)


def _without_payloads(shown: Any) -> bool:  # noqa: ANN401 - any response
    """Takes the payloads out of a response that shows a step, an activity or a user task."""
    found = [name for name in ("step", "activity", "user_task") if name in shown.DESCRIPTOR.fields_by_name]
    for name in found:
        _strip(getattr(shown, name))
    return bool(found)


def _strip(message: Any) -> None:  # noqa: ANN401 - any message
    for field, _ in message.ListFields():
        if field.message_type is not None and field.message_type.name in ("Payload", "Failure"):
            message.ClearField(field.name)
        elif field.name == "spec":
            _strip(message.spec)
