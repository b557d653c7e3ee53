"""The database's address: in a variable or a file, changed while the server runs, and never told to anybody."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
import pytest_asyncio
from pydantic import ValidationError
from tests.loops.rig import rig_settings
from tests.main.program import program
from tests.main.test_keys import Run
from tests.main.test_service import QUICK
from typer.testing import CliRunner

from stepwell import Client
from stepwell_server.main import app
from stepwell_server.service import Service
from stepwell_server.settings import Settings
from stepwell_server.store.faults import Lost

SECRETS = ("swordfish", "opensesame")


class Role:
    """One that may work on the database, with a password that changes."""

    def __init__(self, database_url: str, sql: asyncpg.Connection) -> None:
        self._parts = urlsplit(database_url)
        self._sql = sql
        # Roles are the whole server's.
        self._name = f"rotating_{uuid.uuid4().hex[:12]}"

    async def make(self) -> None:
        await self._sql.execute(f"CREATE ROLE {self._name} LOGIN SUPERUSER")

    async def remove(self) -> None:
        """What it owns, partitions that it made as the leader, say, stays."""
        await self._sql.execute(f"REASSIGN OWNED BY {self._name} TO CURRENT_USER; DROP ROLE {self._name}")

    async def change(self, password: str) -> str:
        """Gives it another password; answers the address."""
        await self._sql.execute(f"ALTER ROLE {self._name} PASSWORD '{password}'")
        port = parse_qs(self._parts.query)["port"][0]
        return f"postgresql://{self._name}:{password}@127.0.0.1:{port}{self._parts.path}"

    async def cut(self) -> None:
        """Ends its sessions."""
        await self._sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", self._name)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the program in this process."""

    def run(*arguments: str, **variables: str) -> tuple[int, str]:
        monkeypatch.setenv("STEPWELL_DATABASE_URL", "postgresql://h/d")
        for name, value in variables.items():
            monkeypatch.setenv(f"STEPWELL_{name}", value) if value else monkeypatch.delenv(f"STEPWELL_{name}")
        done = CliRunner().invoke(app, [*arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.output

    return run


@pytest_asyncio.fixture
async def role(database_url: str) -> AsyncIterator[Role]:
    sql = await asyncpg.connect(database_url)
    role = Role(database_url, sql)
    await role.make()
    try:
        yield role
    finally:
        await role.remove()
        await sql.close()


async def test_a_password_is_changed_without_a_restart(role: Role, tmp_path: Path) -> None:
    """Sessions go on. Whoever connects anew takes the new one, once it is in the file."""
    file = tmp_path / "url"
    file.write_text(await role.change(SECRETS[0]) + "\n")
    settings = Settings(database_url_file=file, port=0, reconnect_seconds_maximum=0.2, shutdown_seconds=1.0)
    async with Service(settings) as service, await Client.connect(service.address, call_timeout=60) as client:
        await client.start_run("t", task_queue="held")
        address = await role.change(SECRETS[1])
        await client.start_run("t", task_queue="held")
        await role.cut()
        waiting = asyncio.create_task(client.start_run("t", task_queue="held"))
        await refused(service)
        assert not waiting.done()
        file.write_text(address + "\n")
        await waiting
        assert len([run async for run in client.list_runs()]) == 3


async def refused(service: Service) -> None:
    """Returns when Postgres has refused a connection, as it has all others then."""
    with pytest.raises(Lost, match="password authentication failed"):
        await service.database.connect()


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


@pytest.mark.parametrize("mark", ["/", "@", "#", "?", "[", " "])
def test_an_address_that_is_wrong_is_not_repeated(here: Run, tmp_path: Path, mark: str) -> None:
    """In a variable or a file: the message says what is wrong, and no part of the password."""
    url = f"postgresql://u:trout{mark}salmon@h:5432/d"
    file = tmp_path / "url"
    file.write_text(url)
    with pytest.raises(ValidationError) as refusal:
        Settings(database_url=url)
    said = [str(refusal.value)]
    for variables in ({"DATABASE_URL": url}, {"DATABASE_URL": "", "DATABASE_URL_FILE": str(file)}):
        code, output = here("check", **variables)
        assert code == 2, output
        said.append(output)
    assert all("must " in each for each in said)
    assert not any(part in each for part in ("trout", "salmon") for each in said)


def test_two_ways_to_say_it_are_refused(here: Run, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://h/d")
    code, said = here("check", DATABASE_URL_FILE=str(file))
    assert code == 2, said
    assert "database_url and database_url_file are two ways to say the same: give one" in said
    code, said = here("check", DATABASE_URL="", DATABASE_URL_FILE=str(tmp_path / "none"))
    assert code == 2, said
    assert "can't be read: FileNotFoundError" in said


async def test_a_password_is_in_no_log(role: Role, tmp_path: Path) -> None:
    """Not while it is refused, nor while it serves, at the loudest level of logs; nor is it among the arguments."""
    file = tmp_path / "url"
    file.write_text(await role.change(SECRETS[0]))
    address = await role.change(SECRETS[1])
    assert SECRETS[0] not in repr(Settings(database_url=file.read_text()))
    variables = {"DATABASE_URL_FILE": str(file), "LOG_LEVEL": "debug", "SCHEMA_CHECK_SECONDS": "0.1"}
    async with program("serve", "--port", "0", **variables) as server:
        assert "password authentication failed" in (await server.say("not ready"))["advice"]
        file.write_text(address)
        await server.say("serving")
        arguments = await asyncio.to_thread(Path(f"/proc/{server.process.pid}/cmdline").read_bytes)
        await role.change(SECRETS[0])
        await role.cut()
        while "password authentication failed" not in (await server.say("database away"))["cause"]:
            """It says first that its sessions were ended."""
        server.process.terminate()
        await server.end()
        said = f"{arguments!r} {server.lines} {server.printed}"
    assert not any(secret in said for secret in SECRETS)
