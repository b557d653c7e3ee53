"""What a batch writes: few rows in one statement, many table by table, and either way the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
import pytest_asyncio

from stepwell_server.settings import Settings
from stepwell_server.store import batches
from stepwell_server.store import connection as store
from stepwell_server.store.connection import Connection
from stepwell_server.store.database import Database
from stepwell_server.store.faults import Conflict
from stepwell_server.store.statements import load
from stepwell_server.store.writing import Writing

RUNS, STEPS = load("runs"), load("steps")
IDS, NAMES, RENAME = RUNS["insert_run_ids"], RUNS["insert_workflow_ids"], RUNS["update_workflow_ids"]
FORGET = STEPS["delete_scopes"]
COUNTS = pytest.mark.parametrize("count", [1, 3, 40])


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    database = Database(Settings(database_url=database_url))
    made = await database.connect()
    yield made
    await made.close()
    await database.close()


def ids(count: int, first: int = 1) -> list[tuple[UUID, int, int, bytes | None]]:
    return [(UUID(int=number), 1, number, None) for number in range(first, first + count)]


def names(count: int, first: int = 1) -> list[tuple[str, int, int]]:
    return [(f"w{number}", 1, number) for number in range(first, first + count)]


async def keys(connection: Connection) -> tuple[list[int], dict[str, int]]:
    found = await connection.raw.fetch("SELECT run_key FROM run_ids ORDER BY run_key")
    named = await connection.raw.fetch("SELECT workflow_id, run_key FROM workflow_ids ORDER BY run_key")
    return [row[0] for row in found], {row[0]: row[1] for row in named}


@COUNTS
async def test_all_that_was_noted_is_written(connection: Connection, count: int) -> None:
    out = Writing(connection)
    out.insert(IDS, iter(ids(count)))
    out.insert(NAMES, iter(names(count)))
    await out.send()
    assert await keys(connection) == ([*range(1, count + 1)], {f"w{number}": number for number in range(1, count + 1)})
    out.change(RENAME, [["w1"], [1], [0], [77]], 1)
    out.change(FORGET, [[1]])
    out.insert(IDS, ids(count, 100))
    await out.send()
    assert await keys(connection) == (
        [*range(1, count + 1), *range(100, 100 + count)],
        {f"w{number}": number for number in range(2, count + 1)} | {"w1": 77},
    )
    await out.send()  # nothing is left


@COUNTS
async def test_a_change_that_touches_other_rows_than_it_should_is_a_conflict(
    connection: Connection, count: int
) -> None:
    out = Writing(connection)
    out.change(FORGET, [[1]], 0)
    out.change(RENAME, [["w1"], [1], [0], [77]], 1)
    out.insert(IDS, ids(count))
    with pytest.raises(Conflict, match="update_workflow_ids: 0 rows of 1"):
        await out.send()


@COUNTS
async def test_tables_are_written_in_the_order_in_which_they_were_noted(connection: Connection, count: int) -> None:
    """Two batches that reach for the same keys wait for each other at the first, and never crosswise."""
    out = Writing(connection)
    for statement, rows in ((IDS, ids(count)), (NAMES, names(count))):
        out.insert(statement, rows)
    await out.send()
    for order in (((IDS, ids(count)), (NAMES, names(count))), ((NAMES, names(count)), (IDS, ids(count)))):
        for statement, rows in order:
            out.insert(statement, rows)
        with pytest.raises(Conflict, match="run_ids" if order[0][0] is IDS else "workflow_ids"):
            await out.send()


async def test_a_connection_keeps_the_statements_used_last(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MOST_SHAPES", 2)
    statements = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'WITH i1%'"
    for place, count in enumerate((1, 2, 1, 3, 1, 2, 1)):
        out = Writing(connection)
        out.insert(IDS, ids(count, 10 * place))
        out.insert(NAMES, names(1, 10 * place))
        await out.send()
        assert await connection.raw.fetchval(statements) <= 3
    assert len((await keys(connection))[0]) == 11


async def test_one_statement_is_a_transaction_by_itself(connection: Connection) -> None:
    """It needs no BEGIN and no COMMIT, and counts as a commit."""
    before = connection._counters.statements, connection._counters.commits
    async with connection.transaction():
        out = Writing(connection)
        out.insert(IDS, ids(3))
        out.insert(NAMES, names(3))
        await out.send(is_all=True)
    assert connection._counters.statements - before[0] == 1
    assert connection._counters.commits - before[1] == 1
    assert (await keys(connection))[0] == [1, 2, 3]


async def test_one_statement_that_touches_other_rows_does_nothing(connection: Connection) -> None:
    """Nobody could take it back afterwards."""

    async def write() -> None:
        async with connection.transaction():
            out = Writing(connection)
            out.change(RENAME, [["w1"], [1], [0], [77]], 1)
            out.insert(IDS, ids(1))
            await out.send(is_all=True)

    with pytest.raises(Conflict, match="update_workflow_ids"):
        await write()
    assert await keys(connection) == ([], {})
    async with connection.transaction():
        await connection.fetch(RUNS["take_run_keys"])  # the connection is as good as before
        assert connection.raw.is_in_transaction()


async def test_after_a_lock_all_is_in_the_transaction_of_that(connection: Connection) -> None:
    """What was locked stays so until what was decided on it is written."""

    class StopError(Exception):
        pass

    async def write() -> None:
        async with connection.transaction():
            await connection.fetch(RUNS["take_run_keys"])
            out = Writing(connection)
            out.insert(IDS, ids(1))
            await out.send(is_all=True)
            raise StopError

    with pytest.raises(StopError):
        await write()
    assert await keys(connection) == ([], {})


async def test_a_look_begins_none(connection: Connection) -> None:
    """It neither locks nor changes anything, so what follows may still be one statement."""
    before = connection._counters.statements
    async with connection.transaction():
        await connection.fetch(RUNS["read_runs"], [1])
        assert not connection.raw.is_in_transaction()
        out = Writing(connection)
        out.insert(IDS, ids(1))
        await out.send(is_all=True)
    assert connection._counters.statements - before == 2
    async with connection.transaction():
        await connection.fetch(RUNS["lock_runs"], [1])
        assert connection.raw.is_in_transaction()


async def test_nothing_asked_is_no_transaction(connection: Connection) -> None:
    """Neither a statement nor a commit; and after it there is none."""
    before = connection._counters.statements, connection._counters.commits
    async with connection.transaction():
        pass
    assert (connection._counters.statements, connection._counters.commits) == before
    await connection.fetch(RUNS["take_run_keys"])
    assert not connection.raw.is_in_transaction()


def test_it_is_known_of_each_table_whether_it_goes_with_the_rest() -> None:
    """What a batch is to write besides needs a place in `_FURTHER`, or it would be left out of a transaction."""
    together = {
        *("batch_id", "committer", "position", "now", "ended", "notices", "requests", "run_ids", "names", "renamed"),
        *("idempotency_keys", "reopened_runs", "new_runs", "changed_runs", "gone_runs", "closed_runs"),
        *("new_steps", "changed_steps", "gone_steps", "closed_steps", "removed_steps", "scopes", "scopes_gone"),
        *("events", "tasks", "tasks_gone", "jobs"),
    }
    assert {*batches.Write.__struct_fields__} == together | {*batches._FURTHER}
    assert together.isdisjoint(batches._FURTHER)
