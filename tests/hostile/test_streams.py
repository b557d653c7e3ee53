"""The same for streams: what is wrong ends the stream with a reason, or is answered within it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from tests.hostile.answers import BAD
from tests.hostile.methods import SAMPLES, methods
from tests.hostile.values import Place, hostile
from tests.hostile.world import World

from stepwell.v1 import (
    jobs_pb2,
    jobs_pb2_grpc,
    retention_pb2,
    retention_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
)

(CONNECT,) = (method for method in methods() if method.name == "Connect")
AT_ONCE = 12
CURSORS = ("!", "AAAA", "A" * 5_000, "\0", "0.9223372036854775808", "-1.-1", "é")
# The same as in `ReportTasks`, where they are tried.
ELSEWHERE = {"reports"}


async def end_of(call: Any, marks: Any) -> str:
    """The code that a stream ends with, or OK as soon as it answers with the mark."""
    try:
        async for answer in call:
            if marks(answer):
                return "OK"
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()}"
    finally:
        call.cancel()
    return "OK"


async def test_no_message_breaks_a_worker_s_stream(made: World) -> None:
    """The spoilt message comes first where it is the hello, and behind a good one else."""
    stub: Any = workers_pb2_grpc.WorkerServiceStub(made.channel)
    room = asyncio.Semaphore(AT_ONCE)

    async def told(place: Place, value: Any) -> AsyncIterator[Any]:
        hello = workers_pb2.ConnectRequest(hello=made.hello("q"))
        if place.path[0].name != "hello":
            yield hello
            hello = workers_pb2.ConnectRequest()
        place.put(hello, value, SAMPLES)
        yield hello
        yield workers_pb2.ConnectRequest(ping=77)

    async def tried(place: Place, value: Any) -> str | None:
        async with room:
            call = stub.Connect(told(place, value), timeout=60)
            code = await end_of(call, lambda answer: answer.pong == 77)
        # The client's own words for a stream that ended while it wrote.
        is_ours = code.split()[0] in BAD and "error from Core" not in code
        return f"{place} = {str(value)[:60]!r}: {code}" if is_ours else None

    places = [place for place in CONNECT.places if place.path[0].name not in ELSEWHERE]
    wanted = [tried(place, value) for place in places for value in hostile(place.field)]
    assert [problem for problem in await asyncio.gather(*wanted) if problem] == []


@pytest.mark.parametrize("noun", ["Runs", "Jobs"])
@pytest.mark.parametrize("cursor", CURSORS)
async def test_no_cursor_breaks_a_watch(made: World, noun: str, cursor: str) -> None:
    stub: Any = (runs_pb2_grpc.RunServiceStub if noun == "Runs" else jobs_pb2_grpc.JobServiceStub)(made.channel)
    messages: Any = runs_pb2 if noun == "Runs" else jobs_pb2
    request = getattr(messages, f"Watch{noun}Request")(cursor=cursor)
    code = await end_of(getattr(stub, f"Watch{noun}")(request, timeout=60), lambda _: True)
    assert code.split()[0] in ("INVALID_ARGUMENT", "OUT_OF_RANGE"), code


@pytest.mark.parametrize("field", ["namespace", "run_id", "workflow_id"])
async def test_no_name_breaks_an_export(made: World, field: str) -> None:
    stub: Any = retention_pb2_grpc.RetentionServiceStub(made.channel)
    for value in ("\0", "x" * 300_000, "", "é", "../..", "elsewhere"):
        request = retention_pb2.ExportRunRequest(**{field: value})
        code = await end_of(stub.ExportRun(request, timeout=60), lambda _: True)
        assert code.split()[0] in ("INVALID_ARGUMENT", "NOT_FOUND"), (value[:20], code)


def test_every_stream_is_tried() -> None:
    """These are all that there are."""
    streams = {method.name for method in methods() if not method.is_unary}
    assert streams == {"Connect", "ExportRun", "WatchRuns", "WatchJobs"}
