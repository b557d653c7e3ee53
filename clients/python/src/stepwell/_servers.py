"""Where a server that tests start for themselves is found, lives and listens."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path


def server_program() -> str:
    """Gives the program of the server: the one that STEPWELL_SERVER names, or beside this Python, or on the PATH."""
    named = os.environ.get("STEPWELL_SERVER")
    beside = os.path.dirname(sys.executable)  # noqa: PTH120 - only text is wanted
    return named or shutil.which("stepwell-server", path=beside) or "stepwell-server"


def make_folder(prefix: str = "stepwell-test-") -> Path:
    """Makes a temporary folder for a server's data."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    # An unprivileged Postgres must be able to pass, when tests are run as root.
    folder.chmod(0o711)
    return folder


def free_port() -> int:
    """Gives a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
