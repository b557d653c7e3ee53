"""What lies in a data folder: the cluster, its password, its log, and the lock of the process that owns it."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell_server.embedded.failure import EmbeddedError

if TYPE_CHECKING:
    from stepwell_server.embedded.account import Account
    from stepwell_server.embedded.binaries import Binaries

SUPERUSER = "postgres"
LOG_BYTES = 16 * 1024 * 1024
# A socket's whole path may have 103 bytes on the strictest system, and the file's name needs about 20 of them.
SOCKET_FOLDER_BYTES = 80
BUILTIN_LOCALES_SINCE = 17


class DataFolder:
    """Paths and first-time set-up of one data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.cluster = self.root / "pgdata"
        self.log = self.root / "postgres.log"
        self._password = self.root / "password"
        self._lock = self.root / "owner.lock"
        self._lock_descriptor: int | None = None

    def prepare(self, account: Account) -> None:
        """Makes the folder; lets the account pass through it, and names the folder that it cannot pass, if any."""
        self.root.mkdir(parents=True, exist_ok=True)
        if account.switch:
            self.root.chmod(self.root.stat().st_mode | 0o011)
        obstacle = account.obstacle(self.root)
        if obstacle:
            message = (
                f"as root, Postgres runs as {account.name}, who cannot enter {obstacle}: "
                f"choose a data folder outside it, such as /var/lib/stepwell/dev"
            )
            raise EmbeddedError(message)

    def acquire(self) -> None:
        """Becomes the folder's only owner, or says who is."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            os.close(descriptor)
            message = f"{self.root} is in use by process {holder}: stop it or choose another data folder"
            raise EmbeddedError(message) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock_descriptor = descriptor

    def release(self) -> None:
        """Lets the next owner in."""
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def password(self) -> str:
        """Answers the cluster's password, made at the first call."""
        if not self._password.exists():
            if self.cluster.exists():
                message = f"{self._password} is missing: put it back, or remove {self.root} to begin anew"
                raise EmbeddedError(message)
            self._write_private(self._password, secrets.token_hex(24))
        return self._password.read_text().strip()

    def major(self) -> int | None:
        """Answers the Postgres version that made the cluster, or None if there is no cluster yet."""
        try:
            text = (self.cluster / "PG_VERSION").read_text()
        except FileNotFoundError:
            return None
        return int(text.split(".", maxsplit=1)[0])

    def create_cluster(self, binaries: Binaries, account: Account, *, durable: bool) -> None:
        """Runs initdb under another name first, so that a kill in the middle leaves no half cluster."""
        fresh = self.root / "pgdata.new"
        password_copy = self.root / "password.initdb"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        account.own(fresh)
        self._write_private(password_copy, self.password())
        account.own(password_copy)
        try:
            answer = account.run(_initdb(binaries, fresh, password_copy, durable=durable))
        finally:
            password_copy.unlink()
        if answer.returncode:
            message = f"initdb failed: {answer.stderr.strip()}"
            raise EmbeddedError(message)
        fresh.rename(self.cluster)

    def socket_folder(self, account: Account) -> Path:
        """Makes a private folder with a path short enough for a socket."""
        folder = self.root / "socket"
        if len(os.fsencode(folder)) <= SOCKET_FOLDER_BYTES:
            folder.mkdir(mode=0o700, exist_ok=True)
        else:
            base = tempfile.gettempdir()
            short = len(os.fsencode(base)) < SOCKET_FOLDER_BYTES // 2 and account.obstacle(Path(base).resolve()) is None
            folder = Path(tempfile.mkdtemp(prefix="stepwell-", dir=base if short else "/tmp"))  # noqa: S108 - mkdtemp is private
        account.own(folder)
        return folder

    def rotate_log(self) -> None:
        """Keeps one old log when the present one is large."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.rename(self.log.with_suffix(".log.1"))

    def log_since(self, position: int) -> str:
        """Answers the last lines that the server wrote after a position of its log."""
        with self.log.open("rb") as file:
            file.seek(position)
            return "\n".join(file.read().decode(errors="replace").splitlines()[-20:])

    @staticmethod
    def _write_private(path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)


def _initdb(binaries: Binaries, cluster: Path, password_file: Path, *, durable: bool) -> list[str]:
    # Sorting by code point everywhere: a system's own locale may change the order, and with it every text index.
    builtin = binaries.major >= BUILTIN_LOCALES_SINCE
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if builtin else ["--locale=C"]
    return [
        binaries.path("initdb"),
        f"--pgdata={cluster}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--encoding=UTF8",
        "--auth-local=scram-sha-256",
        "--auth-host=scram-sha-256",
        "--data-checksums",
        *locale,
        *([] if durable else ["--no-sync"]),
    ]
