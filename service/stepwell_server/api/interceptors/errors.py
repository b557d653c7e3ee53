"""Answers a call that failed. The only one that catches on the way of a call: all else raises what it knows.

A declared refusal becomes its canonical code with the details that `to_status` gives it. What was not declared is the
service's own fault: the caller gets an id, the log gets the same id and the stack.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import grpc
import grpc.aio
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from stepwell_server import telemetry
from stepwell_server.api.interceptors.around import AroundCalls, Context
from stepwell_server.errors import (
    CallTimedOut,
    DatabaseContended,
    DatabaseUnavailable,
    InternalError,
    MethodUnimplemented,
    QueueFull,
)
from stepwell_server.ids import uuid7
from stepwell_server.refusals import InvalidArgument, Refusal
from stepwell_server.store.faults import Lost, NoConnectionFree

DOMAIN = "stepwell.dev"
DETAILS_KEY = "grpc-status-details-bin"

# Peers may refuse trailers beyond 8 KiB, and would then show no details at all.
_TEXT = 512
_VIOLATIONS = 8

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# The last is what a standby says of a write, or a database that was told to take none.
_DISCONNECTS = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25006"})
# Connections, authorization (a password that was changed), resources (disk, memory, connections).
_UNAVAILABLE_CLASSES = ("08", "28", "53")
_CONTENTION = frozenset({"40001", "40P01", "55P03"})
_STATEMENT_TIMEOUT = "57014"

log = structlog.get_logger()


class Errors(AroundCalls):
    """Turns what handlers raise into statuses. The outermost of the interceptors that look at outcomes."""

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        return _Answering(method, context)


class _Answering:
    """Around one call. A class, since each call is surrounded: `asynccontextmanager` costs several times as much."""

    __slots__ = ("_context", "_method")

    def __init__(self, method: str, context: Context) -> None:
        self._method = method
        self._context = context

    async def __aenter__(self) -> None:
        """Nothing to do yet."""

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # One that aborted has answered already.
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return
        try:
            if isinstance(error, grpc.aio.InternalError):
                raise error
            with telemetry.about_call(telemetry.caller_context(self._context.invocation_metadata() or ())[0]):
                refusal = as_refusal(error, self._method)
            await _abort(self._context, refusal)
        except grpc.aio.InternalError as gone:
            # A write met a peer that is gone; nobody is left to be answered.
            log.info("call.abandoned", method=self._method)
            raise asyncio.CancelledError from gone


def as_refusal(error: Exception, method: str = "") -> Refusal:
    """Finds what to tell of an exception. One that nobody declared is logged with its stack."""
    if isinstance(error, Refusal):
        if isinstance(error, InternalError):
            # Whoever made it has told its cause, under the same id.
            log.error("call.failed", method=method, error_id=str(error.error_id))
        return error
    if isinstance(error, NotImplementedError):
        # Raised by the generated base of a servicer, for a method that it does not have.
        return MethodUnimplemented(method=method)
    if isinstance(error, NoConnectionFree):
        return QueueFull(queue="database")
    states = _sql_states(error)
    if isinstance(error, TimeoutError) or _STATEMENT_TIMEOUT in states:
        return CallTimedOut()
    if _is_disconnect(error, states):
        log.warning("database.disconnected", method=method, error=type(error).__name__)
        return DatabaseUnavailable()
    if states & _CONTENTION:
        return DatabaseContended()
    refusal = InternalError(error_id=uuid7())
    log.error("call.failed", method=method, error_id=str(refusal.error_id), exc_info=error)
    return refusal


def to_status(refusal: Refusal) -> status_pb2.Status:
    """Renders a refusal for an answer of a batch, or for the trailers of a call; and counts it."""
    telemetry.count_refusal(refusal.reason)
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason,
        domain=DOMAIN,
        metadata={key: _shortened(value) for key, value in refusal.metadata.items()},
    )
    status = status_pb2.Status(code=refusal.code, message=_shortened(refusal.message), details=[_packed(info)])
    if isinstance(refusal, InvalidArgument) and (violations := refusal.field_violations()):
        status.details.append(_packed(_bad_request(violations)))
    retry_seconds = getattr(refusal, "retry_seconds", None)
    if retry_seconds is not None:
        nanos = round(retry_seconds * 1e9)
        delay = Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


async def _abort(context: Context, refusal: Refusal) -> None:
    status = to_status(refusal)
    trailers = (*(context.trailing_metadata() or ()), (DETAILS_KEY, status.SerializeToString()))
    await context.abort(_CODES[refusal.code], status.message, trailers)


def _bad_request(violations: tuple[tuple[str, str], ...]) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for field, problem in violations[:_VIOLATIONS]:
        bad_request.field_violations.add(field=_shortened(field), description=_shortened(problem))
    left_out = len(violations) - _VIOLATIONS
    if left_out > 0:
        bad_request.field_violations.add(field="", description=f"and {left_out} more")
    return bad_request


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _chain(error: BaseException) -> list[BaseException]:
    """Lists an exception and those beneath it; SQLAlchemy keeps the driver's as `orig`."""
    chain = [error]
    for link in chain:
        below = getattr(link, "orig", None) or link.__cause__
        if isinstance(below, BaseException) and all(below is not seen for seen in chain):
            chain.append(below)
    return chain


def _sql_states(error: BaseException) -> frozenset[str]:
    """Reads the codes of the database by their name: drivers themselves stay in the store."""
    states = (getattr(link, "sqlstate", None) for link in _chain(error))
    return frozenset(state for state in states if isinstance(state, str))


def _is_disconnect(error: BaseException, states: frozenset[str]) -> bool:
    if states & _DISCONNECTS or any(state.startswith(_UNAVAILABLE_CLASSES) for state in states):
        return True
    return any(
        isinstance(link, (ConnectionError, Lost)) or getattr(link, "connection_invalidated", False)
        for link in _chain(error)
    )
