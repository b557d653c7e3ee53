"""PgQueuer: bare jobs, enqueued in batches and then drained. Run in its own environment.

python pgqueuer_jobs.py URL JOBS CONSUMERS BATCH
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

VALUE = json.dumps({"text": "x" * 89}).encode()
ENQUEUED = 1_000


async def measure(url: str, jobs: int, consumers: int, batch: int) -> None:
    """Enqueues, drains, and prints one line of JSON."""
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    for first in range(0, jobs, ENQUEUED):
        count = min(ENQUEUED, jobs - first)
        await queries.enqueue(["echo"] * count, [VALUE] * count, [0] * count)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()

    async def drain() -> None:
        own = await asyncpg.connect(url)
        manager = PgQueuer(AsyncpgDriver(own))

        @manager.entrypoint("echo")
        async def echo(job: Job) -> None:
            assert job.payload is not None

        await manager.run(batch_size=batch, mode=QueueExecutionMode.drain)
        await own.close()

    used, began = time.process_time(), time.monotonic()
    await asyncio.gather(*(drain() for _ in range(consumers)))
    seconds, used = time.monotonic() - began, time.process_time() - used
    print(json.dumps({"rate": jobs / seconds, "done": jobs, "cpu_us": used / jobs * 1e6}))


if __name__ == "__main__":
    uvloop.run(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
