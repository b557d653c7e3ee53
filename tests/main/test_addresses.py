"""The database's address: in a variable or a file, changed while the server runs, and never told to anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import pytest_asyncio
from tests.loops.rig import rig_settings
from tests.main.program import outcome, program
from tests.main.test_service import QUICK
from tests.sdk.live import live

from stepwell_server.service import Service
from stepwell_server.settings import Settings

SECRETS = ("swordfish", "opensesame")


class Role:
    """One that may work on the database, with a password that changes."""

    def __init__(self, database_url: str, sql: asyncpg.Connection) -> None:
        self._parts = urlsplit(database_url)
        self._sql = sql

    async def change(self, password: str) -> str:
        """Gives it another password; answers the address."""
        await self._sql.execute(f"ALTER ROLE rotating PASSWORD '{password}'")
        return f"postgresql://rotating:{password}@127.0.0.1:{parse_qs(self._parts.query)['port'][0]}{self._parts.path}"

    async def cut(self) -> None:
        """Ends its sessions."""
        await self._sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'")


@pytest_asyncio.fixture
async def role(database_url: str) -> AsyncIterator[Role]:
    sql = await asyncpg.connect(database_url)
    await sql.execute("CREATE ROLE rotating LOGIN SUPERUSER")
    try:
        yield Role(database_url, sql)
    finally:
        await sql.execute("DROP ROLE rotating")
        await sql.close()


async def test_a_password_is_changed_without_a_restart(role: Role, tmp_path: Path) -> None:
    """Sessions go on. Whoever connects anew takes the new one, once it is in the file."""
    file = tmp_path / "url"
    file.write_text(await role.change(SECRETS[0]) + "\n")
    async with live("", database_url=None, database_url_file=file, schema_check_seconds=0.1) as both:
        await both.client.start_run("t", task_queue="held")
        address = await role.change(SECRETS[1])
        await both.client.start_run("t", task_queue="held")
        await role.cut()
        async with asyncio.timeout(30):
            waiting = asyncio.create_task(both.client.start_run("t", task_queue="held"))
            await asyncio.sleep(0.5)
            assert not waiting.done()
            file.write_text(address + "\n")
            await waiting
            assert len([run async for run in both.client.list_runs()]) == 3


async def test_both_files_do(database_url: str, tmp_path: Path) -> None:
    """With a pool of its own, both are read."""
    direct, cold = tmp_path / "direct", tmp_path / "cold"
    direct.write_text(database_url)
    cold.write_text(f"  {database_url}\n\n")
    settings = rig_settings(database_url, **QUICK).model_copy(
        update={"database_url": None, "database_url_file": direct, "pool_url_file": cold}
    )
    async with Service(settings) as service:
        assert service.readiness.is_ready


@pytest.mark.parametrize("secret", ["swo/rdfish", "swo@rdfish", "swo#rdfish", "swo?rdfish", "swo[rdfish", "swo rdfish"])
async def test_an_address_that_is_wrong_is_not_repeated(tmp_path: Path, secret: str) -> None:
    """In a variable or a file: the message says what is wrong, and no part of the password."""
    url = f"postgresql://u:{secret}@h:5432/d"
    file = tmp_path / "url"
    file.write_text(url)
    for variables in ({"DATABASE_URL": url}, {"DATABASE_URL_FILE": str(file)}):
        code, said = await outcome("check", **variables)
        assert code == 2, said
        assert "must " in said
        assert not any(part in said for part in ("swo", "rdfish", url))


async def test_two_ways_to_say_it_are_refused(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(database_url)
    code, said = await outcome("check", DATABASE_URL=database_url, DATABASE_URL_FILE=str(file))
    assert code == 2, said
    assert "database_url and database_url_file are two ways to say the same: give one" in said
    code, said = await outcome("check", DATABASE_URL_FILE=str(tmp_path / "none"))
    assert "can't be read: FileNotFoundError" in said


async def test_a_password_is_in_no_log(role: Role, tmp_path: Path) -> None:
    """Not while it serves, not when it is refused, not at the loudest level of logs; nor in the settings as text."""
    file = tmp_path / "url"
    file.write_text(await role.change(SECRETS[0]))
    assert SECRETS[0] not in repr(Settings(database_url=file.read_text()))
    variables = {"DATABASE_URL_FILE": str(file), "LOG_LEVEL": "debug", "SCHEMA_CHECK_SECONDS": "0.1"}
    async with program("serve", "--port", "0", **variables) as server:
        await server.say("serving")
        await role.change(SECRETS[1])
        await role.cut()
        await server.say("round failed")
        server.process.terminate()
        await server.end()
        said = f"{server.lines} {server.printed}"
    assert "password authentication failed" in said
    assert not any(secret in said for secret in SECRETS)
    _, said = await outcome("serve", DATABASE_URL=await role.change(SECRETS[0]), PORT="99999")
    assert not any(secret in said for secret in SECRETS)


async def test_nothing_is_known_to_those_who_look_on(database_url: str) -> None:
    """A program's arguments are everybody's to read: the address is not among them."""
    async with program("serve", "--port", "0", DATABASE_URL=database_url) as server:
        await server.say("serving")
        arguments = await asyncio.to_thread(Path(f"/proc/{server.process.pid}/cmdline").read_bytes)
        assert str(urlsplit(database_url).password).encode() not in arguments
