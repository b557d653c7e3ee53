"""A whole server that asks for keys, and calls with one or without, of any method by its descriptor."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from tests.hostile.methods import Method, methods
from tests.service import reason_of

from stepwell_server.api.interceptors.errors import DETAILS_KEY
from stepwell_server.ids import MAIN
from stepwell_server.model.api_keys import Role, make_key
from stepwell_server.service import Service
from stepwell_server.settings import Settings
from stepwell_server.store import api_keys

TIMEOUT = 60
METHODS = {method.name: method for method in methods()}
Metadata = tuple[tuple[str, str], ...]


def bearer(secret: str) -> Metadata:
    return (("authorization", f"Bearer {secret}"),) if secret else ()


class Keyed:
    """See the module. `admin` is the first key."""

    def __init__(self, service: Service, channel: grpc.aio.Channel) -> None:
        self.service = service
        self.channel = channel
        self.admin = ""

    async def make(
        self,
        role: Role,
        namespace: str | None = MAIN,
        label: str = "",
        expire_time: datetime | None = None,
        task_queues: Sequence[str] = (),
    ) -> str:
        """A key, put into the database as `stepwell-server keys create` does."""
        namespace_id = None if namespace is None else await self.service.namespaces.id_of(namespace)
        key, secret = make_key(role, label, namespace_id, self.service.clock.now(), expire_time, task_queues)
        await api_keys.create(self.service.database, key, namespace or "-")
        return secret

    def request(self, name: str, **fields: Any) -> Any:
        return type(METHODS[name].new())(**fields)

    async def call(self, name: str, key: str | None = None, metadata: Metadata | None = None, **fields: Any) -> Any:
        """Calls a method with a key, or with other metadata; with the admin's, if nothing is said."""
        sent = bearer(self.admin if key is None else key) if metadata is None else metadata
        return await self.send(METHODS[name], self.request(name, **fields), sent)

    async def send(self, method: Method, request: Message, metadata: Metadata) -> Any:
        """The answer, or the first of a stream."""
        stub: Any = importlib.import_module(f"{method.module}_pb2_grpc").__dict__[f"{method.service}Stub"](self.channel)
        called = getattr(stub, method.name)
        if method.is_unary:
            return await called(request, timeout=TIMEOUT, metadata=metadata)
        if method.name != "Connect":
            return await anext(aiter(called(request, timeout=TIMEOUT, metadata=metadata)))
        while True:
            try:
                return await anext(aiter(called(iter([request]), timeout=TIMEOUT, metadata=metadata)))
            except grpc.aio.AioRpcError as error:
                # So gRPC's own client says it when a call is refused before its first message is written.
                if error.details() != "Internal error from Core":
                    raise

    async def refused(self, name: str, key: str | None = None, **fields: Any) -> tuple[str, str]:
        return await refused(self.call(name, key, **fields))


async def refused(call: Any) -> tuple[str, str]:
    """The code and the reason of a refusal; OK if there is none, and no reason where gRPC itself gave up."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
        return error.code().name, reason_of(Status.FromString(details)) if details is not None else ""
    except StopAsyncIteration:
        pass
    return "OK", ""


@asynccontextmanager
async def keyed(database_url: str, **given: Any) -> AsyncIterator[Keyed]:
    settings = {"port": 0, "shutdown_seconds": 1.0, "require_keys": True, "test_clock": True, **given}
    async with (
        Service(Settings(database_url=database_url, **settings)) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        made = Keyed(service, channel)
        made.admin = await made.make(Role.ADMIN, None, "first")
        yield made
