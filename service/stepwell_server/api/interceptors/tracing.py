"""A span for each unary call, in the caller's trace. Streams have none: no span should live as long as they do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc

from stepwell_server import telemetry
from stepwell_server.api.interceptors.around import NOTHING, AroundCalls, Context

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Tracing(AroundCalls):
    """Surrounds unary calls by SERVER spans, when somebody exports them. The outermost: it reads the final status."""

    unary_only = True

    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        # Probes would fill every trace store.
        if not telemetry.is_exporting() or method.startswith("/grpc."):
            return NOTHING
        traceparent, tracestate = telemetry.caller_context(context.invocation_metadata() or ())
        if traceparent and not telemetry.is_sampled(telemetry.decided(traceparent)):
            return NOTHING
        return _span(method.removeprefix("/"), context, traceparent, tracestate)


@asynccontextmanager
async def _span(method: str, context: Context, traceparent: str, tracestate: str) -> AsyncIterator[None]:
    with telemetry.server_span(method, traceparent, tracestate) as finish:
        try:
            yield
        finally:
            finish(_outcome(context))


def _outcome(context: Context) -> str:
    # The context learns of a cancellation only after the handler has ended.
    if isinstance(sys.exception(), asyncio.CancelledError):
        return "CANCELLED"
    # Whatever the stub says, it is the number, or nothing where a handler simply returned.
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _CODES[code or 0]
