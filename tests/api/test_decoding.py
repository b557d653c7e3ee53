"""Bytes that are no message, or that are a message of far too many: refused with a reason, and cheaply."""

from __future__ import annotations

import random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from google.rpc import error_details_pb2
from structlog.testing import capture_logs
from tests.api.handlers import details, unpacked
from tests.api.test_server import SERVICE, Namespaces, serving
from tests.hostile.fuzzing import Fuzz, varint
from tests.hostile.methods import methods

from stepwell.v1 import runs_pb2, types_pb2
from stepwell_server.api.interceptors import decoding
from stepwell_server.api.interceptors.decoding import count_fields
from stepwell_server.settings import Limits

METHOD = f"/{SERVICE}/GetNamespace"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
TOO_LONG = grpc.StatusCode.RESOURCE_EXHAUSTED


async def refusal(call: Any) -> tuple[str, str, dict[str, str]]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        (info,) = unpacked(details(error), error_details_pb2.ErrorInfo)
        return error.code().name, info.reason, dict(info.metadata)
    return "OK", "", {}


def nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = b"\x0a" + varint(len(data)) + data
    return data


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff\xff\xff", "its bytes do not follow the protocol's descriptors"),
        (b"\x0a\x05ab", "its bytes do not follow the protocol's descriptors"),
        (b"\x0a\x02\xff\xfe", "a text in it is no UTF-8"),
    ],
)
async def test_what_is_no_message_is_refused(data: bytes, problem: str) -> None:
    """As the caller's fault, in words of ours, and without a word in the log."""
    async with serving(Namespaces()) as (_, channel):
        with capture_logs() as logs:
            said = await refusal(channel.unary_unary(METHOD)(data))
        told = {"type": "GetNamespaceRequest", "problem": problem}
        assert said == ("INVALID_ARGUMENT", "MESSAGE_MALFORMED", told)
        assert logs == []
        assert b"main" in await channel.unary_unary(METHOD)(b"\x0a\x04main")


async def test_a_stream_ends_at_what_is_no_message() -> None:
    """What came before is answered."""
    async with serving(Namespaces()) as (_, channel):
        call = channel.stream_stream(REFLECTION)(iter([b"\x3a\x00", b"\xff\xff"]))
        assert b"NamespaceService" in await call.read()
        told = {"type": "ServerReflectionRequest", "problem": "its bytes do not follow the protocol's descriptors"}
        assert await refusal(call.read()) == ("INVALID_ARGUMENT", "MESSAGE_MALFORMED", told)


def test_what_is_nested_too_deep_is_told_so() -> None:
    """The parser's bound is 100; there is none of ours."""
    payload = types_pb2.Payload.DESCRIPTOR.fields_by_name["value"].number
    deep = b""
    for _ in range(60):
        deep = b"\x0a" + varint(len(deep)) + deep
        deep = b"\x32" + varint(len(deep)) + deep
    decode = decoding._decoder(types_pb2.Payload.FromString, 1_000)
    refused: Any = decode(varint(payload << 3 | 2) + varint(len(deep)) + deep)
    assert refused.refusal.problem == "it is nested deeper than 100 messages"


async def test_a_message_of_too_many_fields_is_not_parsed() -> None:
    """Two bytes of it would become some hundred in memory."""
    limits = Limits(message_fields=1_000)
    async with serving(Namespaces(), limits=limits) as (_, channel):
        said = await refusal(channel.unary_unary(METHOD)(b"\x0a\x00" * 40_000))
        small = await channel.unary_unary(METHOD)(b"\x0a\x00" * 1_001 + b"\x0a\x04main")
    told = {"limit": "message_fields", "value": "1001", "maximum": "1000"}
    assert said == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED", told)
    assert b"main" in small


def test_fields_are_counted_however_deep() -> None:
    request = runs_pb2.BatchStartRunsRequest(namespace="main")
    for number in range(10):
        each = request.requests.add(type="t", workflow_id=str(number))
        each.input.value.list_value.values.extend([Value(number_value=1)] * 5)
    # Of each: itself, its two texts, the input, its value, the list, and five values with a number in each.
    assert count_fields(request.SerializeToString(), decoding._node(request.DESCRIPTOR), 10_000) == 1 + 10 * 16
    assert count_fields(request.SerializeToString(), decoding._node(request.DESCRIPTOR), 20) == 21


def test_counting_bears_any_bytes() -> None:
    """It comes to an end, and within its bound, whatever the bytes are."""
    fuzz = Fuzz(random.Random(3), {})
    for method in methods():
        node = decoding._node(method.descriptor)
        for _ in range(5):
            data = fuzz.bytes_of(fuzz.message(method.descriptor))
            assert 0 <= count_fields(data, node, 500) <= 501
    assert count_fields(nested(5_000), {10: {}}, 50_000) <= 50_001


def test_a_good_message_is_counted_as_it_is() -> None:
    """Every field that it holds, and no other."""
    fuzz = Fuzz(random.Random(4), {})
    for method in methods():
        message = fuzz.message(method.descriptor)
        found = count_fields(message.SerializeToString(), decoding._node(method.descriptor), 10**9)
        assert found == held(message)


def held(message: Message) -> int:
    """How many fields a message holds on the wire: those packed into one count as one."""
    count = 0
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            below = field.message_type.fields_by_name["value"].message_type
            count += sum(3 + (held(value[key]) if below is not None else 0) for key in value)
        elif field.message_type is not None:
            count += sum(1 + held(each) for each in (value if field.is_repeated else (value,)))
        else:
            count += 1 if not field.is_repeated or field.is_packed else len(value)
    return count


async def test_what_is_compressed_counts_as_what_it_becomes() -> None:
    """Some 30 KB of zeros that were 30 MB."""
    async with serving(Namespaces()) as (_, channel):
        call = channel.unary_unary(METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"\0" * 30_000_000, compression=grpc.Compression.Gzip)
        assert raised.value.code() is TOO_LONG
        small = b"\x0a\x04main"
        assert b"main" in await call(small, compression=grpc.Compression.Gzip)


async def test_metadata_have_a_bound() -> None:
    """One bound, not chance between two."""
    async with serving(Namespaces(), limits=Limits(metadata_bytes=10_000)) as (_, channel):
        call = channel.unary_unary(METHOD)
        for _ in range(5):
            assert b"main" in await call(b"\x0a\x04main", metadata=(("x-a", "y" * 9_000),))
            for many in ((("x-a", "y" * 11_000),), tuple((f"x-{number}", "") for number in range(400))):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await call(b"", metadata=many)
                assert raised.value.code() is TOO_LONG
