"""Spans, metrics and logs: how a running service is seen."""

from stepwell_server.telemetry.logs import about, set_up_logs
from stepwell_server.telemetry.metrics import count_refusal, serve_metrics
from stepwell_server.telemetry.spans import (
    caller_context,
    claim_span,
    heartbeat_span,
    is_exporting,
    is_sampled,
    new_root,
    new_traceparent,
    server_span,
    session_heartbeat_span,
    session_traceparent,
    set_up_tracing,
    shut_down_tracing,
    valid_traceparent,
)

__all__ = [
    "about",
    "caller_context",
    "claim_span",
    "count_refusal",
    "heartbeat_span",
    "is_exporting",
    "is_sampled",
    "new_root",
    "new_traceparent",
    "serve_metrics",
    "server_span",
    "session_heartbeat_span",
    "session_traceparent",
    "set_up_logs",
    "set_up_tracing",
    "shut_down_tracing",
    "valid_traceparent",
]
