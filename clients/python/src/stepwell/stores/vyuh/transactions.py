"""Vyuh's transactions: the writes of a block are collected, and sent together when it is left."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stepwell.commits import Written, write_name
from stepwell.stores._connection import COLLECTING, Store
from stepwell.v1.transactions_pb2 import CommitRequest
from stepwell.v1.transactions_pb2_grpc import TransactionServiceStub

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from stepwell.stores.vyuh.storage import WorkflowStorage


class _Part:
    """A method of a repository that waits for what comes of its write."""

    def __init__(self, method: Coroutine[Any, Any, Any]) -> None:
        loop = asyncio.get_running_loop()
        self.request: asyncio.Future[Message] = loop.create_future()
        self.response: asyncio.Future[Any] = loop.create_future()
        self.written: Written[Any] = Written()
        before = COLLECTING.set(self._collect)
        self.task = asyncio.ensure_future(method)
        COLLECTING.reset(before)

    async def _collect(self, request: Message) -> Any:  # noqa: ANN401 - the response of any call
        if write_name(request) is None:
            raise TypeError(f"{request.DESCRIPTOR.name} can't be part of a transaction")
        self.request.set_result(request)
        return await self.response

    async def is_write(self) -> bool:
        """Whether it came to a write, and not to its end."""
        await asyncio.wait({self.task, self.request}, return_when=asyncio.FIRST_COMPLETED)
        return self.request.done()


class _Repository:
    """A repository within a transaction: what it reads is read at once, what it writes is collected."""

    def __init__(self, repository: Store, parts: list[_Part]) -> None:
        self._repository = repository
        self._parts = parts

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the repository has
        value = getattr(self._repository, name)
        return self._collected(value) if inspect.iscoroutinefunction(value) else value

    def _collected(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def called(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the method's own
            part = _Part(method(*arguments, **named))
            if not await part.is_write():
                return part.task.result()
            self._parts.append(part)
            return part.written

        return called


class Transaction:
    """The storage within a transaction: the repositories that it has, by their names."""

    def __init__(self, storage: WorkflowStorage) -> None:
        """Made by `WorkflowStorage.transaction`."""
        self._storage = storage
        self._parts: list[_Part] = []

    @cached_property
    def workflows(self) -> Any:  # noqa: ANN401 - the repository, but for what its writes answer
        """The definitions, to read."""
        return _Repository(self._storage.workflows, self._parts)

    @cached_property
    def instances(self) -> Any:  # noqa: ANN401
        """The runs."""
        return _Repository(self._storage.instances, self._parts)

    @cached_property
    def userTaskInstances(self) -> Any:  # noqa: ANN401
        """What people are asked to do."""
        return _Repository(self._storage.userTaskInstances, self._parts)

    @cached_property
    def events(self) -> Any:  # noqa: ANN401
        """The audit trail."""
        return _Repository(self._storage.events, self._parts)

    async def commit(self) -> None:
        """Sends what was written, if there is anything."""
        if not self._parts:
            return
        request = CommitRequest(namespace=self._storage.namespace)
        for part in self._parts:
            write: Any = {write_name(part.request.result()): part.request.result()}
            request.writes.add(**write)
        response = await self._storage.call(TransactionServiceStub(self._storage.channel).Commit, request)
        for part, result in zip(self._parts, response.results, strict=True):
            part.response.set_result(getattr(result, result.WhichOneof("result") or ""))
            part.written.told(await part.task)

    def leave(self) -> None:
        """Forgets what was not sent."""
        for part in self._parts:
            part.task.cancel()
