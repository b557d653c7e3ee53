"""Plans of the statements about jobs: keys are looked up, on an empty database as on one that has grown."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.dialects import postgresql
from tests.store.filled import Filled
from tests.store.plans import Part, scans

from stepwell_server.store import statements
from stepwell_server.store.connection import Connection
from stepwell_server.store.jobs import JobFilter, page_query

GROWN = """
INSERT INTO jobs SELECT
    n, 1, gen_random_uuid(), '', 'act', 'q', 4, '', '', '', now(), 0, now(), 1, 0, 0,
    CASE WHEN n % 10 = 0 THEN gen_random_uuid() END, 0, '', NULL, CASE WHEN n % 7 = 0 THEN now() END, NULL, NULL, 0,
    NULL
FROM generate_series(100001, 120000) AS n;
INSERT INTO closed_jobs SELECT
    n, 1, gen_random_uuid(), '', 'act', 'q', 4, '', '', '', now(), 0, now(), 4, 1, 1, now(), NULL, NULL, 0, NULL, now(),
    now() + n * interval '1 s', NULL, NULL
FROM generate_series(1, 100000) AS n;
INSERT INTO job_ids SELECT gen_random_uuid(), 1, n, NULL FROM generate_series(1, 120000) AS n;
INSERT INTO unique_jobs SELECT n::text, 1, n FROM generate_series(1, 120000) AS n;
INSERT INTO job_inputs SELECT n, 'x' FROM generate_series(1, 120000) AS n;
INSERT INTO heartbeats SELECT n, -1, now(), NULL FROM generate_series(100001, 120000) AS n;
ANALYZE;
"""
# The index that each statement must walk.
INDEXES = {
    "find_job_ids": "job_ids_pkey",
    "find_unique_jobs": "unique_jobs_pkey",
    "lock_jobs": "jobs_pkey",
    "read_jobs": "jobs_pkey",
    "read_closed_jobs": "closed_jobs_p1_pkey",
    "read_job_inputs": "job_inputs_p1_pkey",
    "update_unique_jobs": "unique_jobs_pkey",
    "update_jobs": "jobs_pkey",
    "close_jobs": "jobs_pkey",
    "delete_job_heartbeats": "heartbeats_pkey",
    "delete_closed_jobs": "closed_jobs_p1_pkey",
    "read_due_jobs": "jobs_wake_idx",
    "next_job_after": "jobs_wake_idx",
    "read_jobs_of_sessions": "jobs_session_idx",
    "write_job_heartbeats": "jobs_pkey",
    "prune_jobs": "closed_jobs_p1_expire_time_idx",
}
INSERTS = {"insert_job_ids", "insert_unique_jobs", "insert_jobs", "insert_job_inputs"}
JOBS = statements.load("jobs")


@pytest_asyncio.fixture(params=["empty", "grown"])
async def connection(filled: Filled, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection as the hot path has it."""
    async with filled.connected(*[GROWN] * (request.param == "grown"), pinned=True) as made:
        yield made


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from nodes(each)


async def plan_of(connection: Connection, name: str) -> list[dict[str, Any]]:
    """The nodes of the plan that a prepared statement has, whatever its parameters."""
    sql = JOBS[name].sql
    parameters = (await connection.raw.prepare(sql)).get_parameters()
    # An array's type is called by its element's, after an underscore.
    declared = ", ".join(re.sub(r"^_(.*)$", r"\1[]", each.name) for each in parameters)
    await connection.raw.execute(f"PREPARE looked_at ({declared}) AS {sql}")
    given = ", ".join("NULL" for _ in parameters)
    (row,) = await connection.raw.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE looked_at ({given})")
    return list(nodes(json.loads(row[0])[0]["Plan"]))


# --- lists ------------------------------------------------------------------------------------------------------------

LISTS: dict[str, tuple[JobFilter, set[str]]] = {
    "by key": (
        JobFilter(1, unique_key="u"),
        {"unique_jobs_pkey", "closed_jobs_unique_key_idx_p1"},
    ),
    "failed": (JobFilter(1, states=(5,)), {"closed_jobs_unfinished_idx_p1"}),
    "cancelled or failed": (JobFilter(1, states=(7, 5)), {"closed_jobs_unfinished_idx_p1"}),
    "all": (JobFilter(1), {"jobs_pkey", "closed_jobs_p1_pkey"}),
    "running": (JobFilter(1, states=(2,)), {"jobs_pkey"}),
}


# Some have not completed, and one unique key has had three jobs.
LISTED = """
UPDATE closed_jobs SET state = CASE WHEN job_key % 2000 = 0 THEN 7 ELSE 5 END WHERE job_key % 1000 = 0;
UPDATE closed_jobs SET unique_key = 'u' WHERE job_key IN (7, 8);
UPDATE jobs SET unique_key = 'u' WHERE job_key = 100001;
UPDATE jobs SET state = 2 WHERE session_id IS NOT NULL;
INSERT INTO unique_jobs VALUES ('u', 1, 100001, 0);
"""
LOOKED_THROUGH = "VACUUM ANALYZE jobs, closed_jobs, unique_jobs"


@pytest.mark.parametrize("name", LISTS)
async def test_a_page_of_jobs_reads_little_of_what_has_grown(filled: Filled, name: str) -> None:
    """A hundred thousand have completed, a hundred have not, and twenty thousand are open."""
    wanted, indexes = LISTS[name]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    query = page_query(wanted, None, 51, 0).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    async with filled.connected(GROWN, LISTED, LOOKED_THROUGH, pinned=False) as connection:
        raw = connection.raw
        plan = Part(json.loads(await raw.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}"))[0]["Plan"])
        read = scans(plan)
        assert sum(read.values()) <= 1000
        assert indexes <= {index for _, index in read}
        found = await raw.fetch(str(query))
        assert len(found) == {"by key": 3, "failed": 50}.get(name, 51)


def test_every_statement_is_looked_at() -> None:
    assert set(JOBS) == set(INDEXES) | INSERTS


@pytest.mark.parametrize("name", INDEXES)
async def test_a_statement_walks_its_index_and_scans_nothing(connection: Connection, name: str) -> None:
    found = await plan_of(connection, name)
    scanned = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
    assert scanned == set()
    walked = {node["Index Name"] for node in found if "Index Name" in node}
    assert INDEXES[name] in walked
    assert not [node for node in found if node["Node Type"] in ("Hash Join", "Merge Join")]
