"""Rows are put into their tables by COPY: whole, or refused in the words that batches know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from stepwell_server.settings import Settings
from stepwell_server.store.connection import Connection
from stepwell_server.store.database import Database
from stepwell_server.store.faults import Conflict, Rejected
from stepwell_server.store.statements import load, target_of

IDS = load("runs")["insert_run_ids"]
KNOWN = UUID(int=7)


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    database = Database(Settings(database_url=database_url))
    made = await database.connect()
    yield made
    await made.close()
    await database.close()


async def test_rows_are_there_with_their_nulls(connection: Connection) -> None:
    await connection.insert(IDS, [(KNOWN, 1, 1, None), (uuid4(), 1, 2, b"hash")])
    found = await connection.raw.fetch("SELECT run_key, request_hash FROM run_ids ORDER BY run_key")
    assert [tuple(row) for row in found] == [(1, None), (2, b"hash")]


async def test_an_id_that_is_borne_is_a_conflict(connection: Connection) -> None:
    """Two batches may reach for it: the one that comes later looks again."""
    await connection.insert(IDS, [(KNOWN, 1, 1, None)])
    with pytest.raises(Conflict):
        await connection.insert(IDS, [(uuid4(), 1, 2, None), (KNOWN, 1, 3, None)])
    assert await connection.raw.fetchval("SELECT count(*) FROM run_ids") == 1


@pytest.mark.parametrize("key", [2**63, "one", None], ids=["too great", "no number", "null"])
async def test_a_row_that_cannot_be_is_rejected_and_the_connection_goes_on(connection: Connection, key: object) -> None:
    """Whether the driver or the database refuses it; nothing that is under way is cancelled afterwards."""
    for _ in range(20):
        with pytest.raises(Rejected):
            async with connection.transaction():
                await connection.insert(IDS, [(uuid4(), 1, 1, None), (uuid4(), 1, key, None)])
        async with connection.transaction():
            await connection.insert(IDS, [(uuid4(), 1, 1, None)])
    assert await connection.raw.fetchval("SELECT count(*) FROM run_ids") == 20


def test_what_puts_rows_nowhere_is_no_copy() -> None:
    with pytest.raises(ValueError, match="no COPY"):
        target_of(load("runs")["read_runs"].sql)
