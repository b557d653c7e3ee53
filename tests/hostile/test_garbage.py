"""What is no gRPC at all, on the port of the service: other protocols, noise, frames that make no sense, resets.

Frames are written by hand, since a library would refuse to send most of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.hostile.served import Served, served

from stepwell_server.embedded import create_database

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
CONNECTIONS, NOISES = 40, 60
RESETS, FRAMES = 8_000, 20_000
# After so many of the same nothing takes more.
ROUNDS = 9
GROWTH_BYTES = 64 * 2**20


@pytest_asyncio.fixture(scope="module")
async def server(
    server_url: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    database_url = await create_database(server_url, f"garbage_{uuid.uuid4().hex[:12]}", migrated_template)
    async with served(tmp_path_factory.mktemp("garbage"), database_url) as made:
        assert await made.runs_a_run() == 42
        yield made


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def field(name: str, value: str) -> bytes:
    """A header as HPACK writes it without its tables."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call(stream: int, path: str = "/stepwell.v1.RunService/ListRuns", flags: int = END_HEADERS) -> bytes:
    """The beginning of a call."""
    named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    named |= {"content-type": "application/grpc", "te": "trailers"}
    return frame(HEADERS, flags, stream, b"".join(field(*each) for each in named.items()))


HELLO = PREFACE + frame(SETTINGS, 0, 0)
NO_HTTP_2 = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /stepwell.v1.RunService/ListRuns HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0",
    b"GET / HTTP/1.1\r\n" + b"X-A: " + b"y" * 100_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600,
    b"SSH-2.0-OpenSSH_9.0\r\n",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    b"",
    b"\0" * 100_000,
    PREFACE[:10],
)
NO_SENSE = {
    "a frame beyond its size": frame(DATA, 0, 1, b"x" * 20_000),
    "data of no stream": frame(DATA, END_STREAM, 1, b"x"),
    "headers of stream 0": frame(HEADERS, END_HEADERS, 0, field(":method", "POST")),
    "headers of an even stream": call(2),
    "settings of a wrong size": frame(SETTINGS, 0, 0, b"12345"),
    "settings of a stream": frame(SETTINGS, 0, 1),
    "a window that overflows": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 3,
    "a window of nothing": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 0)),
    "a push": frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2)),
    "a continuation of nothing": frame(CONTINUATION, END_HEADERS, 1, b"x"),
    "headers that never end": call(1, flags=0) + frame(CONTINUATION, 0, 1, b"") * 5_000,
    "a table that is not there": frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\x0f"),
    "a table that is too large": frame(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\xff\xff\x07"),
    "an unknown frame": frame(0xEE, 0xFF, 1, b"x" * 100),
    "a message shorter than it says": call(1) + frame(DATA, END_STREAM, 1, b"\0\0\0\0\xff" + b"x"),
    "a message longer than may be": call(1) + frame(DATA, END_STREAM, 1, b"\0\xff\xff\xff\xff"),
    "a message that is compressed by nobody": call(1) + frame(DATA, END_STREAM, 1, b"\x01\0\0\0\x02xx"),
    "a message with a flag that there is not": call(1) + frame(DATA, END_STREAM, 1, b"\x07\0\0\0\0"),
    "a path that is none": call(1, "stepwell"),
    "a method that there is not": call(1, "/stepwell.v1.RunService/\x7f\xff") + frame(DATA, END_STREAM, 1, b"\0" * 5),
    "an end": frame(GOAWAY, 0, 0, b"\xff" * 8) + call(1),
}


async def heard(server: Served, data: bytes, seconds: float = 0.2) -> bytes:
    """What the service says to that, until it hangs up or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    said = b""
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(seconds):
                while part := await reader.read(65_536):
                    said += part
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return said


async def test_other_protocols_are_hung_up_on(server: Served) -> None:
    for data in NO_HTTP_2:
        await heard(server, data)
    await server.is_well()


async def test_frames_without_sense_break_nothing(server: Served) -> None:
    for data in NO_SENSE.values():
        await heard(server, HELLO + data)
    await server.is_well()


async def test_no_peer_writes_into_the_log(server: Served) -> None:
    """What a peer says of why it leaves is its own affair, and a line of the log it would be otherwise."""
    await heard(server, HELLO + frame(GOAWAY, 0, 0, b"\0" * 7 + b'\2x\n{"level": "error", "event": "forged"}\n'))
    await server.is_well()
    assert "forged" not in server.process.log.read_text()


async def test_noise_breaks_nothing(server: Served) -> None:
    """From the first byte on, behind a good beginning, and in the body of a call."""
    chance = random.Random(7)
    for place in range(NOISES):
        noise = chance.randbytes(chance.choice((1, 9, 100, 5_000)))
        before = (b"", HELLO, HELLO + call(1))[place % 3]
        after = frame(DATA, END_STREAM, 1, noise) if place % 3 == 2 else noise
        await heard(server, before + after, 0.05)
    await server.is_well()


async def test_calls_that_are_taken_back_at_once_cost_nothing_that_stays(server: Served) -> None:
    """Each begins a call and resets it (a rapid reset). What the first of them took is used again by the later.

    How much the first take depends on how far the server lags behind; what stays would add up each time.
    """
    reset = struct.pack(">I", 8)
    data = b"".join(call(stream) + frame(RST_STREAM, 0, stream, reset) for stream in range(1, 2 * RESETS, 2))
    taken: list[int] = []
    for _ in range(ROUNDS):
        await heard(server, HELLO + data, 3)
        await server.is_well()
        taken.append(server.memory())
        if len(taken) > 2 and taken[-1] - taken[-3] < GROWTH_BYTES / 2:
            return
    pytest.fail(f"it grew each time: {taken}")


async def test_a_flood_of_small_frames_costs_nothing_that_stays(server: Served) -> None:
    """Pings and settings that want to be answered, by one who does not read the answers."""
    before = server.memory()
    for small in (frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0), frame(PRIORITY, 0, 3, b"\0" * 5)):
        await heard(server, HELLO + small * FRAMES, 1)
    await server.is_well()
    assert server.memory() - before < GROWTH_BYTES


async def test_many_connections_that_say_nothing_keep_nobody_out(server: Served) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            stack.callback(writer.close)
            writer.write(PREFACE[:5])
        await server.is_well()
