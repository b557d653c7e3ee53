"""Calling the store services in tests: each call by its name and fields."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.service import TIMEOUT

from stepwell.v1 import types_pb2

PENDING, RUNNING, SUSPENDED, COMPLETED, FAILED, CANCELLED = (
    types_pb2.RUN_PHASE_PENDING,
    types_pb2.RUN_PHASE_RUNNING,
    types_pb2.RUN_PHASE_SUSPENDED,
    types_pb2.RUN_PHASE_COMPLETED,
    types_pb2.RUN_PHASE_FAILED,
    types_pb2.RUN_PHASE_CANCELLED,
)
START = datetime(2024, 1, 1, tzinfo=UTC)
"""The time of an engine whose clock is its own."""


class Channel(Protocol):
    """Whatever has a channel to a server."""

    @property
    def channel(self) -> grpc.aio.Channel | None: ...


class Reached:
    """A server known by its address alone."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)


class Store:
    """One store service of a replica: `store.call("ClaimRun", run_id=...)`."""

    def __init__(self, service: Channel, noun: str) -> None:
        name = "".join(part.title() for part in f"{noun}_store".split("_"))
        self._messages = importlib.import_module(f"stepwell.v1.{noun}_store_pb2")
        stubs = importlib.import_module(f"stepwell.v1.{noun}_store_pb2_grpc")
        self._stub = getattr(stubs, f"{name}Stub")(service.channel)

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(self._messages, f"{method}Request")(**fields)
        return await getattr(self._stub, method)(request, timeout=TIMEOUT)

    async def pages(self, method: str, field: str, **fields: Any) -> list[Any]:
        """All pages of a list."""
        return [item async for item in self._items(method, field, fields)]

    async def _items(self, method: str, field: str, fields: dict[str, Any]) -> AsyncIterator[Any]:
        token = ""
        while True:
            response = await self.call(method, page_token=token, **fields)
            for item in getattr(response, field):
                yield item
            token = response.next_page_token
            if not token:
                return


def at(seconds: float) -> Timestamp:
    """So long after the engine's start."""
    stamp = Timestamp()
    stamp.FromDatetime(START + timedelta(seconds=seconds))
    return stamp


def span(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def json(text: str) -> types_pb2.Payload:
    return types_pb2.Payload(json=text)


async def create(service: Channel, **fields: Any) -> str:
    """A run as stem creates it: RUNNING, owned by nobody."""
    given = {"type": "t", "initial_phase": RUNNING, **fields}
    return str((await Store(service, "run").call("CreateRun", **given)).run_id)


async def read(service: Channel, run_id: str) -> Any:
    response = await Store(service, "run").call("ReadRun", run_id=run_id)
    assert response.found
    return response.run


async def claimed(store: Store, run_id: str, owner: str, seconds: float = 0, lease: float = 5) -> Any:
    """A claim with a lease, at a time of the engine's clock."""
    return await store.call("ClaimRun", run_id=run_id, owner_id=owner, lease_duration=span(lease), now=at(seconds))
