"""A migration that is in the way, stopped, killed or not allowed: nothing half stays, and a repeat finishes."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import asyncpg
import pytest
from tests.main.program import Program, outcome, program
from tests.upgrades.ground import connected, database, shape, until_blocked

from stepwell_server.store.migrations import Migration, migrate, shipped

ONLINE = [migration for migration in shipped() if not migration.in_transaction]


async def tells(migrating: Program, pattern: str) -> str:
    """The next line of its log that says so."""
    assert migrating.process.stderr is not None
    async with asyncio.timeout(60):
        while line := (await migrating.process.stderr.readline()).decode():
            if re.search(pattern, line):
                return line
    raise AssertionError(f"it never said {pattern}")


def cut(migration: Migration, count: int) -> Migration:
    """The same up to a statement, where it is interrupted."""
    if migration.in_transaction:
        return replace(migration, sql=f"{migration.sql}\n;SELECT 1 / 0;")
    head = [f"{statement};" for statement in migration.statements()[:count]]
    return replace(migration, sql="\n".join(["-- stepwell: no-transaction", *head, "SELECT 1 / 0;"]))


@pytest.mark.long
async def test_whatever_was_interrupted_is_finished_by_a_repeat(server_url: str, first_url: str) -> None:
    """Each file that has no transaction after each of its statements, each other one at its end."""
    plan = shipped()
    for migration in plan[1:]:
        before = plan[: migration.number - 1]
        for count in range(1 if migration.in_transaction else len(migration.statements())):
            with pytest.raises(asyncpg.DivisionByZeroError):
                await migrate(first_url, migrations=(*before, cut(migration, count + 1)))
        applied = await migrate(first_url, migrations=plan[: migration.number])
        assert applied.numbers == (migration.number,)
    async with database(server_url) as straight:
        await migrate(straight)
        assert await shape(first_url) == await shape(straight)


async def test_statements_are_split_as_postgres_does() -> None:
    """No semicolon in a comment, a text or a body ends a statement."""
    sql = "-- a; b\nSELECT ';' AS \"x;y\";\nDO $$ BEGIN; END $$;\nDO $a$ ;$$; $a$ ; -- the end;\n"
    assert [part.split()[0] for part in Migration(1, "x", sql).statements()] == ["--", "DO", "DO"]
    assert len(ONLINE) >= 9


async def test_a_migration_behind_a_dump_lets_others_pass_and_says_so(server_url: str, first_url: str) -> None:
    """Who reads a table for long keeps the migration waiting, and only the migration."""
    await migrate(first_url, migrations=shipped()[:6])
    async with connected(first_url, application_name="dump") as dump:
        await dump.execute("BEGIN; LOCK TABLE signals IN ACCESS SHARE MODE")
        async with program("migrate", "--lock-seconds", "0.2", DATABASE_URL=first_url) as migrating:
            assert "0007_carried_signals waits for its locks: turn 1 of 20" in await tells(migrating, "turn 1 ")
            said = await tells(migrating, "turn 2 ")
            assert re.search(r"the oldest transactions: pid \d+ \(dump, \d+ s\)", said)
            async with connected(first_url, lock_timeout="10s") as reader:
                assert await reader.fetchval("SELECT count(*) FROM signals") == 6_000
            await dump.execute("COMMIT")
            assert await migrating.end() == 0


async def test_a_lock_that_is_never_given_is_an_error_that_says_what_to_do(empty_database_url: str) -> None:
    await migrate(empty_database_url, migrations=shipped()[:6])
    async with connected(empty_database_url) as holder:
        await holder.execute("BEGIN; LOCK TABLE signals IN ACCESS SHARE MODE")
        code, said = await outcome("migrate", "--lock-seconds", "0.05", "--turns", "2", DATABASE_URL=empty_database_url)
    assert code == 1
    assert "did not get its locks in 2 turns of 0.05 s: end the long transactions" in said
    assert "Traceback" not in said


async def test_a_killed_index_is_built_anew(first_url: str) -> None:
    """A kill -9 while an index of a partition waits for a transaction leaves an invalid one, which goes."""
    await migrate(first_url, migrations=shipped()[:24])
    invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indexrelid::regclass::text LIKE '%times_idx_p1'"
    async with connected(first_url) as holder, connected(first_url) as looking:
        # Whoever builds an index waits for those who write there, once it has made its entry in the catalogue.
        await holder.execute("BEGIN; DELETE FROM closed_runs_p1 WHERE run_key < 0")
        async with program("migrate", DATABASE_URL=first_url) as migrating:
            await until_blocked(holder)
            migrating.process.kill()
            await migrating.process.wait()
        await looking.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^stepwell.migrate$' "
            "AND datname = current_database()"
        )
        await holder.execute("ROLLBACK")
        assert await looking.fetchval(invalid) == 1
        code, said = await outcome("migrate", DATABASE_URL=first_url)
        assert code == 0, said
        assert await looking.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0


async def test_a_killed_transaction_leaves_nothing(empty_database_url: str) -> None:
    """A kill -9 in the middle of a migration that is applied whole."""
    await migrate(empty_database_url, migrations=shipped()[:9])
    async with connected(empty_database_url) as holder, connected(empty_database_url) as looking:
        # It stops at its very end, where it records what it has done.
        await holder.execute("BEGIN; LOCK TABLE stepwell_schema IN SHARE MODE")
        async with program("migrate", DATABASE_URL=empty_database_url) as migrating:
            await until_blocked(holder)
            migrating.process.kill()
            await migrating.process.wait()
        await holder.execute("COMMIT")
        there = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'workflow_ids'::regclass AND attname = 'turn'"
        code, said = await outcome("migrate", DATABASE_URL=empty_database_url)
        assert code == 0, said
        assert await looking.fetchval(there) == 1
        assert await looking.fetchval("SELECT max(number) FROM stepwell_schema") == len(shipped())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ((), "permission denied for database"),
        (("CREATE SCHEMA stepwell",), 'GRANT USAGE, CREATE ON SCHEMA "stepwell" TO "{role}"'),
        (
            (
                "CREATE SCHEMA stepwell; CREATE TABLE stepwell.runs (n int)",
                'GRANT USAGE, CREATE ON SCHEMA stepwell TO "{role}"',
            ),
            'may not change what "postgres" owns in schema "stepwell" (1 tables, such as runs)',
        ),
    ],
    ids=["no schema", "no right in it", "another owns it"],
)
async def test_a_right_that_is_missing_is_named(empty_database_url: str, made: tuple[str, ...], expected: str) -> None:
    """The message is what the database's owner needs to hear."""
    async with connected(empty_database_url) as admin:
        name = await admin.fetchval("SELECT current_database()")
        role = f"{name}_role"
        await admin.execute(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'secret'")
        try:
            for statement in made:
                await admin.execute(statement.format(role=role))
            url = re.sub(r"//[^@]*@", f"//{role}:secret@", empty_database_url)
            code, said = await outcome("migrate", DATABASE_URL=url)
            assert code == 1
            assert expected.format(role=role) in said
            assert "Traceback" not in said
        finally:
            await admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
