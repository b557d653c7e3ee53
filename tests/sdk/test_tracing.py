"""The trace that a run's code and its activities are in, in a worker that records spans and in one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.sdk.fake_service import FakeService

from stepwell import Client, Context, activity, workflow

Working = Callable[..., Any]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def seen() -> str:
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}-{span.span_id:016x}"


@activity
async def look() -> str:
    activity.heartbeat()
    return seen()


@workflow
async def looking(ctx: Context) -> list[str]:
    return [seen(), await ctx.activity(look), ctx.info.traceparent]


async def looked(service: FakeService, client: Client, working: Working) -> list[str]:
    service.traceparent = f"00-{TRACE}-{PARENT}-01"
    async with working(workflows=[looking], activities=[look]), asyncio.timeout(60):
        handle = await client.start_run(looking)
        found: list[str] = await handle.result()
        await service.until(lambda: service.beats)
    return found


async def test_an_attempt_is_a_span_of_its_runs_trace(
    service: FakeService, client: Client, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    in_run, in_activity, told = await looked(service, client, working)
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    assert span.name == "stepwell.activity look"
    assert span.attributes is not None
    assert (span.attributes["stepwell.attempt"], span.attributes["stepwell.step"]) == (1, "look")
    assert in_run == f"{TRACE}-{PARENT}"
    assert in_activity == f"{TRACE}-{span.context.span_id:016x}"
    assert told == service.traceparent
    assert service.beats[0].traceparent == f"00-{in_activity}-01"


async def test_without_tracing_a_runs_code_is_in_its_trace_all_the_same(
    service: FakeService, client: Client, working: Working
) -> None:
    """What it calls hands the trace on."""
    in_run, _, told = await looked(service, client, working)
    assert (in_run, told) == (f"{TRACE}-{PARENT}", service.traceparent)
    assert service.beats[0].traceparent == ""
