"""A watch as a client reads it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
from tests.service import TIMEOUT


class Watcher:
    """A client's stream, and the ends that it told."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.cursor = ""
        self.ends: list[Any] = []

    async def read(self) -> Any:
        async with asyncio.timeout(TIMEOUT):
            message = await self.call.read()
        assert message is not grpc.aio.EOF
        self.cursor = message.cursor
        self.ends += message.ends
        return message

    async def until(self, count: int) -> list[Any]:
        """Reads until so much was heard."""
        while len(self.heard) < count:
            await self.read()
        return self.heard

    @property
    def heard(self) -> list[Any]:
        """What was told, in its order: whose ends."""
        return [end.run_id for end in self.ends]
