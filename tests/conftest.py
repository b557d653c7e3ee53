"""Databases for tests: one server per test process, one fresh migrated database per test.

TEST_DATABASE_URL names a server to use instead; its user must be allowed to create databases.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import structlog
from tests.databases import Databases, drop_database

from stepwell_server.embedded import EmbeddedPostgres, create_database
from stepwell_server.embedded.postmaster import running_postmaster
from stepwell_server.store import migrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# Servers within the tests ask for no API key, as `dev` does not; tests of keys say so.
os.environ["STEPWELL_REQUIRE_KEYS"] = "false"

# Nothing but a test changes what is in its database, and its statistics.
SERVER_SETTINGS = {"autovacuum": "off"}


@pytest.fixture(autouse=True)
def _own_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test sets up of logs ends with it: a logger that kept its first set-up would show later tests nothing."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr("structlog.configure", partial(_configure, structlog.configure))
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _configure(configure: Callable[..., None], **settings: object) -> None:
    configure(**{**settings, "cache_logger_on_first_use": False})


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A folder that an unprivileged account can enter when root runs the tests; pytest's own is private to root."""
    folder = Path(tempfile.mkdtemp(prefix="stepwell-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def data_dir(session_dir: Path) -> Iterator[Path]:
    """A path for a data folder that does not exist yet; a server that a failed test left there is ended."""
    folder = session_dir / uuid.uuid4().hex[:12]
    yield folder
    left = running_postmaster(folder.resolve() / "pgdata")
    if left is not None:
        os.kill(left.pid, signal.SIGQUIT)


@pytest_asyncio.fixture(scope="session")
async def server_url(session_dir: Path) -> AsyncIterator[str]:
    """The server of this test process."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    async with EmbeddedPostgres(session_dir / "postgres", durable=False, extra=SERVER_SETTINGS) as postgres:
        yield postgres.url


@pytest_asyncio.fixture(scope="session")
async def migrated_template(server_url: str) -> AsyncIterator[str]:
    """The name of a migrated database that nobody is connected to."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    await migrations.migrate(await create_database(server_url, name))
    yield name
    await drop_database(server_url, name)


@pytest_asyncio.fixture(scope="session")
async def databases(server_url: str, migrated_template: str) -> AsyncIterator[Databases]:
    """Migrated databases, lent to one test at a time."""
    made = Databases(server_url, migrated_template)
    await made.start()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """A migrated database without a run, a job or anything else that a test makes."""
    lent = await databases.lend()
    yield lent.url
    await databases.give_back(lent)


@pytest_asyncio.fixture(scope="module")
async def shared_database_url(databases: Databases) -> AsyncIterator[str]:
    """One for all tests of a module that ask for it: for those that leave nothing in it that the next would notice."""
    lent = await databases.lend()
    yield lent.url
    await databases.give_back(lent)


@pytest_asyncio.fixture
async def empty_database_url(server_url: str) -> AsyncIterator[str]:
    """A fresh database without a schema."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield await create_database(server_url, name)
    await drop_database(server_url, name)
