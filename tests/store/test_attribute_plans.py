"""Lists of runs by search attributes look at as many runs as they show, on an empty database as on a grown one."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql import asyncpg as dialects
from tests.store.filled import Filled
from tests.store.plans import Part, explained, scans

from stepwell_server.api.filters import read_filter
from stepwell_server.model.runs import LISTED
from stepwell_server.settings import Limits
from stepwell_server.store import run_lists, search_attributes
from stepwell_server.store.run_lists import RunFilter
from stepwell_server.store.search_attributes import ATTRIBUTES

# A hundred thousand ended runs, each with three attributes: one value is everybody's, one is rare, one is its own.
# The statistics are of all rows: those of a random sample made one plan in many another one.
RUNS = 100_000
GROW = f"""
INSERT INTO closed_runs
SELECT
    n, 1, gen_random_uuid(), '', 't', 'q', 4, FALSE, TRUE, NULL, 0, '', '', '', now(), NULL, 4, 1, 2, 0, 0, 0, '', 0,
    NULL, NULL, '', now(), 2, NULL
FROM generate_series(1, {RUNS}) AS n;
INSERT INTO search_attributes SELECT n, 'env', 1, 1, 'prod', NULL, NULL FROM generate_series(1, {RUNS}) AS n;
INSERT INTO search_attributes
SELECT n, 'tenant', 1, 1, 'tenant' || (n / 20), NULL, NULL FROM generate_series(1, {RUNS}) AS n;
INSERT INTO search_attributes SELECT n, 'score', 1, 3, NULL, n, NULL FROM generate_series(1, {RUNS}) AS n;
INSERT INTO search_attributes SELECT n, 'part', 1, 1, 'a', NULL, NULL FROM generate_series(1, {RUNS}, 200) AS n;
SET default_statistics_target = 1200;
ANALYZE;
"""  # noqa: S608 - a number from above
# What one page of twenty may read of the runs, and of their attributes.
LOOKS: dict[str, tuple[int | None, int, int]] = {
    "attribute.tenant = tenant7": (None, 20, 20),
    "attribute.tenant = tenant7 AND attribute.env = prod": (None, 40, 60),
    "attribute.score > 99990.5": (None, 10, 10),
    "attribute.score >= 500 AND attribute.score < 510": (None, 100, 20),
    "attribute.env = prod": (None, 200, 200),
    "attribute.env = prod AND NOT attribute.tenant = tenant7": (None, 200, 400),
    "attribute.none = 1": (None, 0, 0),
    "attribute.tenant = tenant70*": (None, 600, 600),
    # A later page: as much as the first.
    "attribute.part = a": (50_000, 20, 20),
}


async def plan_of(raw: asyncpg.Connection, text: str, before: int | None) -> Part:
    """How one page is read, as the pool asks for it: with the values at hand."""
    wanted = RunFilter(1, where=read_filter(text, LISTED, Limits()))
    place = None if before is None else (before,)
    (_, closed) = await run_lists._parts(None, wanted, (), place, 20)  # type: ignore[arg-type] # no parent is asked for
    compiled = closed.element.compile(dialect=dialects.dialect(), compile_kwargs={"render_postcompile": True})  # type: ignore[no-untyped-call]
    values = [compiled.params[name] for name in compiled.positiontup]  # type: ignore[union-attr]
    rows = await raw.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {compiled}", *values)
    return Part(json.loads(rows[0][0])[0]["Plan"])


@pytest.mark.parametrize("grown", [False, True], ids=["empty", "grown"])
async def test_a_page_reads_what_it_shows(filled: Filled, grown: bool) -> None:
    async with filled.connected(*[GROW] * grown, pinned=False) as connection:
        for text, (before, runs, attributes) in LOOKS.items():
            read = scans(await plan_of(connection.raw, text, before))
            of_runs = sum(rows for (table, _), rows in read.items() if table.startswith("closed_runs"))
            of_attributes = sum(rows for (table, _), rows in read.items() if table == "search_attributes")
            assert (of_runs <= runs, of_attributes <= attributes) == (True, True), (text, read)


WRITTEN: dict[str, tuple[tuple[Any, ...], int]] = {
    "read_search_attributes": (([1, 50_000, 200_000],), 7),
    "hold_closed_runs": (([1, 50_000, 200_000],), 2),
    "delete_search_attributes": (([1, 2], ["env", "none"]), 1),
}


@pytest.mark.parametrize("name", WRITTEN)
async def test_batches_look_keys_up(filled: Filled, name: str) -> None:
    assert search_attributes.ATTRIBUTES is ATTRIBUTES
    arguments, rows = WRITTEN[name]
    async with filled.connected(GROW, pinned=True) as connection:
        read = scans(await explained(connection.raw, ATTRIBUTES[name], *arguments))
        assert sum(read.values()) <= rows, read
