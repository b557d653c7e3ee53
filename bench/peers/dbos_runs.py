"""DBOS: workflows of three steps, called directly in one process, by threads or by tasks. Run in its own environment.

python dbos_runs.py URL threads|tasks CALLERS SECONDS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import uvloop
from dbos import DBOS

WARM_SECONDS = 1.0
VALUE = {"text": "x" * 89}


@DBOS.step()
def kept(value: dict[str, str]) -> dict[str, str]:
    """Nothing at all."""
    return value


@DBOS.workflow()
def three_steps(value: dict[str, str]) -> dict[str, str]:
    """Three steps, each recorded before the next begins."""
    for _ in range(3):
        value = kept(value)
    return value


@DBOS.step()
async def kept_by_task(value: dict[str, str]) -> dict[str, str]:
    """Nothing at all."""
    return value


@DBOS.workflow()
async def three_steps_by_task(value: dict[str, str]) -> dict[str, str]:
    """Three steps, each recorded before the next begins."""
    for _ in range(3):
        value = await kept_by_task(value)
    return value


def by_threads(callers: int, seconds: float) -> list[float]:
    """Calls from threads; answers when each workflow ended."""
    ends: list[float] = []
    over = time.monotonic() + WARM_SECONDS + seconds

    def call() -> None:
        while time.monotonic() < over:
            three_steps(VALUE)
            ends.append(time.monotonic())

    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(call) for _ in range(callers)]:
            future.result()
    return ends


async def by_tasks(callers: int, seconds: float) -> list[float]:
    """Calls from tasks; answers when each workflow ended."""
    ends: list[float] = []
    over = time.monotonic() + WARM_SECONDS + seconds

    async def call() -> None:
        while time.monotonic() < over:
            await three_steps_by_task(VALUE)
            ends.append(time.monotonic())

    await asyncio.gather(*(call() for _ in range(callers)))
    return ends


def main() -> None:
    """Measures, and prints one line of JSON."""
    url, how, callers, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "sys_db_pool_size": 20,
            "application_version": "bench",
            "executor_id": "bench",
            "log_level": "WARNING",
            "run_admin_server": False,
        }
    )
    DBOS.launch()
    began = time.monotonic()
    ends = by_threads(callers, seconds) if how == "threads" else uvloop.run(by_tasks(callers, seconds))
    opened = began + WARM_SECONDS
    counted = sum(opened <= end < opened + seconds for end in ends)
    DBOS.destroy()
    print(json.dumps({"rate": counted / seconds, "done": len(ends), "cpu_us": time.process_time() / len(ends) * 1e6}))


if __name__ == "__main__":
    main()
