"""Who calls, and whether they may: a proof with each call, its role, its namespace, and a worker's queues.

Health answers anybody. All else needs a key, a token or a certificate that holds; a method's row in `api/access.py`
says of which role, and where its requests name namespaces and queues. A caller for one namespace is told so before
anything is read; to it, `-` means that one. A stream is looked at when it begins, and ended when its proof does not
hold any more.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from google.protobuf.message import Message

from stepwell_server import errors
from stepwell_server.api.access import NAMESPACE, RULES, Access, access_of
from stepwell_server.api.interceptors.around import MAKERS, Behavior, Context, Handler
from stepwell_server.api.interceptors.credentials import Credentials
from stepwell_server.dispatch.callers import Caller, OpenStream
from stepwell_server.ids import MAIN
from stepwell_server.model.api_keys import GRANTS, Role
from stepwell_server.refusals import Refusal

_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection."
_ANY = "-"
# An RPC that nobody gave a row is an admin's.
_UNKNOWN = RULES.at()

_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)

Check: TypeAlias = "Callable[[Any, Caller], None]"
"""Refuses a request that names what its caller may not use."""
Tell: TypeAlias = "Callable[[Refusal, Any, Context], None]"
"""Hears of those who were refused, with the request, if there is one."""
TellOf: TypeAlias = "Callable[[str], Tell | None]"
"""Who is to hear of those of a method."""


def caller() -> Caller | None:
    """Whose the present call is; None where nobody is asked for a key."""
    return _caller.get()


def remember(found: Caller | None) -> None:
    """Says whose the present call is."""
    _caller.set(found)


class AccessControl:
    """See the module."""

    def __init__(
        self, credentials: Credentials, tell_of: TellOf | None = None, *, open_reflection: bool = False
    ) -> None:
        self._credentials = credentials
        self._tell_of = tell_of
        self._open = (_HEALTH, _REFLECTION) if open_reflection else (_HEALTH,)

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler, for those who may call it."""
        if method.startswith(self._open):
            return handler
        kind, make = MAKERS[handler.request_streaming, handler.response_streaming]
        behavior: Behavior = getattr(handler, kind)
        tell = self._tell_of(method) if self._tell_of is not None else None
        guard = _Guard(self._credentials, method, tell, is_reading=handler.request_streaming)
        if not handler.request_streaming and not handler.response_streaming:
            wrap = guard.unary
        else:
            wrap = guard.generator if inspect.isasyncgenfunction(behavior) else guard.coroutine
        return make(
            wrap(behavior),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class _Guard:
    """Stands before one method. `is_reading` if its caller sends a stream."""

    def __init__(self, credentials: Credentials, method: str, tell: Tell | None, *, is_reading: bool) -> None:
        self._credentials = credentials
        self._tell = tell
        self._name = method.rpartition("/")[2]
        row = access_of(method) or _UNKNOWN
        # What there is to call is told to any caller.
        self._needed = None if method.startswith(_REFLECTION) else row.role
        self._roles = frozenset(role for role in Role if self._needed is None or row.allows(role))
        self._namespaces = [_check_at(place, row, is_reading=is_reading) for place in row.namespaces]
        self._queues = [_queues_at(place) for place in row.queues]
        self._is_reading = is_reading

    def unary(self, behavior: Behavior) -> Behavior:
        async def call(request: Any, context: Context) -> object:  # noqa: ANN401 - any generated message
            await self._admit(request, context)
            return await behavior(request, context)

        return call

    def coroutine(self, behavior: Behavior) -> Behavior:
        async def call(request: Any, context: Context) -> object:  # noqa: ANN401 - a message, or a stream of them
            found, request = await self._begin(request, context)
            with self._watched(found):
                return await behavior(request, context)

        return call

    def generator(self, behavior: Behavior) -> Behavior:
        async def call(request: Any, context: Context) -> AsyncGenerator[object, None]:  # noqa: ANN401 - likewise
            found, request = await self._begin(request, context)
            with self._watched(found) as stream:
                async with aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        stream.is_sending = True
                        yield response
                        stream.is_sending = False
                        if stream.refusal is not None:
                            raise stream.refusal

        return call

    async def _begin(self, request: Any, context: Context) -> tuple[Caller, Any]:  # noqa: ANN401 - likewise
        found = await self._admit(None if self._is_reading else request, context)
        checks = self._checks(found) if self._is_reading else []
        return found, self._checked(request, context, found, checks) if checks else request

    async def _checked(
        self, requests: AsyncIterator[Any], context: Context, found: Caller, checks: list[Check]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            try:
                for check in checks:
                    check(request, found)
            except Refusal as refusal:
                self._refused(refusal, request, context)
                raise
            yield request

    def _refused(self, refusal: Refusal, request: Any, context: Context) -> None:  # noqa: ANN401 - likewise
        if self._tell is not None:
            self._tell(refusal, request, context)

    async def _admit(self, request: Any, context: Context) -> Caller:  # noqa: ANN401 - a message, or None
        try:
            found = await self._credentials.caller_of(context)
            # A call runs in a task of its own, whose context ends with it: nothing needs to be reset.
            remember(found)
            self._authorise(found, request)
        except Refusal as refusal:
            self._refused(refusal, request, context)
            raise
        return found

    def _checks(self, found: Caller) -> list[Check]:
        if found.task_queues is None:
            return self._namespaces if found.namespace is not None else []
        return self._queues if found.namespace is None else [*self._namespaces, *self._queues]

    def _authorise(self, found: Caller, request: Any) -> None:  # noqa: ANN401 - any generated message, or None
        if found.role not in self._roles:
            # A newer replica may know roles that this one does not.
            role = Role(found.role).name if found.role in GRANTS else str(found.role)
            needed = self._needed.name if self._needed is not None else "any"
            raise errors.RoleDenied(method=self._name, role=role, needed=needed)
        if request is not None:
            for check in self._checks(found):
                check(request, found)

    @contextmanager
    def _watched(self, found: Caller) -> Iterator[OpenStream]:
        stream = self._credentials.streams.open(found)
        try:
            yield stream
        except asyncio.CancelledError:
            if stream.refusal is not None and stream.was_ended():
                raise stream.refusal from None
            raise
        finally:
            self._credentials.streams.close(stream)


def _check_at(place: str, row: Access, *, is_reading: bool) -> Check:
    """A check of one place. What is left out there means the request's own namespace, or else `main`.

    So does a whole message that is left out, but on a stream, which says it once.
    """
    *above, field = place.split(".")
    otherwise = "" if above and NAMESPACE in row.namespaces else MAIN
    if_absent = "" if is_reading else otherwise

    def check(message: Any, found: Caller) -> None:  # noqa: ANN401 - any generated message
        namespace = found.namespace
        named = if_absent
        for holder in _holders(message, above):
            named = getattr(holder, field) or otherwise
            if named == _ANY:
                setattr(holder, field, namespace)
            elif named not in (namespace, ""):
                raise errors.NamespaceDenied(namespace=str(namespace), field=place)
            named = ""
        if named not in (namespace, ""):
            raise errors.NamespaceDenied(namespace=str(namespace), field=place)

    return check


def _queues_at(place: str) -> Check:
    """A check of one place where a worker names queues, one or several. One that is left out names none."""
    *above, field = place.split(".")

    def check(message: Any, found: Caller) -> None:  # noqa: ANN401 - any generated message
        for holder in _holders(message, above):
            named = getattr(holder, field)
            for task_queue in [named] if isinstance(named, str) else named:
                if task_queue and not found.takes(task_queue):
                    raise errors.TaskQueueDenied(task_queue=task_queue, field=place)

    return check


def _holders(message: Any, above: list[str]) -> Iterator[Any]:  # noqa: ANN401 - any generated message
    """The messages at the end of a path, through all items of what is repeated."""
    if not above:
        yield message
        return
    name, *below = above
    value = getattr(message, name)
    if not isinstance(value, Message):
        for item in value:
            yield from _holders(item, below)
    elif message.HasField(name):
        yield from _holders(value, below)
