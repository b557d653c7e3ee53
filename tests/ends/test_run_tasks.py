"""Tasks of driven runs on a clock that the test moves: a worker keeps what it says that it is at."""

from __future__ import annotations

from tests.api.stores import Store, create, span
from tests.ends.conftest import Advance
from tests.stream.kit import Replica


async def test_a_dispatch_lease_is_renewed_by_its_worker(one: Replica, advance: Advance) -> None:
    """And by nobody else; what was not renewed is stale."""
    store = Store(one, "run")
    run_id = await create(one, task_queue="q")
    await store.call("MarkRunDispatchable", run_id=run_id)
    assert (await store.call("ClaimRunTask", task_queue="q", worker_id="a")).claimed
    await advance(60)
    assert not (await store.call("RenewRunTask", run_id=run_id, worker_id="b")).renewed
    assert (await store.call("RenewRunTask", run_id=run_id, worker_id="a")).renewed
    assert (await store.call("ReleaseStaleRunTasks", timeout=span(30))).released_count == 0
    await advance(60)
    assert (await store.call("ReleaseStaleRunTasks", timeout=span(30))).released_count == 1
    assert not (await store.call("RenewRunTask", run_id=run_id, worker_id="a")).renewed
