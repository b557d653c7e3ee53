"""Each named statement's plan: by the indexes that it names, on empty tables and on such as have a million rows.

A plan that is right for a table of yesterday may be wrong for that of today, and connections keep theirs. So a
statement counts as sound only if both plans are the same few look-ups. All statements there are, are looked at: one
that is new needs no line here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from tests.store.filled import Filled

from stepwell_server.store import statements
from stepwell_server.store.statements import Statement

# Two thousand rows of anything in each table, of which the planner is told that they are a million.
GROWN = """
DO $$
DECLARE
    each record;
BEGIN
    FOR each IN
        SELECT c.relname, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS names,
            string_agg(
                CASE WHEN a.attnotnull THEN v.value ELSE 'CASE WHEN n % 10 = 0 THEN ' || v.value || ' END' END,
                ', ' ORDER BY a.attnum
            ) AS made
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = ''
        CROSS JOIN LATERAL (
            SELECT CASE format_type(a.atttypid, NULL)
                WHEN 'bigint' THEN 'n' WHEN 'integer' THEN 'n' WHEN 'numeric' THEN 'n'
                WHEN 'double precision' THEN 'n' WHEN 'smallint' THEN '(n % 7)::smallint'
                WHEN 'text' THEN '''x'' || n' WHEN 'uuid' THEN 'gen_random_uuid()' WHEN 'boolean' THEN 'n % 2 = 0'
                WHEN 'bytea' THEN '''x''::bytea' WHEN 'timestamp with time zone' THEN 'now() + n * interval ''1 s'''
                ELSE '''{}''::' || format_type(a.atttypid, NULL)
            END AS value
        ) AS v
        WHERE c.relnamespace = 'stepwell'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND c.relname NOT IN ('namespaces', 'inbox_limits', 'stepwell_schema', 'stepwell_version')
        GROUP BY c.relname
    LOOP
        EXECUTE format(
            'INSERT INTO %I (%s) SELECT %s FROM generate_series(1, 2000) AS n', each.relname, each.names, each.made
        );
    END LOOP;
END
$$;
ANALYZE;
UPDATE pg_class SET reltuples = reltuples * 500
WHERE relnamespace = 'stepwell'::regnamespace AND relkind = 'r' AND reltuples > 0;
"""
# Statements that read all of something, and why that is little.
WHOLE = {
    "read_backlog": {"tasks_build_idx"},  # begins at the first sort, and hops
    "read_lost_holders": {"jobs_session_idx", "runs_session_idx", "steps_session_idx"},  # likewise
    "prune_signals": {"signals_pkey"},  # in slices, once an hour
    "read_undelivered": {"topic_events_number_idx"},  # only events that are on their way stand in it
    "prune_rounds": {"concurrency_rounds_pkey"},  # a row a limit whose keys go in turn
    "read_expired_sessions": {"sessions"},  # a row a worker
}
# About the catalogue.
ELSEWHERE = {"bundle", "partitions"}


def planned() -> list[Statement]:
    nouns = (noun for noun in statements.nouns() if noun not in ELSEWHERE)
    found = (statement for noun in nouns for statement in statements.load(noun).values())
    return [statement for statement in found if not statement.sql.startswith("COPY ")]


async def plan_of(raw: asyncpg.Connection, statement: Statement) -> list[dict[str, Any]]:
    """The nodes of its plan for whatever may come, as connections keep it."""
    parameters = (await raw.prepare(statement.sql)).get_parameters()
    # An array's type is called by its element's, after an underscore.
    types = ", ".join(re.sub(r"^_(.*)$", r"\1[]", each.name) for each in parameters)
    given = ", ".join("NULL" for _ in parameters)
    await raw.execute(f"PREPARE planned {f'({types})' if types else ''} AS {statement.sql}")
    explained = await raw.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned {f'({given})' if given else ''}")
    await raw.execute("DEALLOCATE planned")
    return list(_nodes(json.loads(explained)[0]["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


def faults(statement: Statement, plan: list[dict[str, Any]]) -> set[str]:
    """What its plan does beside looking up by the indexes that its comment names."""
    found: set[str] = set()
    whole = WHOLE.get(statement.name, set())
    for node in plan:
        kind, index = node["Node Type"], node.get("Index Name", "")
        if kind == "Seq Scan" and node["Relation Name"] not in whole:
            found.add(f"reads all of {node['Relation Name']}")
        if kind in {"Hash Join", "Merge Join"}:
            found.add(kind)
        if index and "Index Cond" not in node and index not in whole:
            found.add(f"walks all of {index}")
        is_partition = re.search(r"_(p1|rest)_", index) and "partition" in statement.comment
        if index and index not in statement.comment and not is_partition:
            found.add(f"walks {index}, and does not say so")
    return found


@pytest.mark.parametrize("is_grown", [False, True], ids=["empty", "grown"])
async def test_every_statement_looks_up_by_the_indexes_that_it_names(filled: Filled, is_grown: bool) -> None:
    async with filled.connected(*[GROWN] * is_grown, pinned=True) as connection:
        plans = {each: await plan_of(connection.raw, each) for each in planned()}
    assert len(plans) > 100
    found = {f"{each.noun}.{each.name}": faults(each, plan) for each, plan in plans.items()}
    assert {name: told for name, told in found.items() if told} == {}


async def test_a_look_by_ordinal_passes_no_other_steps(filled: Filled) -> None:
    """Nor does a signal's: a run may have ten thousand of either."""
    async with filled.connected(pinned=True) as connection:
        for noun, name in (
            ("steps", "read_steps"),
            ("steps", "update_steps"),
            ("steps", "delete_steps"),
            ("steps", "write_heartbeats"),
            ("signals", "consume_signals"),
        ):
            for node in await plan_of(connection.raw, statements.load(noun)[name]):
                assert "Filter" not in node or "Index Name" not in node, name
                if node.get("Relation Name") == noun and "Index Name" in node:
                    assert node["Index Name"] == f"{noun}_pkey"
                    assert "ordinal" in node["Index Cond"]
