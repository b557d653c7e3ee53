"""Where the command begins: says what to install, or hands over."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

_SHOW_CURSOR = b"\x1b[?25h"
_INTERRUPTED = 130

interrupted: list[Callable[[], None]] = []
"""What Ctrl-C calls in place of leaving at once, each time: for a command with more to tidy than the cursor."""


def main() -> None:
    """Runs the command."""
    if sys.platform != "win32":
        _leave_when_interrupted()
    try:
        from stepwell.cli.app import app  # noqa: PLC0415 - its imports need an extra
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit("the command needs more than the client: pip install 'stepwell[cli]'")
    app()


if sys.platform != "win32":

    def _leave_when_interrupted() -> None:
        """Lets a thread of its own wait for Ctrl-C.

        `KeyboardInterrupt` would not do: one that comes just before the main thread waits for an answer is told to it
        only when that answer comes, and one that strikes in a callback of the interpreter is printed and forgotten.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=_leave, name="stepwell-interrupt", daemon=True).start()

    def _leave() -> None:
        """Leaves with nothing to tidy but the cursor, which a progress bar hides, unless a command does it itself."""
        signal.sigwait({signal.SIGINT})
        while interrupted:
            for act in interrupted:
                act()
            signal.sigwait({signal.SIGINT})
        if os.isatty(sys.stderr.fileno()):
            os.write(sys.stderr.fileno(), _SHOW_CURSOR + b"\n")
        os._exit(_INTERRUPTED)
