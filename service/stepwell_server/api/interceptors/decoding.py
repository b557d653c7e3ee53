"""From the bytes of a message to the message, or to a refusal that says what is wrong with them.

gRPC would answer bytes that are no message with UNKNOWN, and log a stack. And a message may be small and what it is
parsed to large: two bytes make an item of a list, which takes some hundred bytes of memory. So the fields of a large
message are counted before it is parsed.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from stepwell_server import refusals
from stepwell_server.api.interceptors.around import MAKERS, Behavior, Context, Handler
from stepwell_server.errors import LimitExceeded, MessageMalformed

# What is smaller can't become large: some 10 MiB.
_SMALL = 64 * 1024
# The parser refuses what is deeper.
_DEEPEST = 100
_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5
_FIXED = {_FIXED_64: 8, _FIXED_32: 4}
_MORE, _MOST_BITS = 0x80, 70

Node: TypeAlias = "dict[int, Any]"
"""The tags of a message's fields that hold messages, each with the node of those."""


class _Undecoded:
    """What came in the place of a message."""

    __slots__ = ("refusal",)

    def __init__(self, refusal: refusals.Refusal) -> None:
        self.refusal = refusal


class Decoding:
    """Refuses with MESSAGE_MALFORMED, LIMIT_EXCEEDED. To stand where refusals are answered."""

    def __init__(self, most_fields: int) -> None:
        self._most = most_fields

    def wrap(self, method: str, handler: Handler) -> Handler:
        """The handler, of which nothing hears that is no message of its."""
        del method
        if handler.request_deserializer is None:
            return handler
        kind, make = MAKERS[handler.request_streaming, handler.response_streaming]
        behavior: Behavior = getattr(handler, kind)
        checked = _messages if handler.request_streaming else _message
        wrap = _generator if inspect.isasyncgenfunction(behavior) else _coroutine
        return make(
            wrap(behavior, checked),
            request_deserializer=_decoder(handler.request_deserializer, self._most),
            response_serializer=handler.response_serializer,
        )


def _coroutine(behavior: Behavior, checked: Callable[[Any], Any]) -> Behavior:
    async def call(request: object, context: Context) -> object:
        return await behavior(checked(request), context)

    return call


def _generator(behavior: Behavior, checked: Callable[[Any], Any]) -> Behavior:
    async def call(request: object, context: Context) -> AsyncGenerator[object, None]:
        async with aclosing(behavior(checked(request), context)) as responses:
            async for response in responses:
                yield response

    return call


def _message(request: object) -> object:
    if type(request) is _Undecoded:
        raise request.refusal
    return request


async def _messages(requests: AsyncIterator[object]) -> AsyncIterator[object]:
    async for request in requests:
        yield _message(request)


def _decoder(decode: Callable[[bytes], object], most: int) -> Callable[[bytes], object]:
    # The generated `FromString` is a method of its class.
    descriptor: Descriptor | None = getattr(getattr(decode, "__self__", None), "DESCRIPTOR", None)
    name = descriptor.name if descriptor is not None else "request"
    node = _node(descriptor) if descriptor is not None else {}

    def decoded(data: bytes) -> object:
        if len(data) > _SMALL and (count := count_fields(data, node, most)) > most:
            return _Undecoded(LimitExceeded(limit="message_fields", value=count, maximum=most))
        try:
            return decode(data)
        except DecodeError as error:
            return _Undecoded(MessageMalformed(type=name, problem=_problem(error)))

    return decoded


def _problem(error: DecodeError) -> str:
    """In words of our own: the parser's are of its code."""
    said = str(error)
    if "UTF-8" in said:
        return "a text in it is no UTF-8"
    if "Depth" in said or "recursion" in said.lower():
        return f"it is nested deeper than {_DEEPEST} messages"
    return "its bytes do not follow the protocol's descriptors"


# --- counting -------------------------------------------------------------------------------------------------------

_nodes: dict[str, Node] = {}


def _node(descriptor: Descriptor) -> Node:
    """Made once for each type; a type may hold itself."""
    node = _nodes.get(descriptor.full_name)
    if node is None:
        node = _nodes[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None:
                node[field.number << 3 | _LENGTH] = _node(field.message_type)
    return node


def count_fields(data: bytes, node: Node, most: int) -> int:
    """Counts the fields of a message, with those of the messages in it; stops at one more than `most`.

    What is no message is counted up to where that shows: the parser says what is wrong.
    """
    count = 0
    # Where to go on, to what end, and in what: the messages that are open.
    open_ones = [(0, len(data), node)]
    while open_ones:
        at, end, node = open_ones.pop()
        while at < end:
            count += 1
            if count > most:
                return count
            tag, at = _varint(data, at, end)
            kind = tag & 7
            if kind == _LENGTH:
                length, at = _varint(data, at, end)
                below = node.get(tag)
                if below is not None and length and len(open_ones) < _DEEPEST:
                    open_ones.append((at + length, end, node))
                    end, node = min(at + length, end), below
                else:
                    at += length
            elif kind == _VARINT:
                _, at = _varint(data, at, end)
            else:
                at += _FIXED.get(kind, 0)
    return count


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends; one that does not end is as large as to end all."""
    value = shift = 0
    while at < end and shift < _MOST_BITS:
        byte = data[at]
        at += 1
        value |= (byte & ~_MORE) << shift
        if byte < _MORE:
            return value, at
        shift += 7
    return end, end
