"""Exceptions as failures of the protocol."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from stepwell.errors import ApplicationError, StepError
from stepwell.policies import duration
from stepwell.v1.types_pb2 import Failure

if TYPE_CHECKING:
    from stepwell.converter import DataConverter

_MESSAGE_LENGTH = 4096
_TRACE_LENGTH = 16384


def failure_of(error: BaseException, converter: DataConverter) -> Failure:
    """Spells an exception; `Failure.type` is its class's name."""
    # The lines nearest to the fault are at the end.
    trace = "".join(traceback.format_exception(error))[-_TRACE_LENGTH:]
    message = _storable(str(error))[:_MESSAGE_LENGTH]
    if isinstance(error, ApplicationError):
        return Failure(
            message=message,
            type=error.type,
            stack_trace=_storable(trace),
            non_retryable=error.non_retryable,
            details=None if error.details is None else converter.to_payload(error.details),
            next_retry_delay=duration(error.retry_after),
        )
    details = error.failure.details if isinstance(error, StepError) and error.failure is not None else None
    return Failure(message=message, type=type(error).__name__, stack_trace=_storable(trace), details=details)


def _storable(text: str) -> str:
    """Takes out what the service does not store: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\\0").encode(errors="replace").decode()
