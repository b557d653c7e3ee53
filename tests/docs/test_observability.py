"""docs/observability.md names all that there is: each span, attribute, outcome and metric, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

from msgspec.structs import replace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.telemetry.declared import declared

from stepwell_server import telemetry
from stepwell_server.dispatch import beat_traces, traces
from stepwell_server.telemetry import metrics
from stepwell_server.telemetry.exporters import _OTLP

TEXT = (Path(__file__).resolve().parents[2] / "docs/observability.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The table that begins with this word."""
    found = re.search(rf"^\| {heading} \|.*\n\|(?:---\|)+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def names(heading: str) -> set[str]:
    """What stands in code in the first column of a table."""
    return {name for row in rows(heading) for name in re.findall(r"`([^`]+)`", row[0])}


def test_each_metric_is_told_of() -> None:
    described = []
    for each in declared():
        ending = "_total" if each.kind == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in each.labels)
        described.append([f"`{each.name}{ending}`", each.kind, labels, each.told])
    assert rows("metric") == sorted(described)


def test_each_span_and_attribute_is_told_of() -> None:
    exporter = InMemorySpanExporter()
    telemetry.set_up_tracing([SimpleSpanProcessor(exporter)])
    subject = telemetry.Subject(telemetry.new_root(type="wf", run="r"), "", uuid4(), 1, 0, 1, "", "q", 1)
    telemetry.claim_span(subject, worker="w", outcome="claimed")
    telemetry.heartbeat_span(subject, worker="w", outcome="recorded", start_ns=1)
    telemetry.claim_span(replace(subject, is_job=True), worker="w", outcome="claimed")
    telemetry.session_heartbeat_span(uuid4(), worker="w", outcome="heard")
    telemetry.shut_down_tracing()
    spans = exporter.get_finished_spans()
    assert names("span") == {span.name for span in spans}
    assert names("attribute") == {name for span in spans for name in span.attributes or {}}


def test_each_outcome_is_told_of() -> None:
    words = {traces.PUSHED, traces.CLAIMED, traces.RECORDED, traces.LOST, beat_traces.FAILED, beat_traces.HEARD}
    assert names("outcome") == words


def test_bounds_and_protocols_are_as_told() -> None:
    assert f"the {metrics._MOST_QUEUES} longest backlogs" in TEXT
    assert f"`{metrics._REST}`" in TEXT
    (protocol,) = [row for row in rows("variable") if row[0] == "`OTEL_EXPORTER_OTLP_PROTOCOL`"]
    assert set(re.findall(r"`([^`]+)`", protocol[1])) == set(_OTLP)
