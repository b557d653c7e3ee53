"""How many calls and streams may be under way, in all and with one key; and how fast a stream is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from tests.api.handlers import KINDS, call, details, listening, refused, serving, unpacked
from tests.stream.kit import until

from stepwell_server.api.interceptors.pacing import Pacing

STREAMING = [kind for kind in KINDS if kind != "UnaryUnary"]


class Waiting:
    """What calls do: they come in, and stay until they may go."""

    def __init__(self) -> None:
        self.inside = 0
        self.leave = asyncio.Event()

    async def __call__(self, context: Any) -> None:
        self.inside += 1
        try:
            await self.leave.wait()
        finally:
            self.inside -= 1

    @asynccontextmanager
    async def several(self, channel: Any, kind: str, count: int, key: str = "") -> AsyncIterator[None]:
        """So many calls more are inside meanwhile."""
        wanted = self.inside + count
        calls = [asyncio.ensure_future(call(channel, kind, key=key, deadline=60)) for _ in range(count)]
        try:
            await until(lambda: self.inside == wanted)
            yield
        finally:
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: self.inside == wanted - count)


def told(error: grpc.aio.AioRpcError) -> tuple[str, str, dict[str, str], bool]:
    """Code, reason, facts, and whether it says when to come again."""
    (info,) = unpacked(details(error), error_details_pb2.ErrorInfo)
    comes_again = bool(unpacked(details(error), error_details_pb2.RetryInfo))
    return error.code().name, info.reason, dict(info.metadata), comes_again


@pytest.mark.parametrize("kind", STREAMING)
async def test_one_key_has_so_many_streams(kind: str) -> None:
    """Another has its own; who closes one may open another."""
    act = Waiting()
    async with serving(act, of_key=2) as channel:
        async with act.several(channel, kind, 2, "Bearer one"):
            error = await refused(channel, kind, key="Bearer one")
            assert told(error) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS", {"streams_per_key": "2"}, True)
            async with act.several(channel, kind, 2, "Bearer two"):
                assert act.inside == 4
        async with act.several(channel, kind, 2, "Bearer one"):
            assert act.inside == 2


async def test_without_a_key_a_connection_counts() -> None:
    act = Waiting()
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        listening(act, of_key=1) as address,
        grpc.aio.insecure_channel(address, options=own) as one,
        grpc.aio.insecure_channel(address, options=own) as other,
        act.several(one, "UnaryStream", 1),
    ):
        assert told(await refused(one, "UnaryStream"))[1] == "TOO_MANY_STREAMS"
        async with act.several(other, "UnaryStream", 1):
            assert act.inside == 2


async def test_all_together_have_so_many_streams() -> None:
    act = Waiting()
    kind = "StreamStream"
    async with (
        serving(act, streams=2) as channel,
        act.several(channel, kind, 1, "Bearer one"),
        act.several(channel, kind, 1, "Bearer two"),
    ):
        error = await refused(channel, kind, key="Bearer three")
        assert told(error) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", {"queue": "streams"}, True)


async def test_one_key_may_not_take_all_calls() -> None:
    """Three quarters of them, so that others find room."""
    act = Waiting()
    async with serving(act, at_once=4) as channel, act.several(channel, "UnaryUnary", 3, "Bearer one"):
        error = await refused(channel, key="Bearer one")
        assert told(error) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", {"queue": "calls of one key"}, True)
        async with act.several(channel, "UnaryUnary", 1, "Bearer two"):
            error = await refused(channel, key="Bearer three")
            assert told(error) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", {"queue": "calls"}, True)


async def test_a_stream_is_read_at_a_pace() -> None:
    """A second's worth at once, and then one after another; who has paused may hurry again."""
    now, pauses, gaps = 0.0, [], [0.0] * 13 + [2.0] + [0.0] * 10

    def clock() -> float:
        return now

    async def pause(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    async def messages() -> AsyncIterator[int]:
        nonlocal now
        for number, gap in enumerate(gaps):
            now += gap
            yield number

    paced = Pacing(8, clock, pause)._paced(messages())
    assert [message async for message in paced] == list(range(len(gaps)))
    assert pauses == [0.125] * 5 + [0.125] * 3
