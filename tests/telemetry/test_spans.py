"""Which spans are recorded, in which trace, and what they say."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.telemetry.seen import CALLER, UNSAMPLED, links, parent, where

from stepwell_server import telemetry
from stepwell_server.telemetry.contexts import of_claim, of_successor

RUN_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def sampling(monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str = "") -> InMemorySpanExporter:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    exporter = InMemorySpanExporter()
    telemetry.set_up_tracing([SimpleSpanProcessor(exporter)])
    return exporter


def step(traceparent: str, number: int = 1, tracestate: str = "") -> telemetry.Subject:
    return telemetry.Subject(traceparent, tracestate, RUN_ID, 7, 3, number, "charge", "default", number)


def test_a_claim_is_a_child_of_the_run_and_links_to_the_one_before(spans: InMemorySpanExporter) -> None:
    """Though nobody told it which that was: another replica would say the same."""
    for number in (1, 2):
        telemetry.claim_span(step(CALLER, number, "vendor=1"), worker="w-1", outcome="claimed")
    first, second = spans.get_finished_spans()
    assert where(first) == telemetry.claim_context(CALLER, RUN_ID, 7, 3, 1) == of_claim(CALLER, RUN_ID, 7, 3, 1)
    assert (parent(first), parent(second)) == (CALLER[36:52], CALLER[36:52])
    assert (links(first), links(second)) == ([], [where(first)[36:52]])
    assert first.context is not None
    assert first.context.trace_state.get("vendor") == "1"
    assert dict(second.attributes or {}) == {
        "stepwell.run": str(RUN_ID),
        "stepwell.step": "charge",
        "stepwell.queue": "default",
        "stepwell.worker": "w-1",
        "stepwell.attempt": 2,
        "stepwell.outcome": "claimed",
    }
    json.loads(second.to_json())


def test_spans_of_different_claims_have_different_names() -> None:
    """Of runs, steps, and claims of each; also where two deployments share a trace and a key."""
    named = {
        of_claim(CALLER, run_id, run_key, ordinal, number)
        for run_id in (RUN_ID, uuid4())
        for run_key in (1, 11)
        for ordinal in (0, 1, 11)
        for number in (1, 11)
    }
    assert len(named) == 24


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("", "claim"),
        (f"{CALLER[:36]}00000000000000aa-01", "00000000000000aa"),
        (f"{CALLER[:36]}00000000000000aa-00", "claim"),
        (f"00-{'1' * 32}-00000000000000aa-01", "claim"),
        ("nonsense", "claim"),
    ],
)
def test_a_heartbeat_is_a_child_of_what_its_worker_reports_within_the_run_s_trace(
    spans: InMemorySpanExporter, reported: str, expected: str
) -> None:
    """A worker that records nothing, or reports another trace, takes no heartbeat out of the run's."""
    subject = step(CALLER, 2)
    telemetry.heartbeat_span(subject, worker="w-1", outcome="recorded", start_ns=1, reported=reported)
    (beat,) = spans.get_finished_spans()
    assert (beat.name, beat.start_time, where(beat)[:36]) == ("stepwell.heartbeat", 1, CALLER[:36])
    assert parent(beat) == (subject.claim(2)[36:52] if expected == "claim" else expected)


def test_a_claim_that_nobody_counts_has_a_span_of_its_own(spans: InMemorySpanExporter) -> None:
    for _ in range(2):
        telemetry.claim_span(step(CALLER, 0), worker="w-1", outcome="claimed")
    first, second = spans.get_finished_spans()
    assert where(first) != where(second)
    assert links(second) == []


def test_a_beat_without_items_is_in_its_session_s_trace(spans: InMemorySpanExporter) -> None:
    """Any replica finds the same trace."""
    telemetry.session_heartbeat_span(RUN_ID, worker="w-1", outcome="heard")
    (span,) = spans.get_finished_spans()
    assert where(span)[3:35] == RUN_ID.hex
    assert span.parent is None


def test_a_run_without_a_caller_begins_a_trace(spans: InMemorySpanExporter) -> None:
    traceparent, tracestate = telemetry.new_traceparent((("tracestate", "a=1"),), type="wf")
    (root,) = spans.get_finished_spans()
    assert (root.name, where(root), root.parent, tracestate) == ("stepwell.start", traceparent, None, "")


def test_a_run_that_goes_on_with_another_s_work_begins_a_trace_that_is_linked() -> None:
    """Each replica would name it alike; what was not recorded before is not afterwards."""
    other = of_successor(CALLER, RUN_ID)
    assert other == of_successor(CALLER, RUN_ID) == telemetry.valid_traceparent(other)
    assert other[3:35] != CALLER[3:35]
    assert of_successor(CALLER, uuid4())[3:35] != other[3:35]
    assert [telemetry.is_sampled(of_successor(each, RUN_ID)) for each in (CALLER, UNSAMPLED)] == [True, False]
    assert of_successor("", RUN_ID) == ""


# --- which are recorded -----------------------------------------------------------------------------------------------


def test_what_is_not_sampled_is_not_recorded(spans: InMemorySpanExporter) -> None:
    """The caller's decision is known before anything is built, and is the one that workers are told."""
    assert not telemetry.is_recorded(UNSAMPLED)
    assert telemetry.claim_context(UNSAMPLED, RUN_ID, 7, 3, 1) == UNSAMPLED
    telemetry.start_span(UNSAMPLED, CALLER)
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("sampler", "argument", "root", "sampled", "unsampled"),
    [
        ("always_on", "", True, True, True),
        ("always_off", "", False, False, False),
        ("traceidratio", "0", False, False, False),
        ("traceidratio", "1", True, True, True),
        ("parentbased_always_on", "", True, True, False),
        ("parentbased_always_off", "", False, True, False),
        ("parentbased_traceidratio", "0", False, True, False),
    ],
)
def test_the_sampler_of_the_environment_decides(  # noqa: PLR0917 - a table
    monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, root: bool, sampled: bool, unsampled: bool
) -> None:
    """On a run's trace when it begins, and on that of a session; workers are told what was decided."""
    exporter = sampling(monkeypatch, sampler, argument)
    made, _ = telemetry.new_traceparent(())
    assert len(exporter.get_finished_spans()) == root
    telemetry.session_heartbeat_span(RUN_ID, worker="w-1", outcome="heard")
    assert len(exporter.get_finished_spans()) == 2 * root
    given = [telemetry.new_traceparent((("traceparent", each),))[0] for each in (CALLER, UNSAMPLED)]
    assert [telemetry.is_recorded(each) for each in (made, *given)] == [root, sampled, unsampled]
    assert [each[:53] for each in given] == [CALLER[:53]] * 2
    telemetry.shut_down_tracing()


def test_a_part_of_the_sessions_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ids begin with the time, and hold bits that never change: they are no random numbers."""
    exporter = sampling(monkeypatch, "traceidratio", "0.25")
    for number in range(400):
        telemetry.session_heartbeat_span(UUID(int=RUN_ID.int + number), worker="w-1", outcome="heard")
    assert 50 < len(exporter.get_finished_spans()) < 150
    telemetry.shut_down_tracing()


def test_without_exporters_only_the_context_is_made() -> None:
    """A run has a trace context even when this service exports nothing: its workers may."""
    assert not telemetry.is_exporting()
    traceparent, tracestate = telemetry.new_traceparent(())
    assert telemetry.valid_traceparent(traceparent) == traceparent
    assert telemetry.is_sampled(traceparent)
    assert not telemetry.is_recorded(traceparent)
    assert tracestate == ""
    assert telemetry.claim_context(traceparent, RUN_ID, 7, 3, 1) == traceparent
    assert telemetry.new_traceparent((("traceparent", CALLER), ("tracestate", "a=1"), ("tracestate", "b=2"))) == (
        CALLER,
        "a=1,b=2",
    )


@pytest.mark.parametrize(
    "text", ["", "00", CALLER.upper(), CALLER + "-x", CALLER.replace("00-", "ff-"), f"00-{'0' * 32}-{'1' * 16}-01"]
)
def test_what_is_no_trace_context_is_dropped(text: str) -> None:
    """A caller's malformed context is none."""
    assert telemetry.valid_traceparent(text) == ""
