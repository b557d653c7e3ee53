"""How the database goes about a named statement: its generic plan, carried out, and what each part of it read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg

from stepwell_server.store.statements import Statement


class Part:
    """A node of a plan, and those below it."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.node = node

    def parts(self) -> Iterator[Part]:
        yield self
        for below in self.node.get("Plans", ()):
            yield from Part(below).parts()

    @property
    def kind(self) -> str:
        return str(self.node["Node Type"])

    @property
    def rows(self) -> int:
        """How many rows it gave in all, and threw away."""
        each: float = self.node["Actual Rows"] + self.node.get("Rows Removed by Filter", 0)
        return int(each * self.node["Actual Loops"] + 0.5)

    @property
    def scan(self) -> tuple[str, str]:
        """The table and the index that it walks; the index is empty where there is none."""
        return self.node["Relation Name"], self.node.get("Index Name", "")


async def explained(raw: asyncpg.Connection, statement: Statement, *arguments: Any) -> Part:
    """Carries a statement out as the service has it prepared: for whatever may come, not for these arguments."""
    written = ", ".join(_literal(each) for each in arguments)
    await raw.execute("SET plan_cache_mode = force_generic_plan")
    await raw.execute(f"PREPARE explained AS {statement.sql}")
    try:
        explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE explained({written})"
        return Part(json.loads(await raw.fetchval(explain))[0]["Plan"])
    finally:
        await raw.execute("DEALLOCATE explained")


def scans(plan: Part) -> dict[tuple[str, str], int]:
    """How many rows were read of each table by each index."""
    found: dict[tuple[str, str], int] = {}
    for part in plan.parts():
        if "Relation Name" in part.node:
            found[part.scan] = found.get(part.scan, 0) + part.rows
    return found


def _literal(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return _literal("{" + ",".join(f'"{each}"' for each in value) + "}")
    return "'" + str(value).replace("'", "''") + "'"
