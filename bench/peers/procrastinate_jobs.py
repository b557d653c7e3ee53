"""Procrastinate: bare jobs, deferred in batches and then drained by one worker. Run in its own environment.

python procrastinate_jobs.py URL JOBS CONCURRENCY
"""

from __future__ import annotations

import json
import sys
import time

import procrastinate
import psycopg
import uvloop

VALUE = "x" * 89
BATCH = 1_000


async def measure(url: str, jobs: int, concurrency: int) -> None:
    """Defers, drains, and prints one line of JSON."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, min_size=1, max_size=20))

    @app.task(queue="bench")
    async def echo(text: str) -> str:
        return text

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for first in range(0, jobs, BATCH):
            await echo.batch_defer_async(*[{"text": VALUE} for _ in range(first, min(first + BATCH, jobs))])
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("VACUUM ANALYZE")
        used, began = time.process_time(), time.monotonic()
        await app.run_worker_async(
            queues=["bench"],
            wait=False,
            concurrency=concurrency,
            listen_notify=False,
            install_signal_handlers=False,
        )
        seconds, used = time.monotonic() - began, time.process_time() - used
    print(json.dumps({"rate": jobs / seconds, "done": jobs, "cpu_us": used / jobs * 1e6}))


if __name__ == "__main__":
    uvloop.run(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
