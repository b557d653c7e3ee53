"""What the database says of a load: exactly as many ends as starts, none twice, nothing left open."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

_COMPLETED = 4  # model.runs.Phase and model.steps.StepState agree
_RUN_COMPLETED = 2  # model.events.EventType

_RUNS = """
    SELECT count(*) AS ended, count(DISTINCT run_id) AS ids, count(*) FILTER (WHERE phase = $2) AS completed
    FROM stepwell.closed_runs WHERE type = $1
"""
_OPEN_RUNS = "SELECT count(*) FROM stepwell.runs WHERE type = $1"
_STEPS = """
    SELECT count(*) FROM stepwell.closed_steps s JOIN stepwell.closed_runs r USING (run_key)
    WHERE r.type = $1 AND s.state = $2
"""
_ENDS = """
    SELECT count(*) AS ends, count(DISTINCT e.run_key) AS runs
    FROM stepwell.events e JOIN stepwell.closed_runs r USING (run_key) WHERE r.type = $1 AND e.type = $2
"""
_JOBS = """
    SELECT count(*) AS ended, count(DISTINCT job_id) AS ids, count(*) FILTER (WHERE state = $1) AS completed
    FROM stepwell.closed_jobs
"""
_OPEN_JOBS = "SELECT count(*) FROM stepwell.jobs"


class CheckError(RuntimeError):
    """The database does not hold what was done; a figure of it would be worth nothing."""


@dataclass
class Expected:
    """What loads have begun so far, by the type of run; and jobs."""

    runs: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    jobs: int = 0

    def add_runs(self, kind: str, count: int, steps: int) -> None:
        """Runs of a type, and the steps of them all."""
        self.runs[kind] = self.runs.get(kind, 0) + count
        self.steps[kind] = self.steps.get(kind, 0) + steps


async def check(url: str, expected: Expected) -> None:
    """Compares. Raises `CheckError`, which says what is missing or too much."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        for kind, count in expected.runs.items():
            found = await connection.fetchrow(_RUNS, kind, _COMPLETED)
            is_open = await connection.fetchval(_OPEN_RUNS, kind)
            _compare(f"runs of {kind}", count, found, is_open)
            ends = await connection.fetchrow(_ENDS, kind, _RUN_COMPLETED)
            if ends is None or tuple(ends) != (count, count):
                raise CheckError(f"{kind}: {count} runs have {ends} events of completion")
            steps = await connection.fetchval(_STEPS, kind, _COMPLETED)
            if steps != expected.steps[kind]:
                raise CheckError(f"{kind}: {steps} steps are recorded, not {expected.steps[kind]}")
        if expected.jobs:
            found = await connection.fetchrow(_JOBS, _COMPLETED)
            _compare("jobs", expected.jobs, found, await connection.fetchval(_OPEN_JOBS))
    finally:
        await connection.close()


def _compare(what: str, count: int, found: asyncpg.Record | None, is_open: int) -> None:
    if found is None or tuple(found) != (count, count, count) or is_open:
        raise CheckError(
            f"{count} {what} were started; recorded are (ended, different ids, completed) {found and tuple(found)}, "
            f"and {is_open} are open"
        )
