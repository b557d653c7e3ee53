"""Where the audit log goes: to a file of its own, or with the other logs as those of the logger `stepwell.audit`."""

from __future__ import annotations

import json
import logging
import logging.handlers
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog

_NAME = "stepwell.audit"
_EVENT = "audit"

Write = Callable[[Mapping[str, object]], None]


def audit_writer(path: Path | None) -> Write:
    """What writes records: JSON lines appended to a file, which is opened anew when it was moved; or the logs.

    Raises OSError if the file can't be opened. Once it is, a record that can't be written is told of on standard error
    and holds nobody up.
    """
    if path is None:
        # Whatever is left out of the other logs, records are not.
        logging.getLogger(_NAME).setLevel(logging.INFO)
        log = structlog.get_logger(_NAME)
        return lambda facts: log.info(_EVENT, **facts)
    handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")

    def write(facts: Mapping[str, object]) -> None:
        line = json.dumps({"timestamp": datetime.now(UTC).isoformat(), "event": _EVENT, **facts})
        handler.handle(logging.LogRecord(_NAME, logging.INFO, "", 0, line, None, None))

    return write
