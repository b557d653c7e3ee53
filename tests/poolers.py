"""A real PgBouncer before a test's database, configured by the very text of docs/operations/databases.md."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import pytest
from tests.chaos.kit import free_port

from stepwell_server.embedded.account import Account, account_for

DOCUMENT = Path(__file__).parents[1] / "docs/operations/databases.md"
SECONDS = 30.0


def pgbouncer() -> str:
    """The program."""
    found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("pgbouncer is missing: make tools")
        pytest.skip("pgbouncer is missing; `make tools` installs it")
    return found


def documented() -> str:
    """The configuration that the document shows."""
    (found,) = re.findall(r"^```ini\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


class Pooler:
    """A running PgBouncer; `url` is the database's address through it."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log


@asynccontextmanager
async def pooler(
    folder: Path, database_url: str, options: str = "", secrets: str | None = None, **settings: str
) -> AsyncIterator[Pooler]:
    """Starts one for a database; `settings` of its `[pgbouncer]` are in place of what the document says.

    `options` are the database's own; `secrets` is the list of users, unless Postgres is to be asked for it.
    """
    program, port = pgbouncer(), free_port()
    _prepare(folder)
    account = account_for(folder / "none")
    parts = urlsplit(database_url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    database = unquote(parts.path[1:])
    here = {
        "db.example port=5432 dbname=stepwell": f"127.0.0.1 port={query['port']} dbname={database} {options}",
        "/etc/pgbouncer/userlist.txt": str(folder / "userlist.txt"),
    }
    text = with_settings(documented(), here, {"listen_addr": "127.0.0.1", "listen_port": str(port), **settings})
    _write(folder / "userlist.txt", await users(database_url) if secrets is None else secrets, account)
    _write(folder / "pgbouncer.ini", text, account)
    log = folder / "pgbouncer.log"
    with log.open("ab") as output:
        process = account.launch([program, str(folder / "pgbouncer.ini")], cwd=folder, output=output)
    try:
        made = Pooler(f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{port}/stepwell", log)
        await _answering(port, log, process)
        yield made
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, SECONDS)


def with_settings(text: str, replaced: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """The configuration with other texts and settings. A setting that it does not have goes to its end."""
    for shown, real in replaced.items():
        assert shown in text, shown
        text = text.replace(shown, real)
    for name, value in settings.items():
        line = f"{name} = {value}"
        text, count = re.subn(rf"^{name} = .*$", lambda _, line=line: line, text, flags=re.MULTILINE)  # type: ignore[misc]
        text += "" if count else f"{line}\n"
    return f"{text}unix_socket_dir =\n"


async def users(database_url: str) -> str:
    """What the document has written into userlist.txt: names, and what Postgres keeps of their passwords."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch("SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")
    finally:
        await connection.close()
    return "".join(f'"{name}" "{secret}"\n' for name, secret in rows)


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)


def _write(path: Path, text: str, account: Account) -> None:
    path.write_text(text)
    path.chmod(0o600)
    account.own(path)


async def _answering(port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            assert process.poll() is None, f"it has ended: {log}"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return
