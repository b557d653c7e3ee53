"""Filters that nobody should write, at every method that takes one: an answer, or where the filter goes wrong."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs
from tests.hostile.answers import alarming, fields_of
from tests.hostile.methods import Method, methods
from tests.hostile.test_hostile import NOT_OK
from tests.hostile.world import World

FILTERED = [method for method in methods() if "filter" in method.fields]
COUNT, AT_ONCE = 150, 12
VALUES = (
    *("x", '"x"', "x*", '"a*\\""', "'%_'", "*", "true", "-1", "0", "9223372036854775807", "1e999", "-0.0", "FAILED"),
    *('"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59-23:59"', '"2026-01-31T00:00:00.123456789Z"'),
    *("00000000-0000-0000-0000-000000000000", '""', '"\U0010ffff"', "9" * 40, '"' + "é" * 127 + '"'),
)
OPS = ("=", "!=", "<", "<=", ">", ">=", ":", ":*")
PIECES = ("(", ")", '"', "'", "\\", "*", "AND", "OR", "NOT", "\0", "\x1b", "\u2028", "é", ";--", "attribute.", " ", "=")


def written(chance: random.Random, fields: list[str]) -> str:
    """Comparisons of the list's fields, joined, of which some fit and some do not, and perhaps mutilated then."""
    joined = chance.choice((" AND ", " OR "))
    parts = []
    for _ in range(chance.choice((1, 1, 1, 2, 3, 64))):
        name = chance.choice(fields).replace("*", chance.choice(("a", "a.b", "x" * 64, "é", "")))
        parts.append(f"{chance.choice(('', '', 'NOT '))}{name} {chance.choice(OPS)} {chance.choice(VALUES)}")
    text = joined.join(parts)
    for _ in range(chance.choice((0, 0, 1, 2, 4))):
        first, last = sorted(chance.choices(range(len(text) + 1), k=2))
        instead = ("", chance.choice(PIECES) * chance.choice((1, 1, 20)), text[first:last] * 2)
        text = text[:first] + chance.choice(instead) + text[last:]
    return text


async def fields_to_filter_by(made: World, method: Method) -> list[str]:
    """What a list can be filtered by, which it tells who names something else."""
    request = await made.good(method)
    request.filter = "nothing = 1"
    told = await made.outcome(method, request)
    return told.rpartition("is no field of this list, but ")[2].split(", ")


async def answered(made: World, method: Method, text: str) -> str:
    """OK, POINTED where a refusal is as it should be, or what is wrong with it."""
    request = await made.good(method)
    request.filter = text
    if "dry_run" in method.fields:
        request.dry_run = True
    try:
        await made.send(method, request)
    except grpc.aio.AioRpcError as error:
        if error.code().name == NOT_OK.get(method.name):
            return "OK"
        place = re.search(r"at character (\d+):", error.details() or "")
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT or fields_of(error) != ["filter"] or place is None:
            return f"{text!r}: {error.code().name} {error.details()}"
        return "POINTED" if 1 <= int(place[1]) <= len(text) + 1 else f"{text!r}: {error.details()}"
    return "OK"


@pytest.mark.parametrize("method", FILTERED, ids=lambda method: method.name)
async def test_no_filter_breaks_a_list(made: World, method: Method) -> None:
    chance, room = random.Random(method.name), asyncio.Semaphore(AT_ONCE)
    fields = await fields_to_filter_by(made, method)
    assert len(fields) > 1, fields
    texts = [written(chance, fields) for _ in range(COUNT)]

    async def tried(text: str) -> str:
        async with room:
            return await answered(made, method, text)

    with capture_logs() as logs:
        came = Counter(await asyncio.gather(*(tried(text) for text in texts if text.strip())))
    assert came.keys() == {"OK", "POINTED"}, came
    assert alarming(logs) == []
