"""Runs that wait for their next attempt while the service is killed: the wait goes on, and so does the run."""

from __future__ import annotations

import functools
from datetime import datetime

from tests.chaos import worker
from tests.chaos.kit import Stage, connected, free_port, results
from tests.stream.kit import until

from stepwell import RetryPolicy, RunHandle

DELAY_SECONDS = 8.0
FAILED = "RunAttemptFailed"


async def _next_attempt(handle: RunHandle[int]) -> datetime | None:
    """When the run begins anew, once an attempt has failed."""
    times = [event.attributes["next_attempt_time"] async for event in handle.history() if event.type == FAILED]
    return datetime.fromisoformat(times[0]) if times else None


async def test_the_service_killed_while_runs_wait_for_their_next_attempt(scene: Stage) -> None:
    """Nothing of the policy was in its memory: each run begins anew when it should, once, and not before."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    server = await scene.server(port)
    policy = RetryPolicy(initial_interval=DELAY_SECONDS, maximum_attempts=2)
    async with connected(address) as (client,):
        await scene.worker(address)
        handles = [await client.start_run(worker.stumbling, 1, task_queue=worker.QUEUE, retry=policy) for _ in range(5)]
        begin: dict[str, datetime] = {}
        for handle in handles:
            begin[handle.run_id] = await until(functools.partial(_next_attempt, handle))
        await server.kill()
        begun = [line for line in scene.done("step") if line["step"] == "attempt 2"]
        assert len(begun) < len(handles), "all had begun anew before the kill"
        await scene.server(port)
        assert await results(handles) == [2] * len(handles)
        for handle in handles:
            kinds = [event.type async for event in handle.history()]
            assert (kinds.count(FAILED), kinds.count("StepCompleted")) == (1, 2)
    for handle in handles:
        steps = [line for line in scene.done("step") if line["run"] == handle.run_id]
        assert {line["step"] for line in steps} == {"attempt 1", "attempt 2"}
        assert min(line["time"] for line in steps if line["step"] == "attempt 2") >= begin[handle.run_id].timestamp()
