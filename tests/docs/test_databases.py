"""The page about databases: its commands make a role that suffices, and its configuration a pooler that works."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest_asyncio
from tests.docs.documents import Document
from tests.docs.test_documents import DOCS, OWN_DATABASE
from tests.poolers import DOCUMENT, pooler, users
from tests.sdk.live import live
from tests.service import soon

from stepwell import Context, workflow
from stepwell_server.embedded.account import account_for
from stepwell_server.embedded.binaries import provide

ADMIN = "postgresql://postgres:admin@db.example:5432/postgres"
# What the page says that a replica needs beside its committers and its pool.
DEDICATED = 10


@workflow
async def greet(ctx: Context, name: str) -> str:
    return f"hello {name}"


@pytest_asyncio.fixture
async def admin_url(server_url: str) -> AsyncIterator[str]:
    """The server by TCP; the role and the database that the page makes are removed afterwards."""
    parts = urlsplit(server_url)
    yield f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{parse_qs(parts.query)['port'][0]}/postgres"
    sql = await asyncpg.connect(server_url)
    await sql.execute("DROP DATABASE IF EXISTS stepwell WITH (FORCE)")
    await sql.execute("DROP ROLE IF EXISTS stepwell")
    await sql.close()


def psql(folder: Path) -> Path:
    """The folder of Postgres' own client."""
    found = shutil.which("psql")
    return Path(found).parent if found else provide(account_for(folder), major=None, spare=folder).folder


async def test_the_page_about_databases_is_true(admin_url: str, data_dir: Path, tmp_path: Path) -> None:
    """An ordinary role serves, its pool behind the page's pooler, with no more connections than it says."""
    own = f"postgresql://stepwell:secret@127.0.0.1:{urlsplit(admin_url).port}/stepwell"
    programs = [psql(tmp_path), Path(sys.executable).parent]
    document = Document(DOCS / "operations/databases.md", tmp_path, {ADMIN: admin_url, OWN_DATABASE: own}, programs)
    assert await document.carry_out() == 3
    written = await asyncio.to_thread((tmp_path / "userlist.txt").read_text)
    assert written in await users(admin_url)
    async with (
        pooler(data_dir, f"{own}?port={urlsplit(own).port}", secrets=written) as through,
        live(own, pool_url=through.url, metrics_port=0) as both,
        both.working(workflows=[greet]),
    ):
        handle = await both.client.start_run(greet, "you", task_queue="default")
        assert await handle.result() == "hello you"
        assert [run async for run in both.client.list_runs()]
        await soon(lambda: _has_few(admin_url))


async def _has_few(admin_url: str) -> bool:
    """Whether the replica has the connections of its own that it needs in the end, and no more than the page says."""
    sql = await asyncpg.connect(admin_url)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'stepwell' AND application_name LIKE 'stepwell %' "
    query += "AND application_name <> 'stepwell pool'"
    count = await sql.fetchval(query)
    await sql.close()
    assert count <= DEDICATED + 1, count
    return bool(count > DEDICATED - 6)


def test_the_page_is_the_one_that_poolers_are_made_by() -> None:
    assert DOCUMENT == DOCS / "operations/databases.md"
