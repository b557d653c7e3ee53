"""EventStore: callers' own events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import event_store_pb2, event_store_pb2_grpc, history_pb2
from stepwell_server.api.filters import read_filter
from stepwell_server.api.history import event_to_proto
from stepwell_server.api.page import InRun, read_page
from stepwell_server.api.payloads import payload_from_proto
from stepwell_server.api.run_values import MESSAGE_MARGIN
from stepwell_server.api.stores import StoreCalls
from stepwell_server.engine.driven_events import Appended, AppendEvent
from stepwell_server.errors import InvalidField
from stepwell_server.model.events import LISTED
from stepwell_server.store import event_store, events

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class EventStoreCalls(StoreCalls, event_store_pb2_grpc.EventStoreServicer):
    """Appends, reads and counts events."""

    async def AppendEvent(
        self, request: event_store_pb2.AppendEventRequest, context: Context
    ) -> event_store_pb2.AppendEventResponse:
        label = self._fields.name(request.type, "type")
        payload = payload_from_proto(request.payload, self._fields, "payload")
        if request.caller_seq < 0:
            raise InvalidField(field="caller_seq", problem=f"is {request.caller_seq}: it must be 0 (none) or more")
        ref = await self._refs.read(request)
        command = AppendEvent(ref, label, payload, request.caller_seq, request.token)
        appended = await self._do(Appended, command, request)
        return event_store_pb2.AppendEventResponse(number=appended.number, event_number=appended.event_number)

    async def ReadEvents(
        self, request: event_store_pb2.ReadEventsRequest, context: Context
    ) -> event_store_pb2.ReadEventsResponse:
        origin = self._fields.member(request.origin, history_pb2.EventOrigin, "origin")
        wanted = read_filter(request.filter, LISTED, self._fields.limits)
        page, run = read_page(request, InRun, self._fields.limits), await self._seek(request)
        if run is None:
            return event_store_pb2.ReadEventsResponse()
        listed = await events.page(
            self._database,
            run.run_key,
            after=page.after,
            most=page.size,
            most_bytes=self._fields.limits.message_bytes - MESSAGE_MARGIN,
            descending=request.descending,
            origin=origin,
            wanted=wanted,
        )
        token = page.token(listed.events[-1].number) if listed.has_more else ""
        shown = [event_to_proto(event, listed.step_names.get(event.step_ordinal, "")) for event in listed.events]
        return event_store_pb2.ReadEventsResponse(events=shown, next_page_token=token)

    async def CountEvents(
        self, request: event_store_pb2.CountEventsRequest, context: Context
    ) -> event_store_pb2.CountEventsResponse:
        origin = self._fields.member(request.origin, history_pb2.EventOrigin, "origin")
        run = await self._seek(request)
        count = await event_store.count(self._database, run.run_key, origin) if run is not None else 0
        return event_store_pb2.CountEventsResponse(count=count)
