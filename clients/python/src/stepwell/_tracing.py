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

    from stepwell.v1.workers_pb2 import Task

_SAMPLED = 1
_PARTS = 4


def current_traceparent() -> str:
    """Gives the W3C trace context of the calling code, empty if there is none."""
    if not _has_otel or not otel_context.get_current():
        return ""
    span = trace.get_current_span().get_span_context()
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}" if span.is_valid else ""


def records_spans() -> bool:
    """Tells whether this program has set tracing up."""
    return _has_otel and not isinstance(
        trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider
    )


def _remote(traceparent: str) -> Context | None:
    parts = traceparent.split("-")
    if len(parts) < _PARTS:
        return None
    try:
        flags = trace.TraceFlags(int(parts[3], 16))
        span = trace.SpanContext(int(parts[1], 16), int(parts[2], 16), is_remote=True, trace_flags=flags)
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
def activity_span(task: Task) -> Iterator[str]:
    """Opens a span for an attempt, in its run's trace, where spans are recorded, and gives its trace context."""
    attributes: dict[str, str | int] = {"stepwell.attempt": task.attempt}
    if task.job_id:
        attributes |= {"stepwell.job": task.job_id}
    else:
        attributes |= {"stepwell.run_id": task.run_id, "stepwell.step": task.step_name}
    tracer = trace.get_tracer("stepwell")
    with tracer.start_as_current_span(
        f"stepwell.activity {task.type}",
        context=_remote(task.traceparent),
        attributes=attributes,
        kind=trace.SpanKind.CONSUMER,
    ):
        yield current_traceparent()
