"""InboxService: what SQL functions have left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import grpc.aio
import msgspec

from stepwell.v1 import inbox_pb2, inbox_pb2_grpc
from stepwell_server.api.fields import Fields, integer
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import payload_to_proto
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.model.payloads import JSON, Payload
from stepwell_server.store import inbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from stepwell_server.clock import Clock
    from stepwell_server.model.inbox import DeadLetter
    from stepwell_server.model.requests import Asked
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_LARGEST = 2**63 - 1
_Number = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]


class InboxCalls(inbox_pb2_grpc.InboxServiceServicer):
    """Counts what waits, lists dead letters, and settles them."""

    def __init__(self, database: Database, namespaces: Namespaces, clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self._database = database
        self._namespaces = namespaces
        self._fields = Fields(settings.limits)

    async def GetInbox(self, request: inbox_pb2.GetInboxRequest, context: Context) -> inbox_pb2.GetInboxResponse:
        standing = await inbox.standing(self._database, await self._space(request))
        return inbox_pb2.GetInboxResponse(
            waiting_count=standing.waiting, has_more=standing.is_more, oldest_time=time_to_proto(standing.oldest)
        )

    async def ListDeadLetters(
        self, request: inbox_pb2.ListDeadLettersRequest, context: Context
    ) -> inbox_pb2.ListDeadLettersResponse:
        page, namespace_id = read_page(request, _Number, self._fields.limits), await self._space(request)
        most_bytes = self._fields.limits.message_bytes - MESSAGE_MARGIN
        found, has_more = await inbox.list_dead(self._database, namespace_id, page.after, page.size, most_bytes)
        token = page.token(found[-1].number) if has_more else ""
        return inbox_pb2.ListDeadLettersResponse(
            dead_letters=[dead_letter_to_proto(letter) for letter in found], next_page_token=token
        )

    async def RetryDeadLetter(
        self, request: inbox_pb2.RetryDeadLetterRequest, context: Context
    ) -> inbox_pb2.RetryDeadLetterResponse:
        done = await self._settle(inbox.bring_back, request)
        return inbox_pb2.RetryDeadLetterResponse(retried=done)

    async def DiscardDeadLetter(
        self, request: inbox_pb2.DiscardDeadLetterRequest, context: Context
    ) -> inbox_pb2.DiscardDeadLetterResponse:
        done = await self._settle(inbox.discard, request)
        return inbox_pb2.DiscardDeadLetterResponse(discarded=done)

    async def _settle(
        self,
        settle: Callable[[Database, int, int, Asked | None, datetime], Awaitable[bool]],
        request: inbox_pb2.RetryDeadLetterRequest | inbox_pb2.DiscardDeadLetterRequest,
    ) -> bool:
        namespace_id = await self._space(request)
        number = integer(request.number, "number", at_least=1, at_most=_LARGEST)
        asked = asked_of(request, namespace_id, bool, self._fields)
        return await settle(self._database, namespace_id, number, asked, self._clock.now())

    async def _space(self, request: Any) -> int:  # noqa: ANN401 - any of the requests
        return await self._namespaces.id_of(self._fields.namespace(request.namespace))


def dead_letter_to_proto(letter: DeadLetter) -> inbox_pb2.DeadLetter:
    """Renders a dead letter."""
    return inbox_pb2.DeadLetter(
        number=letter.number,
        verb=inbox_pb2.DeadLetter.Verb.ValueType(letter.verb),
        run_id=str(letter.run_id or ""),
        workflow_id=letter.workflow_id,
        name=letter.name,
        payload=None if letter.payload is None else payload_to_proto(Payload(JSON, letter.payload)),
        append_time=time_to_proto(letter.append_time),
        refuse_time=time_to_proto(letter.refuse_time),
        reason=letter.reason,
        message=letter.message,
    )
