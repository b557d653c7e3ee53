"""How many connections a replica opens to Postgres, and what for: never more than docs/operations/size.md says."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from tests.chaos.kit import Stage
from tests.replicas.kit import Fleet, calling, workers

from stepwell_server.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs/operations/size.md"
_ROW = re.compile(r"^\| `stepwell ([a-z ]+)` \| (\d+|`STEPWELL_[A-Z_]+`) \|", re.MULTILINE)
_SEEN = """
    SELECT application_name, count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> ALL($1)
    GROUP BY 1
"""
_BREAK = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'stepwell %'
"""


def documented(settings: Settings) -> dict[str, int]:
    """The most connections of each purpose, with these settings."""
    found = {}
    for purpose, most in _ROW.findall(PAGE.read_text()):
        name = most.strip("`").removeprefix("STEPWELL_").lower()
        found[f"stepwell {purpose}"] = int(most) if most.isdigit() else int(getattr(settings, name))
    return found


class Watched:
    """The most connections of each name that were there at any look."""

    def __init__(self, connection: asyncpg.Connection, others: list[int]) -> None:
        self.most: Counter[str] = Counter()
        self.most_at_once = 0
        self._connection = connection
        self._others = others

    async def look(self) -> None:
        rows = await self._connection.fetch(_SEEN, self._others)
        for name, count in rows:
            self.most[name] = max(self.most[name], count)
        self.most_at_once = max(self.most_at_once, sum(row[1] for row in rows))

    async def look_on(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[tuple[Watched, asyncpg.Connection]]:
    looker, axe = await asyncpg.connect(url), await asyncpg.connect(url)
    # Ours, and the one that the database is lent with.
    others = await looker.fetchval("SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = current_database()")
    seen = Watched(looker, others)
    looking = asyncio.create_task(seen.look_on())
    try:
        yield seen, axe
    finally:
        looking.cancel()
        await asyncio.wait((looking,))
        await looker.close()
        await axe.close()


async def test_a_loaded_replica_keeps_to_what_is_documented(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while all of them are cut and opened again."""
    terms = {"COMMITTERS": "2", "POOL_CONNECTIONS": "3", "CLOCK_ALIGN_SECONDS": "0.2"}
    most = documented(Settings(committers=2, pool_connections=3))
    assert sum(most.values()) > 10
    fleet = Fleet(scene, 1, **terms)
    async with watched(scene.database_url) as (seen, axe):
        await fleet.start()
        address = f"127.0.0.1:{fleet.ports[0]}"
        await workers(scene, address)
        async with calling(monkeypatch, [address], 30) as callers:
            await callers.more(40)
            await axe.fetch(_BREAK)
            await callers.more(40)
            await callers.end()
        assert callers.noticed.errors == []
        assert seen.most.keys() <= most.keys()
        assert all(count <= most[name] for name, count in seen.most.items()), (seen.most, most)
        assert seen.most_at_once <= sum(most.values())
        # What is written there is what there is: each purpose was seen.
        assert seen.most.keys() == most.keys()
        assert seen.most["stepwell committer"] == 2
        await fleet.end(0)
