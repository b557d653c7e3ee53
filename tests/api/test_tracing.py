"""What of a call is traced, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from tests.api.handlers import KINDS, RUN_ID, SERVICE, call, raising, refused, serving
from tests.stream.kit import until

from stepwell_server import telemetry
from stepwell_server.errors import RunNotFound

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CALLER[:-1] + "0"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry.set_up_tracing([SimpleSpanProcessor(exporter)])
    yield exporter
    telemetry.shut_down_tracing()


async def finished(exporter: InMemorySpanExporter, count: int) -> tuple[ReadableSpan, ...]:
    """A call's span ends a moment after the caller has its answer."""
    await until(lambda: len(exporter.get_finished_spans()) >= count)
    spans = exporter.get_finished_spans()
    assert len(spans) == count
    return spans


async def test_a_unary_call_is_a_span_in_the_caller_s_trace(spans: InMemorySpanExporter) -> None:
    """The span goes on the caller's trace, and says how the call ended."""
    async with serving(raising(RunNotFound(namespace="main", run_id=RUN_ID))) as channel:
        await refused(channel, traceparent=CALLER)
    (span,) = await finished(spans, 1)
    assert (span.name, span.kind) == (f"{SERVICE}/UnaryUnary", SpanKind.SERVER)
    assert span.parent is not None
    assert span.context is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (CALLER[3:35], CALLER[36:52])
    assert span.context.trace_state.get("vendor") == "1"
    assert dict(span.attributes or {})["rpc.response.status_code"] == "NOT_FOUND"


async def test_faults_and_successes_are_told_apart(spans: InMemorySpanExporter) -> None:
    """Only what is the service's fault is an error of the span."""
    outcomes: Iterator[bytes | KeyError] = iter([b"done", KeyError("x")])

    async def act(context: Any) -> bytes:
        outcome = next(outcomes)
        if isinstance(outcome, bytes):
            return outcome
        raise outcome

    async with serving(act) as channel:
        await call(channel)
        await refused(channel)
    good, bad = await finished(spans, 2)
    assert (good.status.is_unset, bad.status.is_ok) == (True, False)
    assert dict(good.attributes or {})["rpc.response.status_code"] == "OK"
    assert dict(bad.attributes or {})["error.type"] == "INTERNAL"


async def test_a_cancelled_call_is_neither(spans: InMemorySpanExporter) -> None:
    """A caller who goes away makes no success and no fault."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def act(context: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(act) as channel:
        waiting = channel.unary_unary(f"/{SERVICE}/UnaryUnary")(b"ask")
        await began.wait()
        waiting.cancel()
        await ended.wait()
    (span,) = await finished(spans, 1)
    assert span.status.is_unset
    assert dict(span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


@pytest.mark.parametrize("kind", KINDS[1:])
async def test_streams_have_no_span(spans: InMemorySpanExporter, kind: str) -> None:
    """No span lives as long as a stream."""

    async def act(context: Any) -> None:
        await asyncio.sleep(0)

    async with serving(act) as channel:
        await call(channel, kind, traceparent=CALLER)
    assert spans.get_finished_spans() == ()


async def test_what_is_not_sampled_has_no_span(spans: InMemorySpanExporter) -> None:
    """The caller's decision holds."""

    async def act(context: Any) -> bytes:
        return telemetry.new_traceparent(context.invocation_metadata())[0].encode()

    async with serving(act) as channel:
        assert await call(channel, traceparent=UNSAMPLED) == [UNSAMPLED.encode()]
    assert spans.get_finished_spans() == ()
