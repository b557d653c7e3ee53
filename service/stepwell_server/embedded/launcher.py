"""A program of its own, run as a file: becomes an account, and then the program that it is given.

    launcher.py USER GROUP PROGRAM [ARGUMENT...]

It does between exec and exec, in a process without threads, what must not be done between fork and exec. See `account`.
"""

from __future__ import annotations

import os
import sys

_CANNOT_RUN = 126


def main() -> int:
    """Answers an exit code only if the program cannot be run."""
    user, group, *command = sys.argv[1:]
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
    try:
        os.execv(command[0], command)  # noqa: S606 - its business
    except OSError as error:
        print(f"cannot run {command[0]} as user {user}: {error}", file=sys.stderr)  # noqa: T201 - for who started it
    return _CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
