"""EventStore: callers' own events."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc.aio

from stepwell.v1 import event_store_pb2, event_store_pb2_grpc, history_pb2
from stepwell_server.api.filters import read_filter
from stepwell_server.api.history import event_to_proto
from stepwell_server.api.page import InRun, read_page
from stepwell_server.api.payloads import payload_from_proto
from stepwell_server.api.requests import asked_of
from stepwell_server.api.run_values import MESSAGE_MARGIN, time_to_proto
from stepwell_server.api.stores import StoreCalls
from stepwell_server.engine.driven_events import AllAppended, Appended, AppendEvent, AppendEvents, NewEvent
from stepwell_server.errors import InvalidField
from stepwell_server.model.events import LISTED
from stepwell_server.store import event_removal, event_store, events, runs

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
        attributes = self._fields.attributes(dict(request.attributes), "attributes")
        command = AppendEvent(ref, label, payload, request.caller_seq, request.token, attributes)
        return _appended_to_proto(await self._do(Appended, command, request))

    async def AppendEvents(
        self, request: event_store_pb2.AppendEventsRequest, context: Context
    ) -> event_store_pb2.AppendEventsResponse:
        given = self._fields.items(request.events, "events", at_least=1)
        events = tuple(self._event(event, f"events[{place}].") for place, event in enumerate(given))
        command = AppendEvents(await self._refs.read(request), events, request.token)
        appended = await self._do(AllAppended, command, request)
        return event_store_pb2.AppendEventsResponse(events=[_appended_to_proto(each) for each in appended.events])

    def _event(self, event: event_store_pb2.AppendEventsRequest.NewEvent, at: str) -> NewEvent:
        if event.caller_seq < 0:
            problem = f"is {event.caller_seq}: it must be 0 (none) or more"
            raise InvalidField(field=f"{at}caller_seq", problem=problem)
        return NewEvent(
            self._fields.name(event.type, "type", at),
            payload_from_proto(event.payload, self._fields, "payload", at),
            event.caller_seq,
            self._fields.attributes(dict(event.attributes), "attributes", at),
        )

    async def GetEvent(
        self, request: event_store_pb2.GetEventRequest, context: Context
    ) -> event_store_pb2.GetEventResponse:
        ref, number = await self._numbered(request, request.event_number, "event_number")
        found = await events.find(self._database, ref.namespace_id, ref.run_key or 0, number)
        if found is None:
            return event_store_pb2.GetEventResponse()
        event = event_to_proto(found.event, found.step_name)
        return event_store_pb2.GetEventResponse(event=event, run_id=found.run_id, workflow_id=found.workflow_id)

    async def DeleteEvents(
        self, request: event_store_pb2.DeleteEventsRequest, context: Context
    ) -> event_store_pb2.DeleteEventsResponse:
        ref = await self._refs.read(request)
        asked = asked_of(request, ref.namespace_id, int, self._fields)
        run = await runs.find(self._database, ref)
        count = await event_removal.delete_callers(self._database, run.run_key, asked, self._clock.now())
        return event_store_pb2.DeleteEventsResponse(count=count)

    async def ReadEvents(
        self, request: event_store_pb2.ReadEventsRequest, context: Context
    ) -> event_store_pb2.ReadEventsResponse:
        origin = self._fields.member(request.origin, history_pb2.EventOrigin, "origin")
        wanted = read_filter(request.filter, LISTED, self._fields.limits)
        attributes = self._fields.attributes(dict(request.attributes), "attributes")
        page, run = read_page(request, InRun, self._fields.limits), await self._seek(request)
        if run is None:
            return event_store_pb2.ReadEventsResponse()
        look = events.page if not attributes and not page.skip else _matching(attributes, page.skip)
        listed = await look(
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


def _matching(attributes: dict[str, str], skip: int) -> Callable[..., Awaitable[events.EventPage]]:
    return functools.partial(events.matching, attributes=attributes, skip=skip)


def _appended_to_proto(appended: Appended) -> event_store_pb2.AppendEventResponse:
    return event_store_pb2.AppendEventResponse(
        number=appended.number, event_number=appended.event_number, time=time_to_proto(appended.time)
    )
