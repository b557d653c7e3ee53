"""Spans: which are recorded, in which trace, and where they go.

They are exported as the standard OTEL_* variables say, and cost next to nothing when those name no exporter. Whether
one is recorded is decided when a run's trace begins and stands in the flag of its trace context from then on, so that
it is known before anything is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from uuid import UUID

import msgspec
import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from stepwell_server.telemetry import contexts, exporters
from stepwell_server.telemetry.contexts import FLAGS, SPAN_ID, TRACE_ID, is_sampled, valid_traceparent

Attribute = str | int | float | bool

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
        self.follows_parent = isinstance(self.provider.sampler, ParentBased)

    def samples(self, trace_id: int, name: str) -> bool:
        """Decides on a root."""
        return self.provider.sampler.should_sample(None, trace_id, name).decision is Decision.RECORD_AND_SAMPLE


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


def is_recorded(traceparent: str) -> bool:
    """Whether spans of a trace are recorded here."""
    return _recorder is not None and is_sampled(traceparent)


# --- where a trace begins ---------------------------------------------------------------------------------------------


def decided(traceparent: str) -> str:
    """A caller's context with what this service decides: as the caller did, unless OTEL_TRACES_SAMPLER asks nobody."""
    if _recorder is None or _recorder.follows_parent:
        return traceparent
    return contexts.with_flag(traceparent, is_sampled=_recorder.samples(int(traceparent[TRACE_ID], 16), "stepwell"))


def new_traceparent(metadata: Iterable[tuple[str, str | bytes]], **attributes: Attribute) -> tuple[str, str]:
    """Gives a new run its trace context: the caller's, or a root of its own."""
    traceparent, tracestate = contexts.caller_context(metadata)
    if traceparent:
        return decided(traceparent), tracestate
    return new_root("", **attributes), ""


def new_root(link: str = "", **attributes: Attribute) -> str:
    """Begins a trace by a root span `stepwell.start`, linked to the firing from which it comes, and to this call."""
    traceparent = contexts.drawn()
    if _recorder is None:
        return traceparent
    if not _recorder.samples(int(traceparent[TRACE_ID], 16), "stepwell.start"):
        return contexts.with_flag(traceparent, is_sampled=False)
    current = trace.get_current_span().get_span_context()
    start_span(traceparent, link, [Link(current)] if current.is_valid else (), **attributes)
    return traceparent


def start_span(traceparent: str, link: str, links: Sequence[Link] = (), **attributes: Attribute) -> None:
    """Records that a trace begins: the root span `stepwell.start` that the context names, linked to what led to it."""
    if is_recorded(traceparent):
        named = {f"stepwell.{name}": value for name, value in attributes.items()}
        _record("stepwell.start", SpanKind.INTERNAL, traceparent, None, named, links=(*_links(link), *links))


# --- claims and heartbeats --------------------------------------------------------------------------------------------


class Subject(msgspec.Struct, frozen=True, gc=False):
    """What a claim or a heartbeat is about: a run or, with an ordinal, a step of it; or a job, in a run's place.

    `number` counts its claims from 1 and so names one of them; 0 if they are not counted.
    """

    traceparent: str
    tracestate: str
    run_id: UUID
    run_key: int
    ordinal: int
    number: int
    step: str
    queue: str
    attempt: int
    is_job: bool = False

    def claim(self, number: int) -> str:
        """The context of one of its claims."""
        return contexts.of_claim(self.traceparent, self.run_id, self.run_key, self.ordinal, number)

    def attributes(self, worker: str, outcome: str) -> dict[str, Attribute]:
        """What its spans say."""
        return {
            "stepwell.job" if self.is_job else "stepwell.run": str(self.run_id),
            "stepwell.step": self.step,
            "stepwell.queue": self.queue,
            "stepwell.worker": worker,
            "stepwell.attempt": self.attempt,
            "stepwell.outcome": outcome,
        }


def claim_context(traceparent: str, run_id: UUID, run_key: int, ordinal: int, number: int) -> str:
    """What a worker goes on from: the span of its claim, or the run's own context if nothing is recorded."""
    if not is_recorded(traceparent):
        return traceparent
    return contexts.of_claim(traceparent, run_id, run_key, ordinal, number)


def claim_span(subject: Subject, *, worker: str, outcome: str) -> None:
    """Records that a task was claimed: in its run's trace, linked to the claim before. Ask `is_recorded` first."""
    own = subject.claim(subject.number) if subject.number else contexts.child_of(subject.traceparent)
    link = subject.claim(subject.number - 1) if subject.number > 1 else ""
    attributes = subject.attributes(worker, outcome)
    parent = _span_context(subject.traceparent, subject.tracestate)
    _record("stepwell.claim", SpanKind.PRODUCER, own, parent, attributes, links=_links(link))


def heartbeat_span(subject: Subject, *, worker: str, outcome: str, start_ns: int, reported: str = "") -> None:
    """Records that a heartbeat was received: in its run's trace. Ask `is_recorded` first.

    Its parent is what its worker `reported` as its span, if that is of the same trace; else the claim.
    """
    reported = valid_traceparent(reported)
    parent = subject.traceparent
    if is_sampled(reported) and contexts.is_same_trace(reported, parent):
        parent = reported
    elif subject.number:
        parent = subject.claim(subject.number)
    attributes = subject.attributes(worker, outcome)
    context = _span_context(parent, subject.tracestate)
    _record("stepwell.heartbeat", SpanKind.SERVER, contexts.child_of(parent), context, attributes, start_ns)


def session_heartbeat_span(session_id: UUID, *, worker: str, outcome: str, start_ns: int | None = None) -> None:
    """Records that a beat was received that is about no run: in the trace of its session, which has the same id."""
    if _recorder is None:
        return
    # The bits of an id that holds a time are not drawn evenly; those of its hash are.
    if not _recorder.samples(int.from_bytes(blake2b(session_id.bytes, digest_size=16).digest()), "stepwell.heartbeat"):
        return
    attributes: dict[str, Attribute] = {
        "stepwell.session": str(session_id),
        "stepwell.worker": worker,
        "stepwell.outcome": outcome,
    }
    own = contexts.child_of(contexts.rendered(session_id.int, 1, is_sampled=True))
    _record("stepwell.heartbeat", SpanKind.SERVER, own, None, attributes, start_ns)


# --- calls ------------------------------------------------------------------------------------------------------------


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


# --- how a span is built ----------------------------------------------------------------------------------------------


def _record(  # noqa: PLR0917 - what a span has
    name: str,
    kind: SpanKind,
    traceparent: str,
    parent: SpanContext | None,
    attributes: Mapping[str, Attribute],
    start_ns: int | None = None,
    *,
    links: Sequence[Link] = (),
) -> None:
    """Hands a finished span to the exporters. Built directly: a live one would cost several times as much."""
    recorder = _recorder
    if recorder is None:
        return
    context = SpanContext(
        int(traceparent[TRACE_ID], 16),
        int(traceparent[SPAN_ID], 16),
        is_remote=False,
        trace_flags=TraceFlags(int(traceparent[FLAGS], 16)),
        trace_state=parent.trace_state if parent is not None else None,
    )
    end_ns = time.time_ns()
    span = ReadableSpan(
        name,
        context,
        parent,
        recorder.resource,
        attributes,
        links=links,
        kind=kind,
        start_time=end_ns if start_ns is None else start_ns,
        end_time=end_ns,
        instrumentation_scope=recorder.scope,
    )
    recorder.processor.on_end(span)


def _links(traceparent: str) -> tuple[Link, ...]:
    return (Link(_span_context(traceparent)),) if valid_traceparent(traceparent) else ()


def _span_context(traceparent: str, tracestate: str = "") -> SpanContext:
    return SpanContext(
        trace_id=int(traceparent[TRACE_ID], 16),
        span_id=int(traceparent[SPAN_ID], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(traceparent[FLAGS], 16)),
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )
