"""Who calls, and whether they may: a key with each call, its role, and its namespace.

Health answers anybody. All else needs a key that holds; a method's row in `api/access.py` says of which role, and where
its requests name namespaces. A key for one namespace is told so before anything is read; to it, `-` means that one.
A stream is looked at when it begins, and ended when its key does not hold any more.
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
from stepwell_server.dispatch.api_keys import Caller, KnownKeys, OpenStream
from stepwell_server.ids import MAIN
from stepwell_server.model.api_keys import GRANTS, Role, is_secret

_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection."
_SCHEME = "bearer "
_ANY = "-"
# An RPC that nobody gave a row is an admin's.
_UNKNOWN = RULES.at()

_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)

Check: TypeAlias = "Callable[[Any, str], None]"
"""Refuses a request that names another namespace."""


def caller() -> Caller | None:
    """Whose the present call is; None where nobody is asked for a key."""
    return _caller.get()


class AccessControl:
    """See the module."""

    def __init__(self, keys: KnownKeys, *, open_reflection: bool = False) -> None:
        self._keys = keys
        self._open = (_HEALTH, _REFLECTION) if open_reflection else (_HEALTH,)

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler, for those who may call it."""
        if method.startswith(self._open):
            return handler
        kind, make = MAKERS[handler.request_streaming, handler.response_streaming]
        behavior: Behavior = getattr(handler, kind)
        guard = _Guard(self._keys, method, is_reading=handler.request_streaming)
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

    def __init__(self, keys: KnownKeys, method: str, *, is_reading: bool) -> None:
        self._keys = keys
        self._name = method.rpartition("/")[2]
        row = access_of(method) or _UNKNOWN
        self._needed = row.role
        # What there is to call is told to any key.
        is_free = method.startswith(_REFLECTION)
        self._roles = frozenset(role for role in Role if is_free or row.role in GRANTS[role])
        self._checks = [_check_at(place, row, is_reading=is_reading) for place in row.namespaces]
        self._is_reading = is_reading

    def unary(self, behavior: Behavior) -> Behavior:
        async def call(request: Any, context: Context) -> object:  # noqa: ANN401 - any generated message
            secret = _secret_of(context)
            found = self._keys.known(secret) or await self._keys.learn(secret)
            self._authorise(found, request)
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
        secret = _secret_of(context)
        found = self._keys.known(secret) or await self._keys.learn(secret)
        if not self._is_reading:
            self._authorise(found, request)
            return found, request
        self._authorise(found, None)
        return found, request if found.namespace is None else self._checked(request, found.namespace)

    async def _checked(self, requests: AsyncIterator[Any], namespace: str) -> AsyncIterator[Any]:
        async for request in requests:
            for check in self._checks:
                check(request, namespace)
            yield request

    def _authorise(self, found: Caller, request: Any) -> None:  # noqa: ANN401 - any generated message, or None
        if found.role not in self._roles:
            # A newer replica may know roles that this one does not.
            role = Role(found.role).name if found.role in GRANTS else str(found.role)
            raise errors.RoleDenied(method=self._name, role=role, needed=self._needed.name)
        if found.namespace is not None and request is not None:
            for check in self._checks:
                check(request, found.namespace)
        # A call runs in a task of its own, whose context ends with it: nothing needs to be reset.
        _caller.set(found)

    @contextmanager
    def _watched(self, found: Caller) -> Iterator[OpenStream]:
        stream = self._keys.open_stream(found)
        try:
            yield stream
        except asyncio.CancelledError:
            if stream.refusal is not None and stream.was_ended():
                raise stream.refusal from None
            raise
        finally:
            self._keys.close_stream(stream)


def _secret_of(context: Context) -> str:
    """The key that a call came with. Refuses with API_KEY_MISSING, API_KEY_MALFORMED."""
    given = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
    if not given:
        raise errors.ApiKeyMissing
    text = given[0]
    if len(given) > 1 or not isinstance(text, str) or text[: len(_SCHEME)].lower() != _SCHEME:
        raise errors.ApiKeyMalformed
    secret = text[len(_SCHEME) :]
    if not is_secret(secret):
        raise errors.ApiKeyMalformed
    return secret


def _check_at(place: str, row: Access, *, is_reading: bool) -> Check:
    """A check of one place. What is left out there means the request's own namespace, or else `main`.

    So does a whole message that is left out, but on a stream, which says it once.
    """
    *above, field = place.split(".")
    otherwise = "" if above and NAMESPACE in row.namespaces else MAIN
    if_absent = "" if is_reading else otherwise

    def check(message: Any, namespace: str) -> None:  # noqa: ANN401 - any generated message
        named = if_absent
        for holder in _holders(message, above):
            named = getattr(holder, field) or otherwise
            if named == _ANY:
                setattr(holder, field, namespace)
            elif named not in (namespace, ""):
                raise errors.NamespaceDenied(namespace=namespace, field=place)
            named = ""
        if named not in (namespace, ""):
            raise errors.NamespaceDenied(namespace=namespace, field=place)

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
