"""Which server answers, of those that an address names; and which one must not be gone back to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from tests.loops.rig import rig_settings

from stepwell_server.clock import SystemClock
from stepwell_server.settings import Settings
from stepwell_server.store.database import Database
from stepwell_server.store.faults import Lost
from stepwell_server.store.lineage import Lineage, Timeline
from stepwell_server.store.reaching import Reach


def several(database_url: str, *ports: int) -> str:
    """The database behind other servers, which are asked first."""
    parts = urlsplit(database_url)
    ports = (*ports, int(parse_qs(parts.query)["port"][0]))
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://{parts.username}:{parts.password}@{hosts}{parts.path}"


@asynccontextmanager
async def swallowing() -> AsyncIterator[tuple[int, list[object]]]:
    """A server that takes connections and never says a word, and who came to it."""
    came: list[object] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        server.close()


async def test_a_server_that_swallows_everything_is_passed_over(database_url: str) -> None:
    """It does not use up the time of the next one, and is asked last from then on; for cold calls, too."""
    async with swallowing() as (port, came):
        database = Database(rig_settings(several(database_url, port), connect_seconds=0.5))
        try:
            async with asyncio.timeout(30):
                for _ in range(3):
                    await (await database.connect()).close()
                assert len(came) == 1
                async with database.pool.begin() as connection:
                    await connection.exec_driver_sql("SELECT 1")
                assert len(came) == 2
        finally:
            await database.close()


async def test_a_server_that_is_not_admitted_is_passed_over(database_url: str) -> None:
    """As an old primary is that comes first in the address, and is back."""
    parts = urlsplit(several(database_url))
    url = parts._replace(netloc=f"{parts.username}:{parts.password}@localhost:{parts.port},127.0.0.1:{parts.port}")
    asked: list[str] = []

    async def admit(connection: Any) -> None:
        asked.append(connection._addr[0])
        if asked[-1] == "localhost":
            connection.terminate()
            raise Lost("too old")

    reach = Reach(url.geturl, 5.0, "primary", admit)
    for _ in range(2):
        await (await reach.connect()).connection.close()
    assert asked == ["localhost", "127.0.0.1", "127.0.0.1"]


async def test_what_each_server_said_is_told(database_url: str) -> None:
    parts = urlsplit(several(database_url, 1))
    database = Database(rig_settings(parts._replace(path="/none").geturl()))
    with pytest.raises(Lost, match=r"127\.0\.0\.1:1: .*failed.*; 127\.0\.0\.1:\d+: database \"none\" does not exist"):
        await database.connect()
    await database.close()


async def test_a_database_without_writes_is_none(database_url: str) -> None:
    """Not for what must write. Cold calls may still read."""
    sql = await asyncpg.connect(database_url)
    name = await sql.fetchval("SELECT current_database()")
    database = Database(rig_settings(database_url))
    await sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        with pytest.raises(Lost, match="told to take no writes"):
            await database.connect()
        async with database.pool.begin() as connection:
            assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1
    finally:
        await database.close()
        await sql.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        await sql.close()


async def test_sessions_choose_how_they_are_isolated(database_url: str) -> None:
    """Whatever the default is: what is decided under locks must see what was committed before it got them."""
    sql = await asyncpg.connect(database_url)
    name = await sql.fetchval("SELECT current_database()")
    database = Database(rig_settings(database_url))
    await sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable')
    question = "SELECT current_setting('transaction_isolation')"
    try:
        connection = await database.connect()
        async with database.pool.begin() as pooled:
            assert (await pooled.exec_driver_sql(question)).scalar() == "read committed"
        assert await connection.raw.fetchval(question) == "read committed"
        await connection.close()
    finally:
        await database.close()
        await sql.execute(f'ALTER DATABASE "{name}" RESET default_transaction_isolation')
        await sql.close()


class Raw:
    """A driver's connection that says which timeline it leads to, and what time it is there."""

    def __init__(self, system: int, number: int, ahead: float = 0.0) -> None:
        self.row = {
            "now": datetime.now(UTC) + timedelta(seconds=ahead),
            "system": system,
            "segment": f"{number:08X}{0:016X}",
        }
        self.is_closed = False

    async def fetchrow(self, _question: str) -> dict[str, Any]:
        return self.row

    def terminate(self) -> None:
        self.is_closed = True


async def test_an_older_timeline_is_not_gone_back_to() -> None:
    """A primary that was replaced is refused; a newer one, and a database of another system, are taken."""
    lineage: Any = Lineage()
    assert await lineage.admit(Raw(7, 1)) == Timeline(7, 1)
    assert await lineage.admit(Raw(7, 2)) == Timeline(7, 2)
    late = Raw(7, 1)
    with pytest.raises(Lost, match="of timeline 1, which was replaced by 2"):
        await lineage.admit(late)
    assert late.is_closed
    assert await lineage.admit(Raw(7, 2)) == Timeline(7, 2)
    assert await lineage.admit(Raw(8, 1)) == Timeline(8, 1)


async def test_another_server_has_another_clock() -> None:
    """The first connection to it tells the time, before anything is decided by it."""
    lineage: Any = Lineage()
    clock = SystemClock()
    lineage.tell_time = clock.align
    await lineage.admit(Raw(7, 1))
    assert abs(clock.offset) < 1
    await lineage.admit(Raw(7, 2, ahead=120))
    assert abs(clock.offset - 120) < 1


async def test_a_role_without_rights_is_told_the_time(database_url: str) -> None:
    """Where the timeline is kept secret, it does without."""
    sql = await asyncpg.connect(database_url)
    try:
        await sql.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        await sql.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
        plain = await asyncpg.connect(database_url, user="plain", password="plain")
        lineage = Lineage()
        times: list[datetime] = []
        lineage.tell_time = lambda now, _seconds: times.append(now)
        assert await lineage.admit(plain) is None
        assert len(times) == 1
        await plain.close()
    finally:
        await sql.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
        await sql.execute("DROP ROLE plain")
        await sql.close()


async def test_an_address_in_a_file_is_read_each_time(database_url: str, tmp_path: Any) -> None:
    file = tmp_path / "url"
    file.write_text(f"{database_url}\n")
    database = Database(Settings(database_url_file=file))
    await (await database.connect()).close()
    file.write_text(f"{several(database_url, 1)}\n")
    await (await database.connect()).close()
    file.unlink()
    with pytest.raises(Lost, match="can't be read: FileNotFoundError"):
        await database.connect()
    await database.close()
