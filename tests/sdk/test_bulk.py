"""The same change for many runs, against a whole service: what fits is met once, what refuses is told by its reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from tests.sdk.live import Live, live
from tests.sdk.test_cli_live import stepwell

from stepwell import Context, reasons, workflow
from stepwell.bulk import Part
from stepwell.sync import Client as SyncClient
from stepwell.v1 import bulk_pb2, bulk_pb2_grpc

MINE = "type = order"
TERMINATE = bulk_pb2.ApplyToRunsRequest.Terminate()


@pytest_asyncio.fixture
async def one(database_url: str) -> AsyncIterator[Live]:
    async with live(database_url) as made:
        yield made


@workflow
async def asked(ctx: Context) -> str:
    return str(await ctx.wait_signal("go"))


async def started(one: Live, count: int, type_name: str = "order") -> list[Any]:
    return [
        await one.client.start_run(type_name, workflow_id=f"{type_name} {n}", task_queue="held") for n in range(count)
    ]


async def totals(parts: AsyncGenerator[Part, None]) -> tuple[int, int, int, dict[str, int]]:
    found = [part async for part in parts]
    refused: dict[str, int] = {}
    for part in found:
        for each in part.refusals:
            refused[each.reason] = refused.get(each.reason, 0) + each.count
    counts = [sum(getattr(part, f"{kind}_count") for part in found) for kind in ("matched", "changed", "unchanged")]
    return counts[0], counts[1], counts[2], refused


async def paused(handles: list[Any]) -> list[str]:
    runs = [await handle.describe() for handle in handles]
    return [run.pause.reason for run in runs if run.HasField("pause")]


async def test_what_fits_is_changed_and_nothing_else(one: Live) -> None:
    orders, others = await started(one, 5), await started(one, 2, "other")
    assert await totals(one.client.bulk.pause(MINE, dry_run=True)) == (5, 0, 0, {})
    assert await paused(orders) == []
    assert await totals(one.client.bulk.pause(MINE, reason="for a look")) == (5, 5, 0, {})
    assert await paused([*orders, *others]) == ["for a look"] * 5
    # A repeat does no harm.
    assert await totals(one.client.bulk.pause(MINE)) == (5, 0, 5, {})
    assert await totals(one.client.bulk.resume("paused = true")) == (5, 5, 0, {})
    assert await totals(one.client.bulk.terminate(MINE)) == (5, 5, 0, {})
    # They have ended: a filter for open runs does not meet them.
    assert await totals(one.client.bulk.cancel(MINE)) == (0, 0, 0, {})
    assert await totals(one.client.bulk.cancel("type = other", reason="enough")) == (2, 2, 0, {})


async def test_all_are_met_page_by_page_and_none_that_starts_meanwhile(one: Live) -> None:
    await started(one, 7)
    stub: Any = bulk_pb2_grpc.BulkServiceStub(one.client._channel)
    request = bulk_pb2.ApplyToRunsRequest(filter=MINE, page_size=3, terminate=TERMINATE)
    met: list[str] = []
    sizes = []
    while True:
        part = await stub.ApplyToRuns(request)
        met += part.run_ids
        sizes.append(part.changed_count)
        await one.client.start_run("order", task_queue="held")
        if not part.next_page_token:
            break
        request.page_token = part.next_page_token
    assert sizes == [3, 3, 1]
    assert len(set(met)) == 7
    assert len([run async for run in one.client.list_runs(phases=["pending"], type="order")]) == 3


async def test_each_run_gets_a_signal_once(one: Live) -> None:
    handles = [await one.client.start_run(asked, task_queue="default") for _ in range(3)]
    stub: Any = bulk_pb2_grpc.BulkServiceStub(one.client._channel)
    signal = bulk_pb2.ApplyToRunsRequest.Signal(signal_name="go")
    signal.payload.json = '"ahead"'
    request = bulk_pb2.ApplyToRunsRequest(filter="type = asked", signal=signal, request_id="r")
    first, again = await stub.ApplyToRuns(request), await stub.ApplyToRuns(request)
    assert (first.changed_count, first.unchanged_count) == (3, 0)
    assert (again.changed_count, again.unchanged_count) == (0, 3)
    async with one.working(workflows=[asked]):
        async with asyncio.timeout(60):
            assert [await handle.result() for handle in handles] == ["ahead"] * 3
    for handle in handles:
        assert len([event async for event in handle.history() if event.type == "SignalReceived"]) == 1


async def test_those_that_refuse_are_told_by_reason(one: Live) -> None:
    handles = await started(one, 3)
    await totals(one.client.bulk.terminate(MINE))
    # One bears the name of the first again: that cannot go on beside it.
    await one.client.start_run("order", workflow_id="order 0", task_queue="held")
    (part,) = [part async for part in one.client.bulk.retry(MINE)]
    assert (part.matched_count, part.changed_count) == (3, 2)
    (refusal,) = part.refusals
    assert (refusal.reason, refusal.count, list(refusal.run_ids)) == ("WORKFLOW_ID_IN_USE", 1, [handles[0].run_id])
    assert "order 0" in refusal.text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"terminate": {}}, "filter"),
        ({"filter": "type ="}, "operation"),
        ({"filter": "type =", "terminate": {}}, "filter"),
        ({"filter": MINE, "signal": {"signal_name": "go"}}, "request_id"),
        ({"filter": MINE, "signal": {}, "request_id": "r"}, "signal.signal_name"),
        ({"filter": MINE, "cancel": {"reason": "\0"}}, "cancel.reason"),
        ({"filter": MINE, "cancel": {}, "page_size": -1}, "page_size"),
    ],
)
async def test_bad_input_changes_nothing(one: Live, fields: dict[str, Any], named: str) -> None:
    (handle,) = await started(one, 1)
    stub: Any = bulk_pb2_grpc.BulkServiceStub(one.client._channel)
    with pytest.raises(grpc.aio.AioRpcError, match=named) as refused:
        await stub.ApplyToRuns(bulk_pb2.ApplyToRunsRequest(**fields))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (await handle.describe()).version == 1


async def test_another_namespace_is_not_met(one: Live) -> None:
    (handle,) = await started(one, 1)
    await one.client.create_namespace("elsewhere")
    stub: Any = bulk_pb2_grpc.BulkServiceStub(one.client._channel)
    part = await stub.ApplyToRuns(bulk_pb2.ApplyToRunsRequest(namespace="elsewhere", filter=MINE, terminate=TERMINATE))
    assert (part.matched_count, (await handle.describe()).version) == (0, 1)


async def test_the_command_and_programs_without_asyncio(one: Live) -> None:
    await started(one, 3)
    code, out, _ = await stepwell(one.server, "bulk", "cancel", MINE, "--dry-run")
    assert (code, out.strip()) == (0, "3 runs would be met")
    code, out, _ = await stepwell(one.server, "bulk", "pause", MINE)
    assert (code, out.strip()) == (0, "3 runs were changed, 0 were so already, 0 refused")

    def work() -> list[int]:
        with SyncClient.connect(one.server.service.address) as client:
            kinds = (client.bulk.resume(MINE), client.bulk.signal(MINE, "go", 1), client.bulk.terminate(MINE))
            return [sum(part.changed_count for part in parts) for parts in kinds]

    assert await asyncio.to_thread(work) == [3, 3, 3]
    code, out, _ = await stepwell(one.server, "bulk", "retry", MINE, "-o", "json")
    assert json.loads(out) == {"matched": 3, "changed": 3, "unchanged": 0, "refused": {}, "dry_run": False}
    with pytest.raises(reasons.InvalidField):
        await anext(one.client.bulk.cancel("colour = blue"))
