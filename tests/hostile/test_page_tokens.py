"""Page tokens that no list has given: of other lists and namespaces, cut short, and forged with any position at all.

A token's seal is no secret. So whoever writes one may put anything into it, and every list has to bear that.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import product
from typing import Any, get_args, get_type_hints
from uuid import UUID

import grpc
import grpc.aio
import msgspec
import pytest
from tests.hostile.answers import fields_of
from tests.hostile.methods import Method, methods
from tests.hostile.test_hostile import NOT_OK
from tests.hostile.world import World

from stepwell_server.api import page

LISTS = [method for method in methods() if "page_token" in method.fields]
EXTREMES: dict[Any, tuple[Any, ...]] = {
    int: (1, -(2**63), -1, 0, 2**15, 2**31, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
    str: ("a", "", "\0", "a\0b", "x" * 2_000, "\U0010ffff"),
    UUID: (UUID(int=0), UUID(int=2**128 - 1)),
    bool: (True, False),
    datetime: (
        "2026-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:59.999999Z",
        "2026-01-01T00:00:00",
    ),
}
REFUSED = ("INVALID_ARGUMENT", "page_token")
NOT_TOKENS = ("!", "x", "AAAA", "é", "A" * 4_096, "A" * 300_000, "\0", "=" * 8, " ")


def forged(message: Any, position: Any) -> str:
    """A token as the list's own would be, for that position."""
    text = page._VERSION + page._fingerprint(message) + msgspec.msgpack.encode(position)
    return base64.urlsafe_b64encode(text + page._seal(text)).decode().rstrip("=")


def extremes_of(kind: Any) -> Iterator[Any]:
    """Positions of a type, at the ends of what that can hold."""
    hints = tuple(get_type_hints(kind).values()) if hasattr(kind, "_fields") else ()
    parts = hints or (get_args(kind) if not hasattr(kind, "__metadata__") else ())
    if not parts:
        yield from EXTREMES[getattr(kind, "__origin__", kind)]
        return
    least = [next(extremes_of(part)) for part in parts]
    for place, part in enumerate(parts):
        for extreme in extremes_of(part):
            yield (*least[:place], extreme, *least[place + 1 :])


async def refused(made: World, method: Method, request: Any) -> tuple[str, str]:
    """The code of an answer, and the field that it names."""
    try:
        await made.send(method, request)
    except grpc.aio.AioRpcError as error:
        return error.code().name, ", ".join(fields_of(error))
    return "OK", ""


async def orders(made: World, method: Method) -> list[str]:
    """By what a list sorts, each way, which it tells when it is asked for something else."""
    if "order_by" not in method.fields:
        return [""]
    request = await made.good(method)
    request.order_by = "nothing"
    told = await made.outcome(method, request)
    names = re.findall(r"[a-z_]+", told.rpartition(":")[2])
    return ["", *(name + way for name, way in product(names, ("", " desc")))]


@pytest.mark.parametrize("method", LISTS, ids=lambda method: method.name)
async def test_no_token_breaks_a_list(made: World, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[Any] = []
    read = page._position

    def noting(token: str, fingerprint: bytes, position: Any) -> Any:
        kinds.append(position)
        return read(token, fingerprint, position)

    monkeypatch.setattr(page, "_position", noting)
    accepted = (NOT_OK.get(method.name, "OK"), "")
    for order in await orders(made, method):
        request = await made.good(method)
        if order:
            request.order_by = order
        for token in (*NOT_TOKENS, forged(request, ["of", "another", "kind", 1, 2]), forged(type(request)(), 1)[:-2]):
            request.page_token = token
            assert await refused(made, method, request) == REFUSED, token
        for position in extremes_of(kinds[-1]):
            request.page_token = forged(request, position)
            assert await refused(made, method, request) in (accepted, REFUSED), (order, position)


@pytest.mark.parametrize("method", LISTS, ids=lambda method: method.name)
async def test_tokens_of_elsewhere_are_refused(made: World, method: Method) -> None:
    """Of the same list in another namespace, and of another list."""
    request, other = await made.good(method), await made.good(LISTS[LISTS.index(method) - 1])
    for message in (request, other):
        if "namespace" in message.DESCRIPTOR.fields_by_name:
            message.namespace = "main"
    elsewhere = type(request)()
    elsewhere.CopyFrom(request)
    tokens = [forged(other, position) for position in (1, "a", [1])]
    if "namespace" in method.fields:
        elsewhere.namespace = "elsewhere"
        tokens += [forged(elsewhere, position) for position in (1, "a", [1])]
    for token in tokens:
        request.page_token = token
        assert await refused(made, method, request) == REFUSED
