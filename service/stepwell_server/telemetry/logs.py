"""Logs: one JSON object a line, or text for a person, on standard error; libraries' own lines in the same form.

Lines carry the run and the trace that they are about. They carry no payloads and no secrets: bytes are replaced by
their length, and stacks come without the values of variables.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import TextIO
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor

_SECRET = frozenset({"authorization", "password", "secret", "api_key", "database_url", "payload", "metadata"})
_TRACE_ID = slice(3, 35)


def set_up_logs(level: str = "info", form: str = "json", stream: TextIO | None = None) -> None:
    """Directs all of the process's logs. To be called once, before anything logs."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_contents,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(form)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def about(run_id: UUID | str, traceparent: str = "") -> AbstractContextManager[None]:
    """Marks the lines logged within as being about a run."""
    if traceparent:
        return structlog.contextvars.bound_contextvars(run_id=str(run_id), trace_id=traceparent[_TRACE_ID])
    return structlog.contextvars.bound_contextvars(run_id=str(run_id))


def _rendering(form: str) -> list[Processor]:
    if form == "console":
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]


def _without_contents(_logger: object, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if name in _SECRET:
            event[name] = "[left out]"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"[{len(value)} bytes]"
    return event
