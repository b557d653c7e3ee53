"""A name server for one name, as a headless service has: it answers with the addresses of the replicas there are."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

_A, _IN = 1, 1
_ANSWER = 0x8400
_SECONDS = 1


class Names(asyncio.DatagramProtocol):
    """`addresses` may change at any time."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked = 0
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        number, _, questions = struct.unpack("!HHH", data[:6])
        assert questions == 1
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        kind = struct.unpack("!H", data[end - 4 : end - 2])[0]
        found = self.addresses if kind == _A else []
        self.asked += kind == _A
        head = struct.pack("!HHHHHH", number, _ANSWER, 1, len(found), 0, 0)
        # Each answer points back at the name of the question, at byte 12.
        answers = [struct.pack("!HHHIH", 0xC00C, _A, _IN, _SECONDS, 4) + socket.inet_aton(each) for each in found]
        self._transport.sendto(head + question + b"".join(answers), addr)


@asynccontextmanager
async def naming(addresses: list[str]) -> AsyncIterator[Names]:
    """Serves the name, whatever it is, on a port of its own."""
    names = Names(addresses)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", 0))
    names.port = transport.get_extra_info("sockname")[1]
    try:
        yield names
    finally:
        transport.close()
