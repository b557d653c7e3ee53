"""OpenTelemetry, where it is installed and set up; nothing otherwise."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace
except ImportError:
    _has_otel = False
else:
    _has_otel = True

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context

_SAMPLED = 1
_PARTS = 4


def current_traceparent() -> str:
    """Gives the W3C trace context of the calling code, empty if there is none."""
    if not _has_otel:
        return ""
    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" if span.is_valid else ""


def _remote(traceparent: str) -> Context | None:
    parts = traceparent.split("-")
    if len(parts) < _PARTS:
        return None
    try:
        span = trace.SpanContext(
            trace_id=int(parts[1], 16),
            span_id=int(parts[2], 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(int(parts[3], 16)),
        )
    except ValueError:
        return None
    return trace.set_span_in_context(trace.NonRecordingSpan(span))


def join(traceparent: str) -> None:
    """Lets spans that the present task starts belong to a trace."""
    if _has_otel and traceparent:
        context = _remote(traceparent)
        if context is not None:
            otel_context.attach(context)


@contextlib.contextmanager
def _activity_span(kind: str, traceparent: str, attributes: dict[str, str | int]) -> Iterator[None]:
    tracer = trace.get_tracer("stepwell")
    with tracer.start_as_current_span(
        f"stepwell.activity {kind}", context=_remote(traceparent), attributes=attributes, kind=trace.SpanKind.CONSUMER
    ):
        yield


def activity_span(
    kind: str, traceparent: str, attributes: dict[str, str | int]
) -> contextlib.AbstractContextManager[None]:
    """Opens a span for an attempt, in its run's trace, if spans are recorded at all."""
    if not _has_otel or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return contextlib.nullcontext()
    return _activity_span(kind, traceparent, attributes)
