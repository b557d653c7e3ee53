"""Executable cases: each calls an RPC that answers a method of a mirrored store, and asserts what came back.

A case is a function with the mark `@answers(trait, "method")`. That it really makes such a call is seen at the channel.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

import grpc.aio
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tests.service import TIMEOUT

from stepwell.v1 import mirrors_pb2

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
CASES: dict[tuple[int, str], str] = {}
"""The case of each method, by its trait and name."""


class Recorder(grpc.aio.UnaryUnaryClientInterceptor):
    """Remembers what was called."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        method = client_call_details.method
        self.called.add((method if isinstance(method, str) else method.decode()).rsplit("/", 1)[-1])
        return await continuation(client_call_details, request)


class Engine:
    """An outside engine that keeps what it has in a namespace of its own."""

    def __init__(self, channel: grpc.aio.Channel, namespace: str, recorder: Recorder) -> None:
        self.namespace = namespace
        self.recorder = recorder
        self._channel = channel

    async def call(self, method: str, **fields: Any) -> Any:
        """Calls an RPC by its name, in the engine's namespace unless another is given."""
        module, service = _SERVICES[method]
        request = getattr(importlib.import_module(f"{module}_pb2"), f"{method}Request")
        if "namespace" in request.DESCRIPTOR.fields_by_name:
            fields.setdefault("namespace", self.namespace)
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


Case = Callable[[Engine], Awaitable[None]]


def answers(trait: mirrors_pb2.Trait.ValueType, method: str) -> Callable[[Case], Case]:
    """Marks the case of a method."""

    def mark(case: Case) -> Case:
        @functools.wraps(case)
        async def carried_out(engine: Engine) -> None:
            await case(engine)
            assert engine.recorder.called & MIRRORED[trait, method], f"no call that answers {method}"

        assert (trait, method) not in CASES, method
        CASES[trait, method] = case.__name__
        return carried_out

    return mark


def schedule(name: str, **spec: Any) -> dict[str, Any]:
    """A schedule that fires once a year."""
    return {"name": name, "spec": {"cron": "0 8 1 1 *", **spec}, "run": {"type": "t"}}
