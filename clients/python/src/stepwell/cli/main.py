"""Where the command begins: says what to install, or hands over."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command."""
    try:
        from stepwell.cli.app import app  # noqa: PLC0415 - its imports need an extra
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit("the command needs more than the client: pip install 'stepwell[cli]'")
    app()
