"""Everything in a request has an end: every list, every map, every text and every number of bytes.

What is beyond is refused, and the field named; nothing is cut short, or taken in whole, without a word.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor
from tests.hostile.answers import fields_of, statuses
from tests.hostile.methods import SAMPLES, Method, methods
from tests.hostile.values import Place, is_map
from tests.hostile.world import World

METHODS = [method for method in methods() if method.is_unary]
SERVICES = sorted({method.service for method in METHODS} - {"ClockService"})
AT_ONCE = 12
MANY, LONG = 25_000, 2_200_000
# What is cut: a failure must not be refused, for then its worker could not report it; nor may a release.
CUT = {
    "Failure": {"message", "type", "stack_trace", "non_retryable_types"},
    "ReleaseTask": {"reason"},
}
# Nothing is looked for by what is no key, and so nothing said of it.
SILENT = {("RevokeApiKey", "prefix"), ("ValidateApiKey", "key_hash")}
# The service's to tell, so that a caller's word is not looked at; and a trace context that is none is left out.
NOT_READ = {f"schedule.{name}" for name in ("pause_reason", "last_workflow_id", "last_run_id", "last_error")}
NOT_READ |= {"heartbeats.traceparent"}
# Such a server makes no keys.
REFUSED = {"CreateApiKey"}


def too_much(place: Place, request: Any) -> bool:
    """Puts more into a place than anything may hold; False if it has an end of its own, as numbers have."""
    field = place.field
    if is_map(field):
        place.put(request, {f"k{number}": 1 for number in range(1_001)}, SAMPLES)
    elif field.is_repeated and field.message_type is None and field.type != FieldDescriptor.TYPE_STRING:
        place.put(request, 1, SAMPLES)
        _holder(place, request).extend([1] * MANY)
    elif field.is_repeated:
        place.put(request, "x" if field.message_type is None else 1_001, SAMPLES)
        if field.message_type is None:
            _holder(place, request).extend([f"x{number}" for number in range(1_001)])
    elif field.type == FieldDescriptor.TYPE_STRING:
        place.put(request, "x" * LONG, SAMPLES)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        place.put(request, b"x" * LONG, SAMPLES)
    else:
        return False
    return True


def _of(place: Place, request: Any) -> Any:
    """The message that has the field, as far as it is there."""
    message = request
    for field in place.path[:-1]:
        message = getattr(message, field.name)
        message = message[0] if field.is_repeated else message
    return message


def _holder(place: Place, request: Any) -> Any:
    return getattr(_of(place, request), place.field.name)


def is_cut(place: Place) -> bool:
    above = {field.message_type.name for field in place.path[:-1] if field.message_type is not None}
    return any(place.field.name in CUT.get(name, ()) for name in above)


async def refused(made: World, method: Method, request: Any) -> str:
    """The code and the fields named."""
    try:
        answer = await made.send(method, request)
    except grpc.aio.AioRpcError as error:
        named = fields_of(error) if error.code().name == "INVALID_ARGUMENT" else []
        return f"{error.code().name} {', '.join(named) or error.details()}"
    within = next(statuses(answer), None)
    return "OK" if within is None else f"{grpc_code(within.code)} {within.message}"


def grpc_code(number: int) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == number)


@pytest.mark.parametrize("service", SERVICES)
async def test_everything_has_a_bound(made: World, service: str) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def tried(method: Method, place: Place) -> str | None:
        async with room:
            request = await made.good(method)
            if not too_much(place, request):
                return None
            holder = _of(place, request)
            if place.field.name == "workflow_id" and "run_id" in holder.DESCRIPTOR.fields_by_name:
                # Beside a run id it is not looked at.
                holder.run_id = ""
            said = await refused(made, method, request)
        is_fine = is_cut(place) or (method.name, place.field.name) in SILENT or str(place) in NOT_READ
        if said.startswith("INVALID_ARGUMENT") or is_fine or method.name in REFUSED:
            return None
        return f"{method.name}.{place}: {said}"

    wanted = [tried(method, place) for method in METHODS if method.service == service for place in method.places]
    assert [found for found in await asyncio.gather(*wanted) if found] == []
