"""Whatever stands in a request, its caller hears what is wrong with it: no call ends in INTERNAL or UNKNOWN.

Every field of every method, however deep, is given values that nobody should send, one at a time, in a request that is
otherwise good.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.hostile.answers import BAD, alarming
from tests.hostile.methods import SAMPLES, Method, methods
from tests.hostile.values import Place, hostile
from tests.hostile.world import SHORT_WAIT, World

UNARY = [method for method in methods() if method.is_unary]
# The clock last: it goes forward by years.
SERVICES = sorted({method.service for method in UNARY}, key=lambda name: (name == "ClockService", name))
AT_ONCE = 12
# What cannot succeed in a test's world, with the answer to a good request.
NOT_OK = {
    "CreateApiKey": "FAILED_PRECONDITION",
    "GetApiKey": "NOT_FOUND",
    "ArchiveRuns": "FAILED_PRECONDITION",
    "QueryRun": "NOT_FOUND",
    "RetryRun": "FAILED_PRECONDITION",
    "RetryJob": "FAILED_PRECONDITION",
    "RewindRun": "NOT_FOUND",
    "RepairRun": "FAILED_PRECONDITION",
    "SettleRunStep": "NOT_FOUND",
    "ForkRun": "NOT_FOUND",
}


@pytest.mark.parametrize("service", SERVICES)
async def test_no_value_breaks_a_call(made: World, service: str) -> None:
    """What is spoilt was accepted before, so that it gets beyond the first look; a refusal leaves nothing behind."""
    called = [method for method in UNARY if method.service == service]
    good = {method.name: await made.outcome(method, await made.good(method)) for method in called}
    assert {name: code.split()[0] for name, code in good.items()} == {name: NOT_OK.get(name, "OK") for name in good}
    room = asyncio.Semaphore(AT_ONCE)
    unspent: dict[str, list[Any]] = {method.name: [] for method in called}

    async def tried(method: Method, place: Place, value: Any) -> str | None:
        async with room:
            request = unspent[method.name].pop() if unspent[method.name] else await made.good(method)
            spoilt = type(request)()
            spoilt.CopyFrom(request)
            place.put(spoilt, value, SAMPLES)
            code = await made.outcome(method, spoilt, SHORT_WAIT if place.field.name == "wait" else 60)
        if code.startswith("INVALID_ARGUMENT"):
            unspent[method.name].append(request)
        return f"{method.name}.{place} = {str(value)[:60]!r}: {code}" if code.split()[0] in BAD else None

    with capture_logs() as logs:
        wanted = [
            tried(method, place, value)
            for method in called
            for place in method.places
            for value in hostile(place.field)
        ]
        found = [problem for problem in await asyncio.gather(*wanted) if problem]
        # A session may have expired meanwhile.
        lasting = [method for method in called if "session_id" not in method.fields]
        still = [(each.name, await made.outcome(each, request)) for each in lasting for request in unspent[each.name]]
    assert found == []
    assert [(name, code) for name, code in still if code.split()[0] != NOT_OK.get(name, "OK")] == []
    assert alarming(logs) == []
