"""The workers' process: performs all that bench/programs.py defines, until its standard input ends."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys

from bench.programs import ACTIVITIES, QUEUE, WORKFLOWS, run
from stepwell import Client, Worker


async def work(address: str, namespace: str, slots: int, resident: int, count: int) -> None:
    """Connects workers with so many slots each, says so, and performs."""
    workers = []
    for _ in range(count):
        client = await Client.connect(address, namespace=namespace, connect_timeout=30)
        workers.append(
            Worker(
                client,
                QUEUE,
                workflows=WORKFLOWS,
                activities=ACTIVITIES,
                max_activities=slots,
                max_runs=slots,
                max_resident_runs=resident,
            )
        )
    performing = [asyncio.create_task(worker.run()) for worker in workers]
    await asyncio.to_thread(print, json.dumps({"event": "ready"}), flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    for worker in workers:
        worker.shutdown()
    await asyncio.gather(*performing)


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--namespace", default="main")
    parser.add_argument("--slots", type=int, default=1_000)
    parser.add_argument("--resident", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    # As docs/performance.md advises programs that do nothing but work.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    run(work(given.address, given.namespace, given.slots, given.resident, given.workers))


if __name__ == "__main__":
    main()
