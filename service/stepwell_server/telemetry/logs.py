"""Logs: one JSON object a line, or text for a person, on standard error; libraries' own lines in the same form.

Lines carry the run and the trace that they are about. They carry no payloads and no secrets: bytes are replaced by
their length, and stacks come without the values of variables, also of those that an error's own text would repeat.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO
from uuid import UUID

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

# What errors of these say may hold what they were given: parameters of a statement, a row, a text that was parsed.
_REPEATING = (ValueError, LookupError)
_REPEATING_PACKAGES = frozenset({"asyncpg", "google", "grpc", "sqlalchemy"})
_SECRET = frozenset({"authorization", "password", "secret", "api_key", "database_url", "payload", "metadata"})
_GRPC, _PEER_IS_GONE = "grpc._cython.cygrpc", "ExecuteBatchError raised in core"
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
    logging.getLogger(_GRPC).addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether it is no line of gRPC's about a peer that left before its answer: the call itself tells of that."""
    return not record.getMessage().startswith(_PEER_IS_GONE)


def about(run_id: UUID | str, traceparent: str = "") -> AbstractContextManager[None]:
    """Marks the lines logged within as being about a run."""
    if traceparent:
        return structlog.contextvars.bound_contextvars(run_id=str(run_id), trace_id=traceparent[_TRACE_ID])
    return structlog.contextvars.bound_contextvars(run_id=str(run_id))


def about_job(job_id: UUID | str, traceparent: str) -> AbstractContextManager[None]:
    """Marks the lines logged within as being about a job."""
    return structlog.contextvars.bound_contextvars(job_id=str(job_id), trace_id=traceparent[_TRACE_ID])


def about_call(traceparent: str) -> AbstractContextManager[None]:
    """Marks the lines logged within as being about a call of that trace."""
    return structlog.contextvars.bound_contextvars(trace_id=traceparent[_TRACE_ID]) if traceparent else nullcontext()


def words_of(error: BaseException) -> str:
    """What may be told of an error: its type, and what it says, unless that may repeat what it was given."""
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    name = kind.__qualname__ if package in {"builtins", "stepwell_server"} else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, _REPEATING) or package in _REPEATING_PACKAGES:
        return name
    return f"{name}: {error}".removesuffix(": ")


def _stack(exc_info: ExcInfo) -> str:
    return "\n\nwhich led to:\n\n".join(_parts(exc_info[1], set()))


def _parts(error: BaseException | None, shown: set[int]) -> Iterator[str]:
    """An error after those that led to it, as Python shows them but for what they say."""
    if error is None or id(error) in shown:
        return
    shown.add(id(error))
    yield from _parts(error.__cause__ or (None if error.__suppress_context__ else error.__context__), shown)
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _parts(inner, shown)
    yield "".join([*traceback.format_tb(error.__traceback__), words_of(error)])


def _write_stack(out: TextIO, exc_info: ExcInfo) -> None:
    out.write(_stack(exc_info))


def _rendering(form: str) -> list[Processor]:
    if form == "console":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_stack)]
    return [structlog.processors.ExceptionRenderer(_stack), structlog.processors.JSONRenderer(default=str)]


def _without_contents(_logger: object, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if name in _SECRET:
            event[name] = "[left out]"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"[{len(value)} bytes]"
    return event
