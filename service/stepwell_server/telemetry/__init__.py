"""Spans, metrics and logs: how a running service is seen."""

from stepwell_server.telemetry.contexts import caller_context, is_sampled, of_successor, valid_traceparent
from stepwell_server.telemetry.logs import about, about_call, about_job, set_up_logs, words_of
from stepwell_server.telemetry.metrics import count_refusal, serve_metrics, set_certificate_expiry
from stepwell_server.telemetry.slow_log import slow
from stepwell_server.telemetry.spans import (
    Subject,
    claim_context,
    claim_span,
    decided,
    heartbeat_span,
    is_exporting,
    is_recorded,
    new_root,
    new_traceparent,
    server_span,
    session_heartbeat_span,
    set_up_tracing,
    shut_down_tracing,
    start_span,
)

__all__ = [
    "Subject",
    "about",
    "about_call",
    "about_job",
    "caller_context",
    "claim_context",
    "claim_span",
    "count_refusal",
    "decided",
    "heartbeat_span",
    "is_exporting",
    "is_recorded",
    "is_sampled",
    "new_root",
    "new_traceparent",
    "of_successor",
    "serve_metrics",
    "server_span",
    "session_heartbeat_span",
    "set_certificate_expiry",
    "set_up_logs",
    "set_up_tracing",
    "shut_down_tracing",
    "slow",
    "start_span",
    "valid_traceparent",
    "words_of",
]
