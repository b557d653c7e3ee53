"""Reading spans in tests."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.stream.kit import SECONDS, Replica, until

from stepwell.v1 import runs_pb2

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CALLER[:-1] + "0"
CLAIM, HEARTBEAT = "stepwell.claim", "stepwell.heartbeat"


def where(span: ReadableSpan) -> str:
    """The context of a span."""
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent is not None else ""


def links(span: ReadableSpan) -> list[str]:
    return [f"{link.context.span_id:016x}" for link in span.links]


def about(span: ReadableSpan, *names: str) -> Any:
    """Attributes of a span; a single one by itself."""
    found = tuple((span.attributes or {}).get(f"stepwell.{name}") for name in names)
    return found if len(found) > 1 else found[0]


def of_run(exporter: InMemorySpanExporter, name: str, run_id: str, traceparent: str = CALLER) -> list[ReadableSpan]:
    """The spans of a run by that name, in order, all of which must be in one trace."""
    found = [span for span in exporter.get_finished_spans() if span.name == name and about(span, "run") == run_id]
    assert {where(span)[3:35] for span in found} <= {traceparent[3:35]}
    return found


async def claims(exporter: InMemorySpanExporter, run_id: str, count: int) -> list[ReadableSpan]:
    """The claims of a run, of which there are so many."""
    return await exactly(exporter, CLAIM, run_id, count)


async def beats(exporter: InMemorySpanExporter, run_id: str, count: int) -> list[ReadableSpan]:
    """Heartbeats are told after their answers."""
    return await exactly(exporter, HEARTBEAT, run_id, count)


async def exactly(exporter: InMemorySpanExporter, name: str, run_id: str, count: int) -> list[ReadableSpan]:
    found: list[ReadableSpan] = await until(lambda: of_run(exporter, name, run_id), lambda spans: len(spans) >= count)
    assert len(found) == count
    return found


async def begin(replica: Replica, traceparent: str = CALLER, queue: str = "q", **fields: Any) -> str:
    """A run in a caller's trace."""
    request = runs_pb2.StartRunRequest(type="wf", task_queue=queue, **fields)
    metadata = (("traceparent", traceparent), ("tracestate", "vendor=1"))
    return str((await replica.runs.StartRun(request, timeout=SECONDS, metadata=metadata)).run_id)
