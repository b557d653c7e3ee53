"""Settings of a queue that a server left behind which knew only a part of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
from tests.stream.kit import ACTIVITY, capacity, replica, until
from tests.stream.test_aging import update
from tests.stream.wire import wire

from stepwell.v1.task_queues_pb2 import Fairness, RateLimit

AS_BEFORE = "UPDATE stepwell.queue_settings SET fairness_weights = NULL, version = version + 1, update_time = $1"


async def test_a_limit_of_keys_goes_with_their_turns(database_url: str) -> None:
    """A server without limits of keys ends their turns: what is queued then has no key, and is given all the same."""
    sql = await asyncpg.connect(database_url)
    async with replica(database_url, queue_settings_seconds=0.05) as one:
        queues = one.service.dispatcher.queues
        limit = RateLimit(per_second=1000, burst=1000)
        await update(one, "fairness", "key_rate_limit", fairness=Fairness(), key_rate_limit=limit)
        await until(lambda: queues.weights_of(1, "q") is not None)
        # Longer ago than what is queued late is looked for.
        await sql.execute(AS_BEFORE, one.service.clock.now() - timedelta(hours=1))
        await until(lambda: queues.weights_of(1, "q") is None)
        job_id = await one.start_job()
        async with asyncio.timeout(20), wire(one, capacity=capacity(activities=1)) as stream:
            assert (await stream.task(ACTIVITY)).job_id == job_id
        assert not queues.is_limited(1, "q")
    await sql.close()
