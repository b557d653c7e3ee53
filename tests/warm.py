"""The command `stepwell` as processes that start warm: each is forked from one that has imported the program.

What it imports is most of what a short command costs, and tests give hundreds of them. Whoever runs the program that
`command` names is a process with the arguments, environment, folder and standard streams that it was given; it gets the
signals that are meant to end it, and ends as the fork ends. That the installed program starts is for other tests.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """\
#!{python} -IS
import json, os, signal, socket, sys

MEANT = (signal.SIGINT, signal.SIGTERM)
# One that comes before there is a fork to give it to waits.
signal.pthread_sigmask(signal.SIG_BLOCK, MEANT)
with socket.socket(socket.AF_UNIX) as door:
    door.connect({path!r})
    told = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(door, [len(told).to_bytes(4, "big")], [0, 1, 2])
    door.sendall(told)
    pid = int.from_bytes(door.recv(4), "big") or sys.exit("the forker is gone")
    for number in MEANT:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MEANT)
    code = int(door.recv(16) or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def command() -> Path:
    """The program to run in place of the installed one. It lasts as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="stepwell-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(folder / "door"))
    door.listen(64)
    # Nobody waits for it to be ready: who comes early waits at the door.
    forker = subprocess.Popen(
        [sys.executable, str(Path(__file__)), str(door.fileno())],
        pass_fds=[door.fileno()],
        stdin=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    door.close()
    atexit.register(_end, forker)
    program = folder / "stepwell"
    program.write_text(PROGRAM.format(python=sys.executable, path=str(folder / "door")))
    program.chmod(0o755)
    return program


def _end(forker: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(forker.pid, signal.SIGKILL)
    forker.wait()


def _serve(door: socket.socket) -> None:
    """Forks for each who comes, until the tests' process is gone."""
    from typer import _adapters  # noqa: PLC0415, F401 - imported by a command when it runs

    from stepwell.cli import app  # noqa: PLC0415, F401 - not for those who start this

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while door in select.select([door, sys.stdin], [], [])[0]:
        there, _ = door.accept()
        if os.fork() == 0:
            door.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _attend(there)
        there.close()
    return None


def _attend(there: socket.socket) -> None:
    """Runs the command in a process of its own, and tells how it ended."""
    size, streams, _, _ = socket.recv_fds(there, 4, 3)
    with there.makefile("rb") as told:
        arguments, environment, folder = json.loads(told.read(int.from_bytes(size, "big")))
    pid = os.fork()
    if pid:
        there.sendall(pid.to_bytes(4, "big"))
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):
            there.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    there.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["stepwell", *arguments]
    from stepwell.cli.main import main  # noqa: PLC0415 - as above

    main()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
