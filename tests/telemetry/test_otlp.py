"""Spans go where the standard variables say, over both protocols, to receivers that are really there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from tests.telemetry.collectors import Collector, attributes, over_grpc, over_http

from stepwell_server import telemetry
from stepwell_server.telemetry.exporters import TelemetryError

Over = Callable[[], AbstractContextManager[Collector]]
PROTOCOLS: dict[str, Over] = {"grpc": over_grpc, "http/protobuf": over_http}
BOTH = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TRACES_EXPORTER", "EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_PROTOCOL", "TRACES_SAMPLER"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    yield
    telemetry.shut_down_tracing()


@pytest.fixture
def otel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables and sets tracing up by them."""

    def begin(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"OTEL_{name}", value)
        telemetry.set_up_tracing()

    return begin


def test_nothing_is_exported_unless_somebody_says_so(otel: Callable[..., None]) -> None:
    otel()
    assert not telemetry.is_exporting()


@BOTH
def test_an_endpoint_is_enough(otel: Callable[..., None], protocol: str) -> None:
    """The span arrives whole: its trace, its root, what it says, and who sends it."""
    with PROTOCOLS[protocol]() as collector:
        otel(EXPORTER_OTLP_ENDPOINT=collector.endpoint, EXPORTER_OTLP_PROTOCOL=protocol)
        traceparent = telemetry.new_root(type="wf")
        (span,) = collector.wait(len)
        assert (span.name, attributes(span.attributes)) == ("stepwell.start", {"stepwell.type": "wf"})
        assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id) == (
            traceparent[3:35],
            traceparent[36:52],
            b"",
        )
        (resource,) = collector.resources
        assert resource["service.name"] == "stepwell"
        assert {"service.version", "service.instance.id"} <= resource.keys()


def test_http_is_the_protocol_if_none_is_named(otel: Callable[..., None]) -> None:
    with over_http() as collector:
        otel(EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        telemetry.new_root()
        collector.wait(len)


@BOTH
def test_what_is_left_goes_out_at_the_end(otel: Callable[..., None], protocol: str) -> None:
    """However long the exporter would have waited for more."""
    with PROTOCOLS[protocol]() as collector:
        otel(
            EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            BSP_SCHEDULE_DELAY="600000",
        )
        for _ in range(100):
            telemetry.new_root()
        telemetry.shut_down_tracing()
        assert len(collector.spans) == 100


@BOTH
def test_who_sends_is_as_the_environment_says(otel: Callable[..., None], protocol: str) -> None:
    """Name, attributes, headers and compression."""
    with PROTOCOLS[protocol]() as collector:
        otel(
            EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            EXPORTER_OTLP_HEADERS="authorization=Bearer%20key,x-tenant=a",
            EXPORTER_OTLP_COMPRESSION="gzip",
            SERVICE_NAME="wells",
            RESOURCE_ATTRIBUTES="deployment.environment.name=test,service.instance.id=one",
        )
        telemetry.new_root()
        collector.wait(len)
        (headers,), (resource,) = collector.headers, collector.resources
        assert (headers["authorization"], headers["x-tenant"]) == ("Bearer key", "a")
        names = ("service.name", "service.instance.id", "deployment.environment.name")
        assert [resource[name] for name in names] == ["wells", "one", "test"]


@BOTH
def test_variables_of_traces_alone_win(otel: Callable[..., None], protocol: str) -> None:
    """Their endpoint is taken as it stands, path and all."""
    over: Over = over_grpc if protocol == "grpc" else lambda: over_http("/elsewhere")
    with over() as collector:
        path = "" if protocol == "grpc" else "/elsewhere"
        otel(
            EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
            EXPORTER_OTLP_PROTOCOL="http/json",
            EXPORTER_OTLP_TRACES_ENDPOINT=collector.endpoint + path,
            EXPORTER_OTLP_TRACES_PROTOCOL=protocol,
            EXPORTER_OTLP_HEADERS="x-of=all",
            EXPORTER_OTLP_TRACES_HEADERS="x-of=traces",
        )
        telemetry.new_root()
        collector.wait(len)
        assert collector.headers[0]["x-of"] == "traces"


@BOTH
def test_the_sampler_keeps_what_it_should(otel: Callable[..., None], protocol: str) -> None:
    """Half of the runs by the ratio; and all of a run is kept, or none of it."""
    with PROTOCOLS[protocol]() as collector:
        otel(
            EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            EXPORTER_OTLP_PROTOCOL=protocol,
            TRACES_SAMPLER="parentbased_traceidratio",
            TRACES_SAMPLER_ARG="0.5",
        )
        made = [telemetry.new_root() for _ in range(200)]
        kept = {each[3:35] for each in made if telemetry.is_recorded(each)}
        telemetry.shut_down_tracing()
        assert {span.trace_id.hex() for span in collector.spans} == kept
        assert 50 < len(kept) < 150


@BOTH
def test_nothing_is_sent_when_it_is_disabled(otel: Callable[..., None], protocol: str) -> None:
    with PROTOCOLS[protocol]() as collector:
        otel(EXPORTER_OTLP_ENDPOINT=collector.endpoint, EXPORTER_OTLP_PROTOCOL=protocol, SDK_DISABLED="true")
        assert not telemetry.is_exporting()
        telemetry.new_root()
        telemetry.shut_down_tracing()
        assert collector.spans == []


@pytest.mark.parametrize(
    "variables",
    [
        {"TRACES_EXPORTER": "zipkin"},
        {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "EXPORTER_OTLP_PROTOCOL": "http/json"},
    ],
)
def test_what_cannot_be_done_is_said_at_the_start(otel: Callable[..., None], variables: dict[str, str]) -> None:
    with pytest.raises(TelemetryError, match="it may be"):
        otel(**variables)


def test_no_exporter_is_a_choice_too(otel: Callable[..., None]) -> None:
    otel(EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", TRACES_EXPORTER="none")
    assert not telemetry.is_exporting()
