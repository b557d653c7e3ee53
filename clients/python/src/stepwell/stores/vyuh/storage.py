"""Vyuh's `WorkflowStorage`: what holds its repositories together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import grpc

from stepwell.stores._connection import Store
from stepwell.stores.vyuh.events import WorkflowEventRepository
from stepwell.stores.vyuh.instances import WorkflowInstanceRepository
from stepwell.stores.vyuh.transactions import Transaction
from stepwell.stores.vyuh.user_task_instances import UserTaskInstanceRepository
from stepwell.stores.vyuh.workflows import WorkflowRepository
from stepwell.v1 import statistics_pb2 as statistics
from stepwell.v1.statistics_pb2_grpc import StatisticsServiceStub


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageStats:
    """How much there is; active are the instances that have not ended."""

    totalDefinitions: int
    totalInstances: int
    activeInstances: int


T = TypeVar("T")


class WorkflowStorage(Store):
    """The repositories over one channel, in one namespace."""

    @cached_property
    def workflows(self) -> WorkflowRepository:
        """The definitions."""
        return self.part(WorkflowRepository)

    @cached_property
    def instances(self) -> WorkflowInstanceRepository:
        """Runs of the definitions."""
        return self.part(WorkflowInstanceRepository)

    @cached_property
    def userTaskInstances(self) -> UserTaskInstanceRepository:
        """What people are asked to do."""
        return self.part(UserTaskInstanceRepository)

    @cached_property
    def events(self) -> WorkflowEventRepository:
        """The audit trail."""
        return self.part(WorkflowEventRepository)

    async def transaction(self, operation: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs an operation, and does all that it wrote, or none. Gives what it gives. Raises `ServiceError`.

        Differs: the operation is given the storage to use, whose writes are collected and sent when it has ended
        without an exception; until then nothing is done. A write gives a `Written`, whose `answer` is there after the
        transaction. Reads are done at once and lock nothing: a transaction that stays open while a program thinks
        would hold locks over the network. A task that is made in it may be claimed and completed in it, if it is given
        its `id`. What can't be part of a transaction raises `TypeError`.
        """
        transaction = Transaction(self)
        try:
            result = await operation(transaction)
            await transaction.commit()
        finally:
            transaction.leave()
        return result

    async def initialize(self) -> None:
        """Waits until the service can be reached; it has its schema before it answers."""
        await self.channel.channel_ready()

    async def dispose(self) -> None:
        """Closes the channel. What is stored stays, also that of `Store`s which share the channel."""
        await self.close_channel()

    async def getStats(self) -> StorageStats:
        """How much there is. Definitions count by version; of instances that have ended, up to a million."""
        request = statistics.GetStorageStatsRequest(namespace=self.namespace)
        found = await self.call(StatisticsServiceStub(self.channel).GetStorageStats, request)
        return StorageStats(
            totalDefinitions=found.definition_count,
            totalInstances=found.run_count,
            activeInstances=found.open_run_count,
        )

    async def healthCheck(self) -> bool:
        """Whether the standard health service says that it serves; never raises."""
        check: Any = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return bool(await check(b"", timeout=_HEALTH_SECONDS) == _SERVING)
        except grpc.RpcError:
            return False


_HEALTH_SECONDS = 5.0
# A HealthCheckResponse of that status, spelt out: its stubs are no part of the client.
_SERVING = b"\x08\x01"
