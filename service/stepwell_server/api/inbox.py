"""InboxService: what SQL functions have left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import grpc.aio
import msgspec

from stepwell.v1 import inbox_pb2, inbox_pb2_grpc
from stepwell_server.api.fields import Fields
from stepwell_server.api.page import read_page
from stepwell_server.api.payloads import payload_to_proto
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.model.payloads import JSON, Payload
from stepwell_server.store import inbox

if TYPE_CHECKING:
    from stepwell_server.model.inbox import DeadLetter
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]

_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class InboxCalls(inbox_pb2_grpc.InboxServiceServicer):
    """Counts what waits, and lists dead letters."""

    def __init__(self, database: Database, namespaces: Namespaces, settings: Settings) -> None:
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

    async def _space(self, request: Any) -> int:  # noqa: ANN401 - either request
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
