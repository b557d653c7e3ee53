"""Priorities that grow with waiting, as workers see them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from tests.service import refusal
from tests.stream.kit import ACTIVITY, SECONDS, Replica, capacity
from tests.stream.test_task_queues import shown, stub
from tests.stream.wire import wire

from stepwell.policies import duration
from stepwell.v1 import namespaces_pb2, task_queues_pb2
from stepwell.v1.task_queues_pb2 import RateLimit


async def update(one: Replica, *paths: str, queue: str = "q", **fields: Any) -> Any:
    request = task_queues_pb2.UpdateTaskQueueRequest(task_queue=queue, update_mask=FieldMask(paths=paths), **fields)
    return (await stub(one).UpdateTaskQueue(request, timeout=SECONDS)).settings


async def order_of(one: Replica, names: dict[str, str]) -> list[str]:
    """The names of the jobs in the order in which a worker with one place gets them."""
    seen = []
    async with wire(one, capacity=capacity(activities=1)) as stream:
        for _ in names:
            task = await stream.task(ACTIVITY)
            seen.append(names[task.job_id])
            await stream.complete(task)
    return seen


async def waiting(one: Replica) -> dict[str, str]:
    """Three jobs. The high one has just come, and each has waited 15 s for each step that it is lower."""
    names = {
        await one.start_job(priority=1): "low",
        await one.start_job(priority=5): "middle",
        await one.start_job(priority=9): "high",
    }
    async with one.service.dispatcher.reader.connection() as connection:
        await connection.raw.execute("UPDATE tasks SET ready_time = now() - rank * interval '15 s'")
    return names


@pytest.mark.parametrize(
    ("step", "order"),
    [(None, ["high", "middle", "low"]), (60.0, ["high", "middle", "low"]), (10.0, ["low", "middle", "high"])],
)
async def test_a_task_that_waited_long_enough_goes_first(one: Replica, step: float | None, order: list[str]) -> None:
    """Also if it waited before that was set."""
    names = await waiting(one)
    if step is not None:
        settings = await update(one, "aging_interval", aging_interval=duration(step))
        assert settings.aging_interval.seconds == step
    assert await order_of(one, names) == order


async def test_what_is_not_named_stays_and_each_change_is_counted(one: Replica) -> None:
    first = await update(one, "rate_limit", rate_limit=RateLimit(per_second=2.5))
    assert (first.version, first.rate_limit) == (1, RateLimit(per_second=2.5, burst=3))
    second = await update(one, "aging_interval", aging_interval=duration(60))
    assert (second.version, second.rate_limit, second.aging_interval.seconds) == (2, first.rate_limit, 60)
    third = await update(one, "rate_limit")
    assert (third.version, third.HasField("rate_limit"), third.aging_interval.seconds) == (3, False, 60)
    read = (await shown(one)).settings
    assert read == third
    assert (await shown(one, "another")).settings.version == 0


async def test_a_repeat_changes_nothing(one: Replica) -> None:
    first = await update(one, "rate_limit", rate_limit=RateLimit(per_second=2), request_id="r")
    await update(one, "rate_limit", rate_limit=RateLimit(per_second=3))
    assert await update(one, "rate_limit", rate_limit=RateLimit(per_second=2), request_id="r") == first
    assert (await shown(one)).settings.rate_limit.per_second == 3
    again = update(one, "rate_limit", rate_limit=RateLimit(per_second=4), request_id="r")
    assert (await refusal(again))[1] == "REQUEST_ID_REUSED"


async def test_a_namespace_takes_its_queues_settings_along(one: Replica) -> None:
    await one.namespace("other")
    await update(one, "rate_limit", namespace="other", rate_limit=RateLimit(per_second=2))
    request = namespaces_pb2.DeleteNamespaceRequest(namespace="other")
    assert (await one.namespaces.DeleteNamespace(request, timeout=SECONDS)).deleted
    async with one.service.dispatcher.reader.connection() as connection:
        assert await connection.raw.fetchval("SELECT count(*) FROM queue_settings") == 0


@pytest.mark.parametrize(
    ("paths", "fields"),
    [
        ([], {}),
        (["weights"], {}),
        (["rate_limit"], {"rate_limit": RateLimit()}),
        (["rate_limit"], {"rate_limit": RateLimit(per_second=-1)}),
        (["rate_limit"], {"rate_limit": RateLimit(per_second=float("nan"))}),
        (["rate_limit"], {"rate_limit": RateLimit(per_second=float("inf"))}),
        (["rate_limit"], {"rate_limit": RateLimit(per_second=1e-9)}),
        (["rate_limit"], {"rate_limit": RateLimit(per_second=1, burst=-1)}),
        (["rate_limit"], {"rate_limit": RateLimit(per_second=1, burst=100_001)}),
        (["aging_interval"], {"aging_interval": duration(0.0)}),
        (["aging_interval"], {"aging_interval": Duration(seconds=-1)}),
        (["aging_interval"], {"aging_interval": duration(1e9)}),
        (["aging_interval"], {"queue": ""}),
        (["aging_interval"], {"queue": "q" * 256}),
        (["aging_interval"], {"queue": "q\n"}),
    ],
)
async def test_what_cannot_be_set_is_refused(one: Replica, paths: list[str], fields: dict[str, Any]) -> None:
    assert await refusal(update(one, *paths, **fields)) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert one.service.dispatcher.queues.version_of(1, "q") == 0


async def test_a_queue_of_no_namespace_is_refused(one: Replica) -> None:
    assert (await refusal(update(one, "rate_limit", namespace="nowhere")))[1] == "NAMESPACE_NOT_FOUND"
