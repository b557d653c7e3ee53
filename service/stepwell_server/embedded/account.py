"""The operating-system account that Postgres runs as.

Postgres refuses to run as root. Root therefore hands it to an account that exists already; no account is created and
no permission of a parent folder is ever changed.

A fork beside gRPC's threads runs gRPC's handlers in the child, which crash it more often than not (signal 11, or
"epoll_wait error: Bad file descriptor" and signal 6). `subprocess` forks when it is told to change the user, and uses
vfork, which runs no handlers, when it is not (on Linux). So a launcher becomes the account, after an exec.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from stepwell_server.embedded.failure import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNPRIVILEGED = ("nobody", "postgres", "daemon")
# LC_ALL=C keeps the server's messages in English: one of them is looked for when a port is taken.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_LAUNCHER = str(Path(__file__).with_name("launcher.py"))


@dataclass(frozen=True, slots=True)
class Account:
    """Who owns the data and runs the server; `switch` when that is not the present user."""

    name: str
    uid: int
    gid: int
    switch: bool

    def own(self, path: Path) -> None:
        """Gives the path to this account."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def launch(self, command: Sequence[str], *, cwd: Path, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts a program as this account, in a session of its own, so that no terminal's Ctrl-C reaches it."""
        try:
            return subprocess.Popen(
                self._through(command),
                cwd=cwd,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            message = f"cannot run {command[0]} as {self.name}: {error}"
            raise EmbeddedError(message) from error

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a short program as this account to its end."""
        try:
            return subprocess.run(
                self._through(command),
                cwd="/",
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            return subprocess.CompletedProcess(command, 126, "", str(error))

    def _through(self, command: Sequence[str]) -> Sequence[str]:
        """The command that runs this command as this account."""
        if not self.switch:
            return command
        return [sys.executable, "-I", "-S", _LAUNCHER, str(self.uid), str(self.gid), *command]

    def obstacle(self, path: Path) -> Path | None:
        """Answers the first folder on the way to the path that this account cannot enter, if there is one."""
        if not self.switch:
            return None
        for folder in [*reversed(path.parents), path]:
            if self.run(["/bin/sh", "-c", 'test -x "$1"', "sh", str(folder)]).returncode:
                return folder
        return None


def account_for(cluster: Path) -> Account:
    """Chooses the owner of an existing cluster, else the present user, else (for root) an unprivileged account."""
    uid = os.getuid()
    if cluster.exists():
        owner = cluster.stat()
        if owner.st_uid != uid:
            if uid:
                message = f"{cluster} belongs to user {owner.st_uid}: run as that user or choose another data folder"
                raise EmbeddedError(message)
            return Account(str(owner.st_uid), owner.st_uid, owner.st_gid, switch=True)
    if uid:
        return Account(str(uid), uid, os.getgid(), switch=False)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    message = f"Postgres does not run as root and none of the accounts {', '.join(UNPRIVILEGED)} exists: run as a user"
    raise EmbeddedError(message)
