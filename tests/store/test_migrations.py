"""Migrations are applied once, in order, whole, and only by one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from stepwell_server.store.migrations import Migration, MigrationError, Patience, Standing, check, migrate, shipped

FIRST = Migration(1, "first", "CREATE TABLE things (n int); SELECT pg_sleep(0.2); INSERT INTO things VALUES (1);")
SECOND = Migration(2, "second", "-- stepwell: min-server 2\nALTER TABLE things ADD COLUMN m int;")
ONLINE = Migration(
    3,
    "online",
    "-- stepwell: no-transaction\n-- A comment; with a semicolon.\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_n ON things (n);\n"
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_m ON things (m);\n",
)
ALL = (FIRST, SECOND, ONLINE)


async def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def wait_for_waiters(connection: asyncpg.Connection, *, present: bool) -> None:
    query = """
        SELECT count(*) > 0 FROM pg_locks
        WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
    while await connection.fetchval(query) is not present:  # noqa: ASYNC110 - only the database knows
        await asyncio.sleep(0.01)


async def test_what_is_shipped_applies(empty_database_url: str) -> None:
    """The package's own files bring an empty database up to date, and a second time do nothing."""
    first = await migrate(empty_database_url)
    assert first.numbers == tuple(range(1, len(shipped()) + 1))
    assert (await migrate(empty_database_url)).numbers == ()
    assert (await check(empty_database_url)).standing is Standing.UP_TO_DATE


async def test_several_at_once_apply_each_file_once(empty_database_url: str) -> None:
    """One works, the others find nothing to do, and waiting does not deadlock with an index build."""
    results = await asyncio.gather(*(migrate(empty_database_url, migrations=ALL) for _ in range(6)))
    assert sorted(result.numbers for result in results) == [(), (), (), (), (), (1, 2, 3)]
    assert {result.version for result in results} == {3}
    assert len(await fetch(empty_database_url, "SELECT * FROM stepwell.things")) == 1


async def test_what_is_new_is_added(empty_database_url: str) -> None:
    """A later server applies only what the earlier one lacked, and the record says what."""
    await migrate(empty_database_url, migrations=ALL[:1])
    applied = await migrate(empty_database_url, migrations=ALL)
    assert (applied.from_version, applied.version, applied.numbers) == (1, 3, (2, 3))
    rows = await fetch(
        empty_database_url, "SELECT number, name, checksum FROM stepwell.stepwell_schema ORDER BY number"
    )
    assert rows == [(migration.number, migration.name, migration.checksum) for migration in ALL]


async def test_a_changed_file_is_refused(empty_database_url: str) -> None:
    """What was applied is not edited afterwards; line ends of a checkout are no edit."""
    await migrate(empty_database_url, migrations=ALL)
    windows = tuple(replace(migration, sql=migration.sql.replace("\n", "\r\n")) for migration in ALL)
    assert (await migrate(empty_database_url, migrations=windows)).numbers == ()
    with pytest.raises(MigrationError, match="0001_first was changed"):
        await migrate(empty_database_url, migrations=(replace(FIRST, sql="SELECT 1"), SECOND, ONLINE))


async def test_a_failing_file_leaves_nothing(empty_database_url: str) -> None:
    """A migration is applied as a whole or not at all, and those before it stay."""
    broken = Migration(2, "broken", "CREATE TABLE half (); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_database_url, migrations=(FIRST, broken))
    assert (await check(empty_database_url, server=2)).version == 1
    assert await fetch(empty_database_url, "SELECT to_regclass('stepwell.half') IS NULL AS gone") == [(True,)]
    assert (await migrate(empty_database_url, migrations=ALL)).numbers == (2, 3)


async def test_schemas_live_side_by_side(empty_database_url: str) -> None:
    """Two deployments in one database do not see each other."""
    await asyncio.gather(*(migrate(empty_database_url, schema=name, migrations=ALL) for name in ("one", "other")))
    await migrate(empty_database_url, schema="third", migrations=ALL[:1])
    assert (await check(empty_database_url, schema="one", server=3)).standing is Standing.UP_TO_DATE
    assert (await check(empty_database_url, schema="third", server=3)).standing is Standing.BEHIND


@pytest.mark.parametrize(
    ("server", "standing", "may_run", "advice"),
    [
        (1, Standing.TOO_NEW, False, "upgrade the server"),
        (2, Standing.AHEAD, True, "upgrade the server when convenient"),
        (3, Standing.UP_TO_DATE, True, "up to date"),
        (4, Standing.BEHIND, False, "run `stepwell-server migrate`"),
    ],
)
async def test_the_window(empty_database_url: str, server: int, standing: Standing, may_run: bool, advice: str) -> None:
    """A server within [min_server, version] runs; one outside is told what to do."""
    await migrate(empty_database_url, migrations=ALL)
    window = await check(empty_database_url, server=server)
    assert (window.standing, window.may_run) == (standing, may_run)
    assert window.advice.endswith(advice) or advice in window.advice


async def test_an_empty_database_is_behind(empty_database_url: str) -> None:
    """Checking makes nothing."""
    assert (await check(empty_database_url, server=1)).standing is Standing.BEHIND
    assert await fetch(empty_database_url, "SELECT to_regnamespace('stepwell') IS NULL AS untouched") == [(True,)]


async def test_an_older_server_leaves_a_newer_schema_alone(empty_database_url: str) -> None:
    """Migrating with an older server does nothing."""
    await migrate(empty_database_url, migrations=ALL)
    applied = await migrate(empty_database_url, migrations=ALL[:2])
    assert (applied.numbers, applied.version) == ((), 3)


async def test_a_busy_table_is_waited_for_in_short_turns(empty_database_url: str) -> None:
    """A migration whose lock is held gives way after its timeout and succeeds once the holder is done."""
    await migrate(empty_database_url, migrations=ALL[:1])
    holder = await asyncpg.connect(empty_database_url)
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("LOCK TABLE stepwell.things IN ACCESS SHARE MODE")
        migration = asyncio.create_task(migrate(empty_database_url, migrations=ALL[:2], patience=Patience(0.2)))
        async with asyncio.timeout(60):
            await wait_for_waiters(holder, present=True)
            await wait_for_waiters(holder, present=False)
        assert not migration.done()
        await transaction.rollback()
        assert (await migration).numbers == (2,)
    finally:
        await holder.close()


async def test_a_statement_that_holds_locks_for_long_is_undone(empty_database_url: str) -> None:
    """Whoever gives it again may allow it more time."""
    with pytest.raises(
        MigrationError, match=r"0001_first would have held its locks for longer than 0.1 s and was undone"
    ):
        await migrate(empty_database_url, migrations=ALL, patience=Patience(statement_seconds=0.1))
    assert (await check(empty_database_url, server=3)).version == 0
    assert (await migrate(empty_database_url, migrations=ALL)).numbers == (1, 2, 3)


async def test_a_file_that_was_mended_names_what_it_was(empty_database_url: str) -> None:
    """A database that applied the former text goes on; any other text is still refused."""
    await migrate(empty_database_url, migrations=ALL)
    mended = replace(SECOND, sql=f"-- stepwell: was {SECOND.checksum}\nALTER TABLE things ADD COLUMN m int;")
    assert (await migrate(empty_database_url, migrations=(FIRST, mended, ONLINE))).numbers == ()
    other = replace(SECOND, sql=f"-- stepwell: was {FIRST.checksum}\nALTER TABLE things ADD COLUMN m int;")
    with pytest.raises(MigrationError, match="0002_second was changed"):
        await migrate(empty_database_url, migrations=(FIRST, other, ONLINE))


async def test_servers_that_can_not_bear_it_leave_before_it_is_made(empty_database_url: str) -> None:
    """What runs statement by statement may stop after any; the window is narrow from the first one on."""
    online = Migration(2, "online", "-- stepwell: no-transaction\n-- stepwell: min-server 2\nSELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_database_url, migrations=(FIRST, online))
    window = await check(empty_database_url, server=1)
    assert (window.version, window.min_server, window.may_run) == (1, 2, False)


async def test_an_index_of_a_partitioned_table_is_made_beside_who_writes(empty_database_url: str) -> None:
    """In every partition, also one that is attached later; and it is valid, and unique where it says so."""
    parts = "CREATE TABLE parts (n int NOT NULL, m int) PARTITION BY RANGE (n);" + "".join(
        f"CREATE TABLE parts_p{n} PARTITION OF parts FOR VALUES FROM ({n}) TO ({n + 1});" for n in range(3)
    )
    index = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS parts_idx ON parts (n, m) WHERE m > 0;"
    online = f"-- stepwell: no-transaction\n{index}"
    await migrate(empty_database_url, migrations=(Migration(1, "parts", parts), Migration(2, "index", online)))
    connection = await asyncpg.connect(empty_database_url, server_settings={"search_path": "stepwell"})
    try:
        await connection.execute("CREATE TABLE parts_p3 PARTITION OF parts FOR VALUES FROM (3) TO (4)")
        made = await connection.fetch(
            "SELECT indrelid::regclass::text, indisvalid, indisunique FROM pg_index "
            "WHERE indrelid::regclass::text LIKE 'parts%' ORDER BY 1"
        )
        assert [tuple(row) for row in made] == [
            (name, True, True) for name in ("parts", *(f"parts_p{n}" for n in range(4)))
        ]
    finally:
        await connection.close()


async def test_an_interrupted_index_is_built_anew(empty_database_url: str) -> None:
    """What an interrupted CREATE INDEX CONCURRENTLY leaves is not taken for the index."""
    await migrate(empty_database_url, migrations=ALL[:2])
    connection = await asyncpg.connect(empty_database_url)
    try:
        await connection.execute("CREATE INDEX things_n ON stepwell.things (n)")
        await connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'stepwell.things_n'::regclass"
        )
    finally:
        await connection.close()
    await migrate(empty_database_url, migrations=ALL)
    broken = await fetch(empty_database_url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid")
    assert broken == [(0,)]


async def test_gaps_and_odd_names_are_refused(empty_database_url: str) -> None:
    """Numbers have no gaps, and a schema has a plain name."""
    with pytest.raises(MigrationError, match="migration 2 is missing"):
        await migrate(empty_database_url, migrations=(FIRST, ONLINE))
    with pytest.raises(MigrationError, match="cannot name a schema"):
        await migrate(empty_database_url, schema='x"; DROP', migrations=ALL)


async def test_a_clone_is_migrated(database_url: str) -> None:
    """The databases that other tests get are up to date."""
    assert (await check(database_url)).standing is Standing.UP_TO_DATE
