"""The debug bundle: what is in it, what is never in it, and that it comes when nothing else does."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.chaos.kit import free_port
from tests.main.test_keys import made
from tests.stream.kit import SECONDS, until
from tests.telemetry.test_counting import served
from tests.telemetry.test_logs import HIDDEN, lived

from stepwell.v1 import runs_pb2, types_pb2
from stepwell_server import bundling
from stepwell_server.model.api_keys import hash_of
from stepwell_server.settings import Settings
from stepwell_server.store.bundle import name_of
from stepwell_server.store.statements import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATABASE = {
    *("activity", "all_partitions", "backlog", "dead_letters", "inbox", "indexes", "leader", "leader_lock", "locks"),
    *("migrations", "sequences", "server", "server_settings", "sessions", "statements", "tables"),
}
FILES = {"README.txt", "about.json", "settings.json", "packages.json", "schema.json", "metrics.txt"}


async def bundled(
    *arguments: str, environment: dict[str, str] | None = None, **variables: str
) -> tuple[int, bytes, str]:
    """Runs the command; answers its exit code, what it wrote to standard output, and what it said."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("STEPWELL_", "OTEL_"))}
    own |= {f"STEPWELL_{name}": value for name, value in variables.items()} | (environment or {})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stepwell_server.main", "bundle", *arguments),
        env=own,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        output, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output, said.decode()


def files_of(archive: bytes) -> dict[str, str]:
    """What is in it, without the name of its folder."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        members = {each.name.partition("/")[2]: found.extractfile(each) for each in found.getmembers()}
        return {name: member.read().decode() for name, member in members.items() if member is not None}


def secrets_of(url: str) -> set[str]:
    return {HIDDEN, HIDDEN.encode().hex(), urlsplit(url).password or HIDDEN}


@asynccontextmanager
async def someone_at(url: str) -> AsyncIterator[None]:
    """Somebody else's statement, under our name, with a value in its text; and one that waits for a lock."""
    first, second = [
        await asyncpg.connect(url, server_settings={"search_path": "stepwell", "application_name": f"stepwell {who}"})
        for who in ("one", "two")
    ]
    transaction = first.transaction()
    await transaction.start()
    await first.execute(f"SELECT pg_advisory_xact_lock(4711), '{HIDDEN}'")
    asking = asyncio.create_task(second.execute(f"SELECT pg_advisory_xact_lock(4711), '{HIDDEN}'"))
    try:
        await until(lambda: first.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
        yield
    finally:
        await transaction.rollback()
        await asking
        await first.close()
        await second.close()


async def test_it_tells_much_and_no_secret(tmp_path: Path, database_url: str) -> None:
    """With secrets wherever there may be some."""
    key = await made(database_url, "--role", "admin", "--label", "first")
    port = free_port()
    async with served(tmp_path, database_url, free_port(), {}, METRICS_PORT=str(port)) as (_, replica):
        await lived(replica)
        failing = types_pb2.Payload(json=json.dumps(HIDDEN))
        await replica.runs.StartRun(runs_pb2.StartRunRequest(type="wf", input=failing), timeout=SECONDS)
        async with someone_at(database_url):
            code, archive, said = await bundled(
                DATABASE_URL=database_url,
                POOL_URL=f"postgresql://stepwell:{HIDDEN}@pool.example:6432/other?sslmode=require&password={HIDDEN}",
                METRICS_PORT=str(port),
                ARCHIVE_FOLDER=str(tmp_path / HIDDEN),
                environment={
                    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {HIDDEN}",
                    "STEPWELL_API_KEY": HIDDEN,
                    "PGPASSWORD": HIDDEN,
                },
            )
    assert code == 0, said
    files = files_of(archive)
    assert files.keys() == FILES | {f"database/{subject}.json" for subject in DATABASE}
    for name, text in files.items():
        for secret in {*secrets_of(database_url), key["secret"], hash_of(key["secret"])}:
            assert secret not in text, name
    told = {name: json.loads(text) for name, text in files.items() if name.endswith(".json")}
    assert {name for name, each in told.items() if isinstance(each, dict) and "error" in each} == set()
    check_about(told)
    check_database(told)
    assert "stepwell_claims_total" in files["metrics.txt"]


def check_about(told: dict[str, Any]) -> None:
    assert told["schema.json"]["standing"] == "UP_TO_DATE"
    assert "asyncpg" in told["packages.json"]
    settings = told["settings.json"]
    assert settings["session_seconds"] == 30.0
    assert settings["limits"]["page_items"] == 50
    assert settings["archive_folder"] == bundling.HIDDEN
    assert settings["pool_url"] == {
        "user": "stepwell",
        "hosts": "pool.example:6432",
        "database": "other",
        "options": ["password", "sslmode"],
    }
    assert {"OTEL_EXPORTER_OTLP_HEADERS", "STEPWELL_POOL_URL"} <= set(told["about.json"]["variables"])


def check_database(told: dict[str, Any]) -> None:
    (server,) = told["database/server.json"]
    assert not server["is_standby"]
    tables = {each["name"]: each for each in told["database/tables.json"]}
    assert {"runs", "steps", "tasks", "sessions"} <= tables.keys()
    assert "dead_rows" in tables["runs"]
    (waiting,) = told["database/backlog.json"]
    assert (waiting["namespace"], waiting["type"], waiting["waiting"]) == ("main", "wf", 1)
    (leader,) = told["database/leader.json"]
    (lock,) = told["database/leader_lock.json"]
    assert leader["epoch"] == 1
    activity = told["database/activity.json"]
    assert lock["pid"] in {each["pid"] for each in activity}
    (held_up,) = [each for each in activity if each["blocked_by"]]
    assert (held_up["application"], held_up["statement"]) == ("stepwell two", "another")
    assert any("." in each["statement"] for each in activity)
    assert [each for each in told["database/locks.json"] if not each["granted"]]
    assert {each["table_name"] for each in told["database/all_partitions.json"]} >= {"events"}


async def test_it_comes_without_a_database(tmp_path: Path) -> None:
    """And goes to a file, if one is named."""
    target = tmp_path / "bundle.tar.gz"
    url = f"postgresql://stepwell:{HIDDEN}@127.0.0.1:1/none"
    code, output, said = await bundled("--output", str(target), DATABASE_URL=url)
    assert (code, output) == (0, b"")
    assert str(target) in said
    files = files_of(target.read_bytes())
    assert files.keys() == FILES | {"database/server.json"}
    assert "error" in json.loads(files["schema.json"])
    assert json.loads(files["database/server.json"])["error"].startswith("stepwell_server") is False
    assert HIDDEN not in str(files)
    assert HIDDEN not in said


async def test_what_it_may_not_read_is_told_and_the_rest_too(database_url: str) -> None:
    """An account that may do nothing but connect."""
    admin = await asyncpg.connect(database_url)
    role = f"onlooker_{os.getpid()}"
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{HIDDEN}'")
    try:
        url = database_url.replace(database_url.split("@", maxsplit=1)[0], f"postgresql://{role}:{HIDDEN}", 1)
        code, archive, _ = await bundled(DATABASE_URL=url)
    finally:
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()
    assert code == 0
    files = files_of(archive)
    assert HIDDEN not in str(files)
    assert "error" in json.loads(files["database/backlog.json"])
    assert json.loads(files["database/server.json"])[0]["version"]


def test_what_is_new_is_hidden() -> None:
    """The list is closed: a setting that nobody put on it is told by its name alone."""

    class Later(Settings):
        token: str = HIDDEN

    told = bundling.shown_settings(Later())
    assert told["token"] == bundling.HIDDEN
    assert Settings.model_fields.keys() >= bundling.SHOWN
    assert not bundling.SHOWN & bundling.ADDRESSES


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{HIDDEN}/x@h/d",
        f"postgresql://u:x?{HIDDEN}@h/d",
        f"postgresql://u:x#{HIDDEN}@h/d",
        f"postgresql://u:x@{HIDDEN}@h/d",
        f"postgresql://u%3A{HIDDEN}@h/d",
        f"postgresql://{HIDDEN} x:y@h/d",
        f"mysql://u:{HIDDEN}@h/d",
    ],
)
def test_odd_urls_are_hidden_whole(url: str) -> None:
    """Where a password may have ended up anywhere."""
    assert bundling.address(url) == bundling.HIDDEN


@pytest.mark.parametrize(
    ("url", "hosts", "database"),
    [
        (f"postgresql://u:{HIDDEN}@a:1,b:2/d", "a:1,b:2", "d"),
        (f"postgresql://u:{HIDDEN}@[::1]:5432/d", "[::1]:5432", "d"),
        (f"postgresql://u:{HIDDEN}@/d?host=/run&port=1", "", "d"),
        ("postgresql://h", "h", ""),
    ],
)
def test_addresses_are_told_without_passwords(url: str, hosts: str, database: str) -> None:
    told = bundling.address(url)
    assert isinstance(told, dict)
    assert (told["hosts"], told["database"]) == (hosts, database)
    assert HIDDEN not in str(told)


def test_statements_are_told_by_their_names() -> None:
    assert name_of("COMMIT") == "COMMIT"
    assert name_of("WITH c0 AS (UPDATE runs ...") == "several together"
    assert name_of(load("leaders")["probe_leader"].sql) == "leaders.probe_leader"
    assert name_of(f"ALTER ROLE x PASSWORD '{HIDDEN}'") == "another"


async def test_a_person_is_told_to_name_a_file(database_url: str) -> None:
    """What is no text does not go to a terminal."""
    controller, terminal = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stepwell_server.main", "bundle"),
        env={**os.environ, "STEPWELL_DATABASE_URL": database_url},
        stdout=terminal,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    os.close(terminal)
    os.close(controller)
    assert process.returncode == 2
    assert b"--output" in said
