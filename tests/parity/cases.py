"""Executable cases: each calls what answers a method of a mirrored store, and asserts what came back.

A case is a function with the mark `@answers(trait, "method", ...)`. It calls the store's class (`engine.store`), or an
RPC by its name (`engine.call`). That it really makes such calls is seen at the channel; that it asserts what came back
is seen by `test_hollow`, which runs it again with answers that say nothing.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass
from tests.service import TIMEOUT

from stepwell.stores._connection import Store
from stepwell.v1 import mirrors_pb2

S = TypeVar("S", bound=Store)

DESCRIBED = FileDescriptorSet.FromString(files("stepwell.v1").joinpath("descriptors.binpb").read_bytes())
_OWN = [file for file in DESCRIBED.file if file.package == "stepwell.v1"]
_SERVICES = {
    method.name: (file.name.removesuffix(".proto").replace("/", "."), service.name)
    for file in _OWN
    for service in file.service
    for method in service.method
}
MIRRORED: dict[tuple[int, str], set[str]] = {}
"""The RPCs that answer a method, by its trait and name."""
for _file in _OWN:
    for _service in _file.service:
        for _method in _service.method:
            for _mirror in _method.options.Extensions[mirrors_pb2.mirrors]:
                MIRRORED.setdefault((_mirror.trait, _mirror.method), set()).add(_method.name)
CASES: dict[tuple[int, str], list[Case]] = {}
"""The cases of each method, by its trait and name."""
_speaking: ContextVar[str] = ContextVar("speaking", default="")
"""The method of a store's class that is being called, with its repository, or nothing."""
_NO_CASES = {"test_hollow", "test_listed", "test_mirrors"}
_LOCAL = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class Hollow:
    """A method whose answers say nothing; what it asks for is done all the same, or not even that."""

    trait: int
    method: str
    done: bool


class Recorder(grpc.aio.UnaryUnaryClientInterceptor):
    """Remembers what was called, and by which method of a class; makes answers hollow if it is told to."""

    def __init__(self) -> None:
        self.called: set[tuple[str, str]] = set()
        self.hollow: Hollow | None = None
        self.by_class = False

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        method = client_call_details.method
        rpc = (method if isinstance(method, str) else method.decode()).rsplit("/", 1)[-1]
        self.called.add((_speaking.get(), rpc))
        hollow = self.hollow
        if hollow is None or not self._speaks(hollow.trait, hollow.method, _speaking.get(), rpc):
            return await continuation(client_call_details, request)
        if hollow.done:
            await (await continuation(client_call_details, request))
        return _message(rpc, "Response")()

    def heard(self, trait: int, method: str) -> bool:
        """Whether the method was called: by its class, or, if no class is in play, by an RPC of its own."""
        return any(self._speaks(trait, method, speaking, rpc) for speaking, rpc in self.called)

    def _speaks(self, trait: int, method: str, speaking: str, rpc: str) -> bool:
        return rpc in MIRRORED[trait, method] and speaking == (method if self.by_class else "")


class Speaking:
    """A store, or a repository of one, whose calls are known by the method that makes them."""

    def __init__(self, store: Store, repository: str = "") -> None:
        self._store = store
        self._repository = repository

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if isinstance(value, Store):
            return Speaking(value, f"{name}.")
        if not inspect.iscoroutinefunction(value):
            return value

        @functools.wraps(value)
        async def called(*args: Any, **kwargs: Any) -> Any:
            before = _speaking.set(f"{self._repository}{name}")
            try:
                return await value(*args, **kwargs)
            finally:
                _speaking.reset(before)

        return called


class Engine:
    """An outside engine that keeps what it has in a namespace of its own, on two replicas."""

    def __init__(self, addresses: tuple[str, ...], namespace: str, recorder: Recorder) -> None:
        self.namespace = namespace
        self.recorder = recorder
        self._addresses = addresses
        self._channels: list[grpc.aio.Channel] = []
        self._channel = self._open(addresses[0])

    def _open(self, address: str) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(address, options=_LOCAL, interceptors=[self.recorder])
        self._channels.append(channel)
        return channel

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def store(self, kind: type[S], **options: Any) -> S:
        """A store's class in the engine's namespace, unless another is given."""
        return self._speaking(kind, self._channel, options)

    def stores(self, kind: type[S], count: int, **options: Any) -> list[S]:
        """As many of them, each over a connection of its own, to both replicas in turn."""
        turns = [self._addresses[number % len(self._addresses)] for number in range(count)]
        return [self._speaking(kind, self._open(address), options) for address in turns]

    def _speaking(self, kind: type[S], channel: grpc.aio.Channel, options: dict[str, Any]) -> S:
        self.recorder.by_class = True
        return cast("S", Speaking(kind(channel, **{"namespace": self.namespace, **options})))

    async def call(self, method: str, **fields: Any) -> Any:
        """Calls an RPC by its name, in the engine's namespace unless another is given."""
        request = _message(method, "Request")
        if "namespace" in request.DESCRIPTOR.fields_by_name:
            fields.setdefault("namespace", self.namespace)
        module, service = _SERVICES[method]
        stub: Any = getattr(importlib.import_module(f"{module}_pb2_grpc"), f"{service}Stub")(self._channel)
        return await getattr(stub, method)(request(**fields), timeout=TIMEOUT)

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

    async def create(self, workflow_id: str = "w", **fields: Any) -> str:
        """A run that its engine has created, RUNNING, and its id."""
        from tests.api.stores import RUNNING  # noqa: PLC0415 - not needed to collect the cases

        given = {"type": "t", "initial_phase": RUNNING, **fields}
        return str((await self.call("CreateRun", workflow_id=workflow_id, **given)).run_id)


def _message(rpc: str, kind: str) -> Any:
    importlib.import_module(f"{_SERVICES[rpc][0]}_pb2")
    pool: Any = descriptor_pool.Default()
    return GetMessageClass(pool.FindMessageTypeByName(f"stepwell.v1.{rpc}{kind}"))


Case = Callable[[Engine], Awaitable[None]]


def answers(trait: mirrors_pb2.Trait.ValueType, *methods: str) -> Callable[[Case], Case]:
    """Marks a case of one or more methods: it calls each, and asserts what came back."""

    def mark(case: Case) -> Case:
        @functools.wraps(case)
        async def carried_out(engine: Engine) -> None:
            await case(engine)
            missed = [method for method in methods if not engine.recorder.heard(trait, method)]
            assert not missed, f"no call that answers {missed}"

        for method in methods:
            CASES.setdefault((trait, method), []).append(carried_out)
        return carried_out

    return mark


def import_cases() -> None:
    """Fills `CASES`: every module of cases is imported."""
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file.stem not in _NO_CASES:
            importlib.import_module(f"tests.parity.{file.stem}")


def schedule(name: str, **spec: Any) -> dict[str, Any]:
    """A schedule that fires once a year."""
    return {"name": name, "spec": {"cron": "0 8 1 1 *", **spec}, "run": {"type": "t"}}
