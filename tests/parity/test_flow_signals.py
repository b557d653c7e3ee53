"""FlowOrchestrator: its signal store's cases, by name."""

from __future__ import annotations

import asyncio
import datetime as dt
from uuid import uuid4

from tests.parity.cases import Engine

from stepwell.stores.flow_orchestrator import FlowRunStore, FlowSignalStore, SignalDeliveryStatus


async def started(engine: Engine) -> tuple[FlowSignalStore, str]:
    run_id = str(uuid4())
    await engine.store(FlowRunStore).StartRunAsync(str(uuid4()), "Pay", run_id, "manual")
    return engine.store(FlowSignalStore), run_id


async def test_register_get_round_trip(engine: Engine) -> None:
    store, run_id = await started(engine)
    until = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    await store.RegisterAsync(run_id, "s", "approve", until)
    waiter = await store.GetWaiterAsync(run_id, "s")
    assert waiter is not None
    assert (waiter.StepKey, waiter.SignalName, waiter.ExpiresAt, waiter.DeliveredAt) == ("s", "approve", until, None)
    assert await store.GetWaiterAsync(run_id, "another") is None


async def test_re_register_updates_name_and_expiry(engine: Engine) -> None:
    store, run_id = await started(engine)
    first = await store.RegisterAsync(run_id, "s", "approve")
    again = await store.RegisterAsync(run_id, "s", "reject", dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    assert (again.SignalName, again.CreatedAt, again.ExpiresAt is None) == ("reject", first.CreatedAt, False)


async def test_deliver_sets_payload_and_the_second_is_AlreadyDelivered(engine: Engine) -> None:
    store, run_id = await started(engine)
    await store.RegisterAsync(run_id, "s", "approve")
    first = await store.DeliverAsync(run_id, "approve", '{"ok": true}')
    second = await store.DeliverAsync(run_id, "approve", '{"ok": false}')
    assert (first.Status, second.Status) == (SignalDeliveryStatus.Delivered, SignalDeliveryStatus.AlreadyDelivered)
    assert (first.StepKey, second.StepKey, second.DeliveredAt) == ("s", "s", first.DeliveredAt)
    waiter = await store.GetWaiterAsync(run_id, "s")
    assert waiter is not None
    assert (waiter.PayloadJson, waiter.DeliveredAt) == ('{"ok": true}', first.DeliveredAt)


async def test_no_waiter_is_NotFound(engine: Engine) -> None:
    """An unknown run, too. Ours: of a run that is there the signal is kept."""
    store, run_id = await started(engine)
    assert (await store.DeliverAsync(str(uuid4()), "approve")).Status == SignalDeliveryStatus.NotFound
    assert (await store.DeliverAsync(run_id, "approve", "1")).Status == SignalDeliveryStatus.NotFound
    assert (await store.RegisterAsync(run_id, "s", "approve")).PayloadJson == "1"


async def test_two_waiters_only_the_matching_one(engine: Engine) -> None:
    store, run_id = await started(engine)
    await store.RegisterAsync(run_id, "a", "approve")
    await store.RegisterAsync(run_id, "b", "reject")
    assert (await store.DeliverAsync(run_id, "reject")).StepKey == "b"
    waiter = await store.GetWaiterAsync(run_id, "a")
    assert waiter is not None
    assert waiter.DeliveredAt is None


async def test_remove_drops_the_row(engine: Engine) -> None:
    store, run_id = await started(engine)
    await store.RegisterAsync(run_id, "s", "approve")
    for _ in range(2):
        await store.RemoveWaiterAsync(run_id, "s")
    assert await store.GetWaiterAsync(run_id, "s") is None


async def test_16_parallel_deliverers_once(engine: Engine) -> None:
    store, run_id = await started(engine)
    await store.RegisterAsync(run_id, "s", "approve")
    stores = engine.stores(FlowSignalStore, 4)
    results = await asyncio.gather(*(stores[n % 4].DeliverAsync(run_id, "approve", str(n)) for n in range(16)))
    assert [each.Status for each in results].count(SignalDeliveryStatus.Delivered) == 1
