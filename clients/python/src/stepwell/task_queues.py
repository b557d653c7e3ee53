"""What is set for task queues: how fast they give what waits, and in what order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from stepwell._rpc import uuid7
from stepwell.policies import Seconds, duration
from stepwell.v1 import task_queues_pb2

if TYPE_CHECKING:
    from stepwell._rpc import Caller
    from stepwell.v1.task_queues_pb2_grpc import TaskQueueServiceAsyncStub


@dataclasses.dataclass(frozen=True, slots=True)
class RateLimit:
    """How many tasks a queue gives, or a key: `per_second` in the long run, `burst` at once after a rest.

    `burst` is 0 for as many as come in a second.
    """

    per_second: float
    burst: int = 0


async def update_task_queue(  # noqa: PLR0917 - of the client alone
    caller: Caller,
    stub: TaskQueueServiceAsyncStub,
    namespace: str,
    name: str,
    rate_limit: RateLimit | Literal["none"] | None,
    aging: Seconds | Literal["none"] | None,
    fairness: Mapping[str, int] | Literal["none"] | None,
    key_rate_limit: RateLimit | Literal["none"] | None,
) -> task_queues_pb2.TaskQueueSettings:
    """Sends what is to be set; see `Client.update_task_queue`."""
    request = task_queues_pb2.UpdateTaskQueueRequest(namespace=namespace, task_queue=name, request_id=uuid7())
    for field, limit in (("rate_limit", rate_limit), ("key_rate_limit", key_rate_limit)):
        if limit is not None:
            request.update_mask.paths.append(field)
        if isinstance(limit, RateLimit):
            told = task_queues_pb2.RateLimit(per_second=limit.per_second, burst=limit.burst)
            getattr(request, field).CopyFrom(told)
    if aging is not None:
        request.update_mask.paths.append("aging_interval")
    if aging is not None and aging != "none":
        request.MergeFrom(task_queues_pb2.UpdateTaskQueueRequest(aging_interval=duration(aging)))
    if fairness is not None:
        request.update_mask.paths.append("fairness")
    if fairness is not None and fairness != "none":
        request.fairness.CopyFrom(task_queues_pb2.Fairness(weights=fairness))
    answer: task_queues_pb2.UpdateTaskQueueResponse = await caller.call(stub.UpdateTaskQueue, request)
    return answer.settings
