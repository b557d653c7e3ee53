"""Spans: which are recorded, in which trace, and where they go.

They are exported as the standard OTEL_* variables say, and cost next to nothing when those name no exporter. Whether
one is recorded is read from the flag of its trace context, before anything is built. A trace context is handled as the
text that is stored and sent: a W3C `traceparent` and its `tracestate`.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from uuid import UUID

import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from stepwell_server.telemetry import exporters

Attribute = str | int | float | bool

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?=-|\Z)")
_TRACEPARENT_CHARACTERS = 55
_FLAG = 54
_SAMPLED = frozenset("13579bdf")
# The specification lets a longer one be dropped, whole.
_TRACESTATE_CHARACTERS = 512
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Recorder:
    """Where spans go while somebody exports them."""

    def __init__(self, processors: Iterable[SpanProcessor]) -> None:
        self.processor = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        for processor in processors:
            self.processor.add_span_processor(processor)
        self.resource = exporters.resource()
        self.scope = InstrumentationScope("stepwell", version("stepwell-server"))
        # Without OTEL_TRACES_SAMPLER every root is sampled, and all else follows its parent.
        self.provider = TracerProvider(resource=self.resource, active_span_processor=self.processor)
        self.tracer = self.provider.get_tracer(self.scope.name, self.scope.version)


_recorder: Recorder | None = None


def set_up_tracing(processors: Iterable[SpanProcessor] | None = None) -> None:
    """Begins to export spans: through the given processors, or as the OTEL_* variables say, which may be not at all."""
    global _recorder  # noqa: PLW0603 - a process has one
    chosen = list(exporters.processors() if processors is None else processors)
    _recorder = Recorder(chosen) if chosen else None


def shut_down_tracing() -> None:
    """Exports what is left. Blocks for as long as the exporters need."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.provider.shutdown()


def is_exporting() -> bool:
    return _recorder is not None


def is_sampled(traceparent: str) -> bool:
    """Reads the flag of a trace context. What is no trace context is not sampled."""
    return len(traceparent) == _TRACEPARENT_CHARACTERS and traceparent[_FLAG] in _SAMPLED


def valid_traceparent(text: str) -> str:
    """Answers a trace context that came from outside, or nothing if it is none."""
    if not _TRACEPARENT.match(text) or (text.startswith("00") and len(text) != _TRACEPARENT_CHARACTERS):
        return ""
    # Later versions may append fields; the ones known stay where they are.
    return f"00{text[2:_TRACEPARENT_CHARACTERS]}"


def caller_context(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str, str]:
    """Reads a caller's `traceparent` and `tracestate` from the metadata of a call; empty ones if it has none."""
    traceparent, states = "", []
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            traceparent = valid_traceparent(value)
        elif key == "tracestate" and isinstance(value, str):
            states.append(value)
    tracestate = ",".join(states)
    if not traceparent or len(tracestate) > _TRACESTATE_CHARACTERS or not tracestate.isascii():
        tracestate = ""
    return traceparent, tracestate


def new_traceparent(metadata: Iterable[tuple[str, str | bytes]], **attributes: Attribute) -> tuple[str, str]:
    """Gives a new run its trace context: the caller's, or a root of its own."""
    traceparent, tracestate = caller_context(metadata)
    if traceparent:
        return traceparent, tracestate
    return new_root("", **attributes), ""


def new_root(link: str = "", **attributes: Attribute) -> str:
    """Begins a trace by a root span `stepwell.start`, linked to the run or firing from which it comes."""
    recorder = _recorder
    if recorder is None:
        return f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01"
    links = [Link(_span_context(link))] if valid_traceparent(link) else []
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        links.append(Link(current))
    named = {f"stepwell.{name}": value for name, value in attributes.items()}
    span = recorder.tracer.start_span("stepwell.start", context=otel_context.Context(), attributes=named, links=links)
    span.end()
    return _rendered(span.get_span_context())


def session_traceparent(session_id: UUID) -> str:
    """Names the trace of a worker's session, the same on every replica."""
    return f"00-{session_id.hex}-{session_id.hex[16:]}-01"


def claim_span(
    traceparent: str,
    tracestate: str = "",
    *,
    run: UUID | str,
    step: str,
    queue: str,
    worker: str,
    attempt: int,
    outcome: str,
    start_ns: int | None = None,
    previous: str = "",
) -> str:
    """Records that a task was claimed, as a child of its run's trace.

    Answers the span's own trace context, for the worker to go on from and for the next attempt to link to as
    `previous`; the given one if nothing was recorded.
    """
    if _recorder is None or not is_sampled(traceparent):
        return traceparent
    attributes = _work(run=run, step=step, queue=queue, worker=worker, attempt=attempt, outcome=outcome)
    context = _span_context(traceparent, tracestate)
    return _record("stepwell.claim", SpanKind.PRODUCER, context, attributes, start_ns, previous)


def heartbeat_span(
    traceparent: str,
    tracestate: str = "",
    *,
    run: UUID | str,
    step: str,
    queue: str,
    worker: str,
    attempt: int,
    outcome: str,
    start_ns: int | None = None,
    reported: str = "",
) -> None:
    """Records that a heartbeat was received, as a child of what the worker `reported` as its span, else of the run."""
    if _recorder is None:
        return
    parent = valid_traceparent(reported) or traceparent
    if is_sampled(parent):
        attributes = _work(run=run, step=step, queue=queue, worker=worker, attempt=attempt, outcome=outcome)
        _record("stepwell.heartbeat", SpanKind.SERVER, _span_context(parent, tracestate), attributes, start_ns)


def session_heartbeat_span(session_id: UUID, *, worker: str, outcome: str, start_ns: int | None = None) -> None:
    """Records that a beat without items was received."""
    if _recorder is not None:
        attributes: dict[str, Attribute] = {
            "stepwell.session": str(session_id),
            "stepwell.worker": worker,
            "stepwell.outcome": outcome,
        }
        context = _span_context(session_traceparent(session_id))
        _record("stepwell.heartbeat", SpanKind.SERVER, context, attributes, start_ns)


@contextmanager
def server_span(method: str, traceparent: str, tracestate: str) -> Iterator[Callable[[str], None]]:
    """Surrounds a call by a span, current meanwhile; what it yields takes the name of the final status."""
    assert _recorder is not None, "ask is_exporting() first"  # noqa: S101 - a caller's mistake
    parent = otel_context.Context()
    if traceparent:
        parent = trace.set_span_in_context(NonRecordingSpan(_span_context(traceparent, tracestate)), parent)
    attributes = {"rpc.system.name": "grpc", "rpc.method": method}
    span = _recorder.tracer.start_span(method, context=parent, kind=SpanKind.SERVER, attributes=attributes)
    structlog.contextvars.bind_contextvars(trace_id=f"{span.get_span_context().trace_id:032x}")
    token = otel_context.attach(trace.set_span_in_context(span, parent))
    try:
        yield lambda status: _finish(span, status)
    finally:
        otel_context.detach(token)
        span.end()


def _finish(span: Span, status: str) -> None:
    span.set_attribute("rpc.response.status_code", status)
    if status in _FAULTS:
        span.set_attribute("error.type", status)
        span.set_status(Status(StatusCode.ERROR))


def _work(*, run: UUID | str, step: str, queue: str, worker: str, attempt: int, outcome: str) -> dict[str, Attribute]:
    return {
        "stepwell.run": str(run),
        "stepwell.step": step,
        "stepwell.queue": queue,
        "stepwell.worker": worker,
        "stepwell.attempt": attempt,
        "stepwell.outcome": outcome,
    }


def _record(  # noqa: PLR0917 - what a span has
    name: str,
    kind: SpanKind,
    parent: SpanContext,
    attributes: Mapping[str, Attribute],
    start_ns: int | None,
    link: str = "",
) -> str:
    """Hands a finished span to the exporters. Built directly: a live one would cost several times as much."""
    assert _recorder is not None  # noqa: S101 - its callers have looked
    context = SpanContext(
        parent.trace_id,
        random.getrandbits(64) or 1,
        is_remote=False,
        trace_flags=parent.trace_flags,
        trace_state=parent.trace_state,
    )
    end_ns = time.time_ns()
    span = ReadableSpan(
        name,
        context,
        parent,
        _recorder.resource,
        attributes,
        links=(Link(_span_context(link)),) if valid_traceparent(link) else (),
        kind=kind,
        start_time=end_ns if start_ns is None else start_ns,
        end_time=end_ns,
        instrumentation_scope=_recorder.scope,
    )
    _recorder.processor.on_end(span)
    return _rendered(context)


def _span_context(traceparent: str, tracestate: str = "") -> SpanContext:
    return SpanContext(
        trace_id=int(traceparent[3:35], 16),
        span_id=int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[53:55], 16)),
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )


def _rendered(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
