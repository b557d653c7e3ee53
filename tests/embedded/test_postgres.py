"""The embedded server survives, is adopted, and has one owner."""

# ruff: noqa: ASYNC220, ASYNC240 - what blocks here is the test alone

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from stepwell_server.embedded import EmbeddedError, EmbeddedPostgres, create_database
from stepwell_server.embedded.account import account_for
from stepwell_server.embedded.binaries import Binaries, _copied, provide
from stepwell_server.embedded.postmaster import Postmaster

if TYPE_CHECKING:
    from collections.abc import Sequence

OWNER = """
import asyncio, sys
from pathlib import Path
from stepwell_server.embedded import EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]))
    await postgres.start()
    print(postgres.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def fetch_value(url: str, query: str, parameters: Sequence[object] = ()) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *parameters)
    finally:
        await connection.close()


def is_running(pid: int, data_dir: Path) -> bool:
    return Postmaster(pid, data_dir.resolve() / "pgdata").is_alive()


async def test_is_durable_by_default(data_dir: Path) -> None:
    """A commit survives a power cut unless a test asks otherwise."""
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await fetch_value(postgres.url, "SHOW fsync") == "on"
        assert await fetch_value(postgres.url, "SHOW synchronous_commit") == "on"


async def test_comes_back_after_a_kill_with_what_was_committed(data_dir: Path) -> None:
    """A server killed with -9 is started again at the same address and has lost nothing."""
    async with EmbeddedPostgres(data_dir) as postgres:
        await execute(postgres.url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
        url, tcp_url = postgres.url, postgres.tcp_url
        for kill in range(3):
            before = postgres.pid
            os.kill(before, signal.SIGKILL)
            await asyncio.wait_for(postgres.wait_restarted(beyond=kill), 60)
            assert postgres.pid != before
            assert (postgres.url, postgres.tcp_url) == (url, tcp_url)
            assert await fetch_value(url, "SELECT n FROM kept") == 7
            assert await fetch_value(tcp_url, "SELECT n FROM kept") == 7


async def test_runs_on_when_its_owner_is_killed_and_is_adopted(data_dir: Path) -> None:
    """A later owner of the folder takes over the very server, restarts it when it dies, and stops it."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(await asyncio.to_thread(owner.stdout.readline))
        with pytest.raises(EmbeddedError, match=f"in use by process {owner.pid}"):
            await EmbeddedPostgres(data_dir).start()
        owner.kill()
    assert is_running(pid, data_dir)

    async with EmbeddedPostgres(data_dir) as postgres:
        assert postgres.adopted
        assert postgres.pid == pid
        await execute(postgres.url, "CREATE TABLE kept ()")
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(postgres.wait_restarted(), 60)
        await execute(postgres.url, "TABLE kept")
        last = postgres.pid
    assert not is_running(last, data_dir)


async def test_is_left_running_when_asked(data_dir: Path) -> None:
    """An owner that steps aside hands the server over."""
    first = EmbeddedPostgres(data_dir)
    await first.start()
    pid = first.pid
    await first.stop(leave_running=True)
    async with EmbeddedPostgres(data_dir) as second:
        assert second.pid == pid


async def test_is_not_adopted_when_it_would_lose_commits(data_dir: Path) -> None:
    """A durable owner never takes over a server that runs without fsync."""
    first = EmbeddedPostgres(data_dir, durable=False)
    await first.start()
    await first.stop(leave_running=True)
    async with EmbeddedPostgres(data_dir) as second:
        assert not second.adopted
        assert await fetch_value(second.url, "SHOW fsync") == "on"


async def test_has_one_owner(data_dir: Path) -> None:
    """A second owner is refused, told who is first, and does not disturb it."""
    async with EmbeddedPostgres(data_dir) as postgres:
        with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"):
            await EmbeddedPostgres(data_dir).start()
        assert await fetch_value(postgres.url, "SELECT 1") == 1


async def test_two_folders_live_side_by_side(session_dir: Path, data_dir: Path) -> None:
    """Folders share nothing, also when one path is too long for a socket."""
    long_dir = session_dir / ("long" * 25)
    async with EmbeddedPostgres(data_dir) as one, EmbeddedPostgres(long_dir) as other:
        assert one.port != other.port
        await execute(one.url, "CREATE DATABASE only_here")
        assert not await fetch_value(other.url, "SELECT count(*) FROM pg_database WHERE datname = 'only_here'")
        os.kill(one.pid, signal.SIGKILL)
        await asyncio.wait_for(one.wait_restarted(), 60)
        assert other.restart_count == 0
        assert await fetch_value(other.tcp_url, "SELECT 1") == 1


async def test_refuses_a_folder_of_another_version(data_dir: Path) -> None:
    """Data of another Postgres is left alone, and the message names the way."""
    async with EmbeddedPostgres(data_dir, durable=False):
        pass
    (data_dir / "pgdata" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match=r"made by Postgres 12.*pg_upgrade"):
        await EmbeddedPostgres(data_dir).start()


async def test_starts_after_a_pid_was_given_away_again(data_dir: Path) -> None:
    """A stale pid file that names some living process does not keep the server from starting."""
    async with EmbeddedPostgres(data_dir, durable=False) as postgres:
        stale = (data_dir / "pgdata" / "postmaster.pid").read_text().split("\n")
        uid = (data_dir / "pgdata").stat().st_uid
        pid = postgres.pid
    with account_for(data_dir / "pgdata").launch(
        ["/bin/sleep", "60"], cwd=Path("/"), output=sys.stderr.buffer
    ) as stranger:
        record = data_dir / "pgdata" / "postmaster.pid"
        record.write_text("\n".join([str(stranger.pid), *stale[1:]]))
        os.chown(record, uid, -1)
        try:
            async with EmbeddedPostgres(data_dir, durable=False) as postgres:
                assert postgres.pid not in {pid, stranger.pid}
                assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_names_a_port_that_is_taken(data_dir: Path) -> None:
    """A port that was asked for and is taken is an error; the folder is free again afterwards."""
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        with pytest.raises(EmbeddedError, match=f"port {port}"):
            await EmbeddedPostgres(data_dir, port=port).start()
    async with EmbeddedPostgres(data_dir, port=port) as postgres:
        assert postgres.port == port


async def test_keeps_strangers_out(data_dir: Path) -> None:
    """Neither door opens without the password, and the password is for the owner's eyes."""
    async with EmbeddedPostgres(data_dir, durable=False) as postgres:
        password = (data_dir / "password").read_text()
        assert stat.S_IMODE((data_dir / "password").stat().st_mode) == 0o600
        assert stat.S_IMODE((data_dir / "pgdata").stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir / "socket").stat().st_mode) == 0o700
        for url in (postgres.url, postgres.tcp_url):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(url.replace(password, "guess"))


async def test_finishes_an_initdb_that_was_cut_off(data_dir: Path) -> None:
    """A half-made cluster from a killed first start is no obstacle."""
    (data_dir / "pgdata.new" / "base").mkdir(parents=True)
    async with EmbeddedPostgres(data_dir, durable=False) as postgres:
        assert await fetch_value(postgres.url, "SELECT 1") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root hands Postgres to another account")
class TestAsRoot:
    async def test_runs_as_somebody_else(self, data_dir: Path) -> None:
        """Root's Postgres is not root's."""
        async with EmbeddedPostgres(data_dir, durable=False) as postgres:
            assert Path(f"/proc/{postgres.pid}").stat().st_uid != 0

    async def test_names_the_folder_that_is_closed(self, data_dir: Path) -> None:
        """A data folder within a private one is refused, and the private one stays private."""
        data_dir.mkdir(mode=0o700)
        with pytest.raises(EmbeddedError, match=f"cannot enter {data_dir.resolve()}"):
            await EmbeddedPostgres(data_dir / "inside").start()
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700

    async def test_copies_binaries_out_of_a_closed_folder(self, data_dir: Path) -> None:
        """Binaries from a private place run from a copy, made once."""
        account = account_for(data_dir)
        found = provide(account, major=None, spare=data_dir)
        closed = data_dir / "closed"
        data_dir.mkdir(mode=0o711)
        closed.mkdir(mode=0o700)
        shutil.copytree(found.folder.parent, closed / "pginstall")
        private = Binaries(closed / "pginstall" / "bin", found.version)
        assert account.run([private.path("postgres"), "--version"]).returncode
        copy = _copied(private, account, (data_dir / "spare",))
        assert copy is not None
        assert account.run([copy.path("postgres"), "--version"]).stdout.split()[-1] == found.version
        made = copy.folder.stat().st_ctime_ns
        assert _copied(private, account, (data_dir / "spare",)) == copy
        assert copy.folder.stat().st_ctime_ns == made


async def test_copies_a_template(server_url: str) -> None:
    """A database made from another one has what is in it, and its URL leads there."""
    source = await create_database(server_url, "copied from")
    await execute(source, "CREATE TABLE there ()")
    copy = await create_database(server_url, 'odd "name"', "copied from")
    try:
        assert await fetch_value(copy, "SELECT current_database()") == 'odd "name"'
        await execute(copy, "TABLE there")
    finally:
        await execute(server_url, 'DROP DATABASE "odd ""name"""', 'DROP DATABASE "copied from"')
