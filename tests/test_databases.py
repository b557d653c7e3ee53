"""A database that a test gave back is lent again only as the template is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from tests.databases import Contents, Database, Databases
from tests.service import serving

SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"


@pytest_asyncio.fixture(scope="module")
async def made(server_url: str, migrated_template: str) -> AsyncIterator[Databases]:
    databases = Databases(server_url, migrated_template)
    await databases.start()
    yield databases
    await databases.close()


async def change(database: Database, script: str) -> None:
    connection = await asyncpg.connect(database.url, server_settings={"search_path": "stepwell"})
    await connection.execute(script)
    await connection.close()


async def test_what_a_test_made_is_gone(made: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.databases.LEAVING_SECONDS", 60.0)
    lent = await made.lend()
    contents, sequences = await Contents.of(lent.connection), await lent.connection.fetch(SEQUENCES)
    async with serving(lent.url) as service:
        await service.end(await service.begin())
        await service.begin(request_id="twice")
    await change(
        lent,
        """
        DELETE FROM namespaces;
        INSERT INTO namespaces (name, create_time) VALUES ('elsewhere', now());
        INSERT INTO run_ids SELECT gen_random_uuid(), 1, number, NULL FROM generate_series(1, 5000) AS number;
        CREATE TABLE events_p2 (LIKE events INCLUDING ALL);
        """,
    )
    await made.give_back(lent)
    again = await made.lend()
    assert again is lent
    assert await Contents.of(again.connection) == contents
    assert await again.connection.fetch(SEQUENCES) == sequences
    await made.give_back(again)


@pytest.mark.parametrize(
    "script",
    [
        "ALTER TABLE runs ADD COLUMN more int",
        "ALTER TABLE run_ids ALTER COLUMN namespace_id TYPE bigint",
        "ALTER TABLE run_ids ALTER COLUMN request_hash SET NOT NULL",
        "ALTER TABLE runs ADD CHECK (version > 0)",
        "ALTER TABLE runs SET (fillfactor = 50)",
        "GRANT SELECT ON runs TO pg_monitor",
        "GRANT USAGE ON SCHEMA stepwell TO pg_monitor",
        "CREATE TABLE public.more ()",
        "CREATE SCHEMA more",
        "CREATE SEQUENCE more",
        "DROP INDEX watchers_topic_idx",
        "CREATE FUNCTION public.more() RETURNS int LANGUAGE sql RETURN 1",
        "INSERT INTO run_ids VALUES (gen_random_uuid(), 1, 1, NULL); ANALYZE run_ids",
        "ANALYZE run_ids",
        "DROP TABLE mail",
    ],
)
async def test_what_differs_is_not_lent_again(made: Databases, script: str) -> None:
    lent = await made.lend()
    await change(lent, script)
    await made.give_back(lent)
    other = await made.lend()
    assert other.name != lent.name
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(lent.url)
    await made.give_back(other)


async def test_what_somebody_is_connected_to_is_not_lent_again(
    made: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.databases.LEAVING_SECONDS", 0.05)
    lent = await made.lend()
    left = await asyncpg.connect(lent.url)
    await made.give_back(lent)
    other = await made.lend()
    assert other.name != lent.name
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await left.fetchval("SELECT 1")
    await made.give_back(other)
