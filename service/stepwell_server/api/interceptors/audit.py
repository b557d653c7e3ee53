"""Who did what: a record of each call that the settings ask for, with its outcome.

Which methods are told of is decided when they are put behind the interceptors, so that the others cost nothing. Who is
refused as unknown, or since he may not, is told of at any level but `off`, though not of each in a flood: anybody may
make one, and it must not fill the disk. A stream has a record when it is open, and one when it ends. A record names
what the request names by ids and names, and holds nothing else of what was sent.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

import grpc.aio

from stepwell_server import telemetry
from stepwell_server.api.access import Access, access_of
from stepwell_server.api.interceptors.access import caller, remember
from stepwell_server.api.interceptors.around import MAKERS, Behavior, Context, Handler
from stepwell_server.api.interceptors.errors import as_refusal
from stepwell_server.model.api_keys import GRANTS, Role
from stepwell_server.refusals import PermissionDenied, Refusal, Unauthenticated

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

Level = Literal["off", "admin", "changes", "all"]
Write = Callable[[Mapping[str, object]], None]

_OURS = "/stepwell.v1."
_OK, _OPEN, _CANCELLED = "OK", "OPEN", "CANCELLED"
# What a request names, and what came of it, by the names of fields.
_NAMES = frozenset(
    (
        *("build_id", "code", "definition_id", "filter", "job_id", "key_id", "label"),
        *("leadership", "name", "new_run_id", "number", "owner_id", "prefix", "role"),
        *("run_id", "signal_name", "step_name", "task_id", "task_queue", "topic", "type"),
        *("update_id", "update_name", "user_id", "version", "worker_id", "workflow_id"),
    )
)
_MASK = "update_mask"
_REFUSALS_AT_ONCE, _REFUSALS_A_SECOND = 200, 20
_MOST_CHARACTERS = 255
_TRACE_ID = slice(3, 35)


class Audit:
    """See the module. `write` gets the facts of a record."""

    def __init__(self, level: Level, write: Write) -> None:
        self._level = level
        self._write = write
        self._pace = _Pace()

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler, with its calls told of if the level asks for it."""
        row = access_of(method)
        if row is None or not self._tells_of(row):
            return handler
        kind, make = MAKERS[handler.request_streaming, handler.response_streaming]
        behavior: Behavior = getattr(handler, kind)
        record = _Record(method, self._write, self._pace)
        wrap = _generator if inspect.isasyncgenfunction(behavior) else _coroutine
        return make(
            wrap(record, behavior),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def refusals_of(self, method: str) -> Callable[[Refusal, object, Context], None] | None:
        """What to tell of refusals of a method whose calls are not told of; None if nothing."""
        row = access_of(method)
        if self._level == "off" or (row is not None and self._tells_of(row)):
            return None
        return _Record(method, self._write, self._pace).refused

    def _tells_of(self, row: Access) -> bool:
        if self._level == "changes":
            return row.writes or row.role is Role.ADMIN
        return self._level == "all" or (self._level == "admin" and row.role in (Role.ADMIN, Role.OPERATOR))


class _Pace:
    """How many refusals are told of: so many at once, and so many a second in the long run."""

    def __init__(self) -> None:
        self._room = float(_REFUSALS_AT_ONCE)
        self._at = time.monotonic()
        self._left_out = 0

    def left_out(self) -> int | None:
        """How many were not told of since the last one that was; None if this one is not told of either."""
        now = time.monotonic()
        self._room = min(_REFUSALS_AT_ONCE, self._room + (now - self._at) * _REFUSALS_A_SECOND)
        self._at = now
        if self._room < 1:
            self._left_out += 1
            return None
        self._room -= 1
        found, self._left_out = self._left_out, 0
        return found


class _Record:
    """Makes the records of one method."""

    def __init__(self, method: str, write: Write, pace: _Pace) -> None:
        self._method = method.removeprefix(_OURS).removeprefix("/")
        self._write = write
        self._pace = pace

    def refused(self, refusal: Refusal, request: object, context: Context) -> None:
        """Tells of a refusal, if it is one of the caller, and not of a flood of them."""
        if isinstance(refusal, Unauthenticated | PermissionDenied):
            left_out = self._pace.left_out()
            if left_out is not None:
                self.tell(request, context, refusal.code.name, refusal.reason, left_out=left_out)

    def failed(self, error: BaseException, request: object, context: Context) -> BaseException:
        """Tells of a call that failed; answers what to raise."""
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError | grpc.aio.InternalError):
            refusal = as_refusal(error, self._method)
            if isinstance(refusal, Unauthenticated | PermissionDenied):
                self.refused(refusal, request, context)
            else:
                self.tell(request, context, refusal.code.name, refusal.reason)
            return refusal
        self.tell(request, context, _CANCELLED)
        return error

    def tell(
        self,
        request: object,
        context: Context,
        outcome: str,
        reason: str = "",
        *,
        response: object = None,
        left_out: int = 0,
    ) -> None:
        """Writes a record."""
        found = caller()
        traceparent = telemetry.caller_context(context.invocation_metadata() or ())[0]
        facts: dict[str, object] = {
            "method": self._method,
            "outcome": outcome,
            "reason": reason,
            "proof": found.proof.value if found is not None else "",
            "caller": found.name if found is not None else "",
            "role": _role(found.role) if found is not None else "",
            "peer": context.peer(),
            "namespace": _namespace(request),
            "object": _named(request, response),
            "request_id": _shortened(getattr(request, "request_id", "")),
            "trace_id": traceparent[_TRACE_ID],
            "left_out": left_out,
        }
        self._write({name: value for name, value in facts.items() if value or name in ("proof", "caller")})


def _coroutine(record: _Record, behavior: Behavior) -> Behavior:
    async def call(request: object, context: Context) -> object:
        try:
            response = await behavior(request, context)
        except BaseException as error:
            told = record.failed(error, request, context)
            if told is error:
                raise
            raise told from error
        record.tell(request, context, _OK, response=response)
        return response

    return call


def _generator(record: _Record, behavior: Behavior) -> Behavior:
    async def call(request: object, context: Context) -> AsyncGenerator[object, None]:
        is_open = False
        try:
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    if not is_open:
                        record.tell(request, context, _OPEN)
                        # Who closes a stream that nobody reads any more may be another task than the call's.
                        found = caller()
                    is_open = True
                    yield response
        except BaseException as error:
            if is_open:
                remember(found)
            told = record.failed(error, request, context)
            if told is error:
                raise
            raise told from error
        record.tell(request, context, _OK)

    return call


def _role(number: int) -> str:
    return Role(number).name.lower() if number in GRANTS else str(number)


def _namespace(request: object) -> str:
    hello = getattr(request, "hello", None)
    found = caller()
    only = found.namespace if found is not None else None
    return _shortened(getattr(hello if hello is not None else request, "namespace", "")) or only or ""


def _named(request: object, response: object) -> dict[str, object]:
    """What a call is about, as its request names it; and what it made, as its answer does."""
    answered = _names_in(response)
    made = getattr(response, "api_key", None)
    if made is not None:
        answered = {"key_id": made.key_id, "prefix": made.prefix}
    return {**{name: value for name, value in answered.items() if value}, **_names_in(request)}


def _names_in(message: Any) -> dict[str, object]:  # noqa: ANN401 - any generated message, a stream, or None
    descriptor: Descriptor | None = getattr(message, "DESCRIPTOR", None)
    if descriptor is None:
        return {}
    return {field.name: _shown(message, field) for field, _ in message.ListFields() if _is_told(field)}


def _is_told(field: Any) -> bool:  # noqa: ANN401 - a descriptor
    return field.name == _MASK or (field.name in _NAMES and field.message_type is None and not field.is_repeated)


def _shown(message: Message, field: Any) -> object:  # noqa: ANN401 - a descriptor
    value = getattr(message, field.name)
    if field.name == _MASK:
        return [_shortened(path) for path in value.paths[:16]]
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return _shortened(value) if isinstance(value, str) else value


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
