"""A base backup and the log of a database, brought to a moment in between: what was recorded by then is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.main.program import outcome
from tests.stream.calls import Caller, code_of
from tests.stream.kit import ACCEPTED, RUN, replica, until
from tests.upgrades import dumps
from tests.upgrades.ground import claimed, connected

from stepwell.v1 import runs_pb2
from stepwell_server.embedded import EmbeddedPostgres, create_database
from stepwell_server.store.migrations import migrate
from stepwell_server.store.restorations import JUMP

LOGGED = {"wal_level": "replica", "max_wal_senders": "4", "full_page_writes": "on", "autovacuum": "off"}


def fresh_folder(path: Path) -> Path:
    """A folder that the server's account may pass through."""
    path.mkdir(mode=0o711)
    return path


def given(path: Path, cluster: Path) -> Path:
    """A folder, or what has been put there, in the hands of the account that runs the server."""
    path.mkdir(mode=0o700, exist_ok=True)
    owner = cluster.stat()
    for each in (path, *path.rglob("*")):
        os.chown(each, owner.st_uid, owner.st_gid)
    return path


def aim(base: Path, *settings: str) -> None:
    """Tells a base backup how far to go when it starts."""
    with (base / "postgresql.auto.conf").open("a") as conf:
        conf.writelines(f"{setting}\n" for setting in (*settings, "recovery_target_action = 'promote'"))
    (base / "recovery.signal").touch()


async def archived(url: str) -> None:
    """Returns once all that has been written is in the archive."""
    async with connected(url) as sql:
        name = await sql.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
        done = "SELECT coalesce(last_archived_wal >= $1, FALSE) FROM pg_stat_archiver"
        await until(lambda: sql.fetchval(done, name))


@pytest.mark.long
async def test_a_moment_between_two_backups(data_dir: Path) -> None:
    """A run that was held then goes on under a higher token; what was started later is not known."""
    log = fresh_folder(data_dir) / "log"
    keeping = LOGGED | {"archive_mode": "on", "archive_command": f"test ! -f {log}/%f && cp %p {log}/%f"}
    async with EmbeddedPostgres(data_dir / "old", durable=False, extra=keeping) as old:
        cluster = data_dir / "old" / "pgdata"
        given(log, cluster)
        url = await create_database(old.url, "app")
        await migrate(url)
        base = fresh_folder(data_dir / "new") / "pgdata"
        program = await dumps.folder_for(url) / "pg_basebackup"
        await dumps.run(program, f"--dbname={old.url}", f"--pgdata={base}", "--checkpoint=fast", "--wal-method=stream")
        async with replica(url, session_seconds=60.0) as one:
            early = await one.start()
            caller = await Caller.of(one)
            (held,) = await caller.claim(kind=RUN)
            async with connected(url) as sql:
                moment = await sql.fetchval("SELECT clock_timestamp()::text")
            late = await one.start()
            assert (await code_of(caller, held).complete(value=1)).status == ACCEPTED
        await archived(url)
    aim(base, f"restore_command = 'cp {log}/%f %p'", f"recovery_target_time = '{moment}'")
    given(base, cluster)
    shutil.copy(data_dir / "old" / "password", data_dir / "new" / "password")
    async with EmbeddedPostgres(data_dir / "new", durable=False, extra=LOGGED) as new:
        url = new.url.replace("/postgres?", "/app?")
        async with connected(url) as sql:
            await until(lambda: sql.fetchval("SELECT NOT pg_is_in_recovery()"))
        code, said = await outcome("restored", DATABASE_URL=url)
        assert code == 0, said
        async with replica(url, session_seconds=5.0) as one:
            runs = await one.runs.ListRuns(runs_pb2.ListRunsRequest())
            assert [run.run_id for run in runs.runs] == [early], late
            fresh = await Caller.of(one)
            (again,) = await claimed(fresh, RUN)
            assert again.ref.token > JUMP
            assert (await code_of(fresh, again).complete(value=2)).status == ACCEPTED
