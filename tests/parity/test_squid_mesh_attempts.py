"""SquidMesh's `AttemptStore`: its contract cases (C.4) by name."""

from __future__ import annotations

import asyncio

import pytest
from tests.parity.cases import Engine

from stepwell import reasons
from stepwell.stores.squid_mesh import AttemptStore


async def test_attempts_are_numbered(engine: Engine) -> None:
    """1 and 2; the count is 2, and the latest the second."""
    store, run_id = engine.store(AttemptStore), await engine.create()
    assert (await store.attempt_count(run_id, "s"), await store.latest_attempt(run_id, "s")) == (0, None)
    first = await store.begin_attempt(run_id, "s")
    await store.fail_attempt(run_id, "s", {"message": "boom", "code": 7})
    failed = await store.latest_attempt(run_id, "s")
    assert failed is not None
    assert (failed.attempt_number, failed.status, failed.error) == (1, "failed", {"message": "boom", "code": 7})
    second = await store.begin_attempt(run_id, "s")
    assert (first.attempt_number, second.attempt_number, second.status) == (1, 2, "running")
    assert await store.attempt_count(run_id, "s") == 2
    latest = await store.latest_attempt(run_id, "s")
    assert latest is not None
    assert (latest.attempt_number, latest.status, latest.error) == (2, "running", None)


async def test_concurrent_begins_have_numbers_of_their_own(engine: Engine) -> None:
    """Four, over four connections and two replicas."""
    run_id = await engine.create()
    begun = await asyncio.gather(*(store.begin_attempt(run_id, "s") for store in engine.stores(AttemptStore, 4)))
    assert {each.attempt_number for each in begun} == {1, 2, 3, 4}


async def test_fail_after_complete_is_stale(engine: Engine) -> None:
    store, other = engine.stores(AttemptStore, 2)
    run_id = await engine.create()
    await store.begin_attempt(run_id, "s")
    await store.complete_attempt(run_id, "s")
    with pytest.raises(reasons.StepStateConflict) as refused:
        await other.fail_attempt(run_id, "s", {"message": "late"})
    assert refused.value.metadata["state"] == "COMPLETED"
    latest = await other.latest_attempt(run_id, "s")
    assert latest is not None
    assert (latest.status, latest.error) == ("completed", None)
    with pytest.raises(reasons.StepNotFound):
        await store.complete_attempt(run_id, "unknown")
