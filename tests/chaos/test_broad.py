"""A run of ten thousand activities, whose workers are killed in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.chaos import worker
from tests.chaos.invariants import check
from tests.chaos.kit import Process, connected, free_port, results, stage

COUNT = 10_000
MEGABYTES = 400


def most_megabytes(process: Process) -> int:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_ten_thousand_activities_of_one_run(tmp_path: Path, database_url: str) -> None:
    """Each is recorded once, the sum is right, and neither side grows: what is sent stays within the limits."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with stage(tmp_path, database_url, hold_seconds=0.02) as scene:
        server = await scene.server(port)
        async with connected(address) as (client,):
            workers = [await scene.worker(address, CHAOS_ACTIVITIES="100") for _ in range(2)]
            handle = await client.start_run(worker.broad, COUNT, task_queue=worker.QUEUE)
            for _ in range(2):
                await scene.more(COUNT // 4, seconds=120)
                await workers.pop(0).kill()
                workers.append(await scene.worker(address, CHAOS_ACTIVITIES="100"))
            assert await results([handle], seconds=240) == [worker.expected(COUNT)]
            steps = {step.scope: step.name async for step in handle.steps()}
        seen = await check(database_url, scene.done(), [handle.run_id])
        assert steps == {str(number): "fetch" for number in range(1, COUNT + 1)}
        assert seen["activity interrupted"] + seen["activity returned"] > 0
        assert seen["run interrupted"] > 0
        assert max(most_megabytes(process) for process in [server, *workers]) < MEGABYTES
