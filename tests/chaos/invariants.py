"""What must hold whatever was killed and cut, read from the database and held against the effects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
from tests.chaos.kit import until

from stepwell.v1 import types_pb2


async def check(url: str, effects: Sequence[dict[str, Any]], run_ids: Iterable[str]) -> Counter[str]:
    """Holds the database against the effects; answers how often which event was recorded.

    Nothing acknowledged is lost, nothing is recorded twice, every run ends, nothing is left lying about, and every
    second effect is explained by an interruption in history.
    """
    connection = await asyncpg.connect(url, server_settings={"search_path": "stepwell"})
    try:
        await until(lambda: _is_quiet(connection))
        rows = await connection.fetch(
            "SELECT c.run_key, c.run_id::text AS run_id, c.phase FROM closed_runs AS c ORDER BY c.run_key"
        )
        runs = {row["run_key"]: row["run_id"] for row in rows}
        assert len(set(runs.values())) == len(rows), "a run is there twice"
        assert set(run_ids) <= set(runs.values()), "an acknowledged run is lost"
        assert {row["phase"] for row in rows} == {4}, "a run did not complete"
        return await _check_steps(connection, runs, effects)
    finally:
        await connection.close()


async def _is_quiet(connection: asyncpg.Connection) -> bool:
    """Whether no run is open, and nothing waits."""
    left = [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in ("runs", "steps", "tasks", "mail")]  # noqa: S608 - ours
    return not any(left)


async def _check_steps(
    connection: asyncpg.Connection, runs: dict[int, str], effects: Sequence[dict[str, Any]]
) -> Counter[str]:
    steps = await connection.fetch("SELECT run_key, ordinal, kind, name, state FROM closed_steps")
    assert len({(row["run_key"], row["ordinal"]) for row in steps}) == len(steps), "a step has two closed rows"
    events = await connection.fetch("SELECT run_key, number, type, step_ordinal FROM events ORDER BY run_key, number")
    numbers: dict[int, list[int]] = defaultdict(list)
    interrupted: Counter[tuple[int, int]] = Counter()
    ends: Counter[tuple[int, int]] = Counter()
    for row in events:
        numbers[row["run_key"]].append(row["number"])
        key = (row["run_key"], row["step_ordinal"])
        interrupted[key] += row["type"] in _INTERRUPTIONS
        ends[key] += row["type"] in _STEP_ENDS
    for run_key, found in numbers.items():
        assert found == list(range(1, len(found) + 1)), f"history of {runs[run_key]} has gaps"
    assert max(ends.values(), default=1) == 1, "a step's end is recorded twice"
    _check_effects(runs, steps, interrupted, effects)
    return Counter(_NAMES.get(row["type"], "other") for row in events)


def _check_effects(
    runs: dict[int, str],
    steps: Sequence[asyncpg.Record],
    interrupted: Counter[tuple[int, int]],
    effects: Sequence[dict[str, Any]],
) -> None:
    by_task = Counter((line["run"], line["step"]) for line in effects if line["kind"] in ("activity", "step"))
    for row in steps:
        run_id, key = runs[row["run_key"]], (row["run_key"], row["ordinal"])
        if row["kind"] == types_pb2.STEP_KIND_ACTIVITY:
            count, explained = by_task[run_id, str(row["ordinal"])], 1 + interrupted[key]
        elif row["kind"] == types_pb2.STEP_KIND_LOCAL:
            # A checkpoint is done again when its run is.
            count, explained = by_task[run_id, row["name"]], 1 + interrupted[row["run_key"], 0]
        else:
            continue
        assert count >= 1, f"{row['name']} of {run_id} is recorded and was never done"
        assert count <= explained, f"{row['name']} of {run_id} was done {count} times, {explained - 1} interruptions"


_RUN_INTERRUPTED, _RUN_RETURNED, _ATTEMPT_FAILED, _INTERRUPTED, _RETURNED = 12, 16, 34, 35, 36


_INTERRUPTIONS = {_RUN_INTERRUPTED, _RUN_RETURNED, _ATTEMPT_FAILED, _INTERRUPTED, _RETURNED}


_STEP_ENDS = {20, 21, 22, 23, 31, 32, 33, 41, 42, 51, 52, 53, 61, 62, 63, 70}


_NAMES = {
    _RUN_INTERRUPTED: "run interrupted",
    _RUN_RETURNED: "run returned",
    _ATTEMPT_FAILED: "attempt failed",
    _INTERRUPTED: "activity interrupted",
    _RETURNED: "activity returned",
}
