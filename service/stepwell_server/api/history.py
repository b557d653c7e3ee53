"""HistoryService: a run's events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import history_pb2, history_pb2_grpc
from stepwell_server.api.fields import Fields
from stepwell_server.api.filters import read_filter
from stepwell_server.api.page import InRun, read_page
from stepwell_server.api.payloads import failure_to_proto, payload_to_proto
from stepwell_server.api.run_values import MESSAGE_MARGIN, RunRefs, time_to_proto
from stepwell_server.ids import pack
from stepwell_server.model.events import LISTED, EventType, payload_of, unpack_attributes
from stepwell_server.model.payloads import NULL
from stepwell_server.store import events, runs

if TYPE_CHECKING:
    from stepwell_server.model.events import Event
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.namespaces import Namespaces

    Context = grpc.aio.ServicerContext[Any, Any]


class History(history_pb2_grpc.HistoryServiceServicer):
    """Reads history."""

    def __init__(self, database: Database, namespaces: Namespaces, settings: Settings) -> None:
        self._database = database
        self._fields = Fields(settings.limits)
        self._refs = RunRefs(self._fields, namespaces)

    async def ListEvents(
        self, request: history_pb2.ListEventsRequest, context: Context
    ) -> history_pb2.ListEventsResponse:
        origin = self._fields.member(request.origin, history_pb2.EventOrigin, "origin")
        wanted = read_filter(request.filter, LISTED, self._fields.limits)
        page = read_page(request, InRun, self._fields.limits)
        run = await runs.find(self._database, await self._refs.read(request))
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
        return history_pb2.ListEventsResponse(events=shown, next_page_token=token)


def event_to_proto(event: Event, step_name: str) -> history_pb2.Event:
    """Renders an event."""
    attributes = unpack_attributes(event.attributes)
    payload = payload_of(event.payload_kind, event.payload, attributes)
    return history_pb2.Event(
        number=event.number,
        type=event.caller_type if event.caller_type is not None else EventType(event.type).label,
        time=time_to_proto(event.event_time),
        origin=history_pb2.EventOrigin.ValueType(event.origin),
        step_ordinal=event.step_ordinal,
        step_name=step_name,
        payload=None if payload is NULL else payload_to_proto(payload),
        failure=failure_to_proto(attributes.failure),
        attributes=attributes.facts,
        caller_seq=event.caller_seq,
        event_number=pack(event.run_key, event.number),
    )
