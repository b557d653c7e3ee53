"""What must hold of jobs whatever was killed, read from the database and held against the effects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
from tests.chaos.kit import until

from stepwell_server.model.steps import StepState


async def check_jobs(
    url: str, effects: Sequence[dict[str, Any]], job_ids: Iterable[str], *, cancelled: Iterable[str] = ()
) -> Counter[str]:
    """Holds the database against the effects; answers how many grants were attempts, and how many came back unbegun.

    No acknowledged job is lost, none is recorded twice, every one ends, nothing is left lying about. Every effect is
    explained by an attempt, and every second one of an attempt by a grant that came back.
    """
    connection = await asyncpg.connect(url, server_settings={"search_path": "stepwell"})
    try:
        await until(lambda: _is_quiet(connection))
        rows = await connection.fetch("SELECT job_id::text AS job_id, state, attempt, grants FROM closed_jobs")
        jobs = {row["job_id"]: row for row in rows}
        assert len(jobs) == len(rows), "a job is there twice"
        assert set(job_ids) <= set(jobs), "an acknowledged job is lost"
        assert await connection.fetchval("SELECT count(*) FROM job_ids") == len(jobs)
    finally:
        await connection.close()
    stopped = {job_id for job_id, row in jobs.items() if row["state"] == StepState.CANCELLED}
    assert stopped == set(cancelled)
    assert {row["state"] for row in rows} <= {StepState.COMPLETED, StepState.CANCELLED}, "a job did not complete"
    _check_effects(jobs, effects, stopped)
    attempts, grants = sum(row["attempt"] for row in rows), sum(row["grants"] for row in rows)
    return Counter({"attempts": attempts, "unbegun": grants - attempts})


async def _is_quiet(connection: asyncpg.Connection) -> bool:
    left = [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in ("jobs", "tasks")]  # noqa: S608 - ours
    return not any(left)


def _check_effects(jobs: dict[str, asyncpg.Record], effects: Sequence[dict[str, Any]], stopped: set[str]) -> None:
    attempts: dict[str, Counter[int]] = defaultdict(Counter)
    for line in effects:
        if line["kind"] == "job":
            attempts[line["run"]][line["attempt"]] += 1
    assert set(attempts) <= set(jobs), "a job was done that was never recorded"
    for job_id, row in jobs.items():
        done = attempts[job_id]
        assert set(done) <= set(range(1, row["attempt"] + 1)), f"{job_id}: attempts {done} of {row['attempt']}"
        assert job_id in stopped or row["attempt"] in done, f"{job_id} is recorded and its last attempt was never done"
        again, came_back = done.total() - len(done), row["grants"] - row["attempt"]
        assert again <= came_back, f"{job_id}: {again} effects more than attempts, {came_back} grants came back unbegun"
