"""Where the audit log goes: to a file of its own, or with the other logs as those of the logger `stepwell.audit`."""

from __future__ import annotations

import json
import logging
import logging.handlers
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

_NAME = "stepwell.audit"
_EVENT = "audit"


class AuditLog:
    """JSON lines appended to a file, which is opened anew when it was moved; or the logs, where no file is given.

    Raises OSError if the file can't be opened. Once it is, a record that can't be written is told of on standard error
    and holds nobody up.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = logging.handlers.WatchedFileHandler(path, encoding="utf-8") if path is not None else None
        # Whatever is left out of the other logs, records are not.
        logging.getLogger(_NAME).setLevel(logging.INFO)
        self._log = structlog.get_logger(_NAME)

    def write(self, facts: Mapping[str, object]) -> None:
        """Writes a record."""
        if self._file is None:
            self._log.info(_EVENT, **facts)
            return
        line = json.dumps({"timestamp": datetime.now(UTC).isoformat(), "event": _EVENT, **facts})
        self._file.handle(logging.LogRecord(_NAME, logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
