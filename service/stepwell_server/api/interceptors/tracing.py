"""A span for each unary call, in the caller's trace. Streams have none: no span should live as long as they do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from stepwell_server import telemetry
from stepwell_server.api.interceptors.around import NOTHING, AroundCalls, Context
from stepwell_server.api.interceptors.outcomes import outcome


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
            finish(outcome(context))
