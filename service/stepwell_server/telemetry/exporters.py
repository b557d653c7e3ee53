"""Where spans are exported to, as the standard OTEL_* variables say. Without any of them, nowhere."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from uuid import uuid4

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_RESOURCE_ATTRIBUTES,
    OTEL_SDK_DISABLED,
    OTEL_SERVICE_NAME,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

OTEL_TRACES_EXPORTER = "OTEL_TRACES_EXPORTER"
_OTLP = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
}
# A span for each claim: the usual 2,048 in five seconds are few.
_QUEUE_SPANS = 32_768
_DELAY_MILLISECONDS = 1_000


class TelemetryError(Exception):
    """The OTEL_* variables ask for what cannot be done."""


def processors() -> list[SpanProcessor]:
    """Makes what is asked for: some of `otlp`, `console` and `none`; `otlp` if only an endpoint is named."""
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return []
    has_endpoint = bool(
        os.environ.get(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) or os.environ.get(OTEL_EXPORTER_OTLP_ENDPOINT)
    )
    names = os.environ.get(OTEL_TRACES_EXPORTER) or ("otlp" if has_endpoint else "none")
    wanted = [name.strip().lower() for name in names.split(",")]
    return [_batching(_exporter(name)) for name in wanted if name not in {"", "none"}]


def resource() -> Resource:
    """Says who exports; the environment's own words come first."""
    attributes = {"service.version": version("stepwell-server"), "service.instance.id": str(uuid4())}
    given = {pair.split("=")[0].strip() for pair in os.environ.get(OTEL_RESOURCE_ATTRIBUTES, "").split(",")}
    if not os.environ.get(OTEL_SERVICE_NAME):
        attributes["service.name"] = "stepwell"
    return Resource.create({name: value for name, value in attributes.items() if name not in given})


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter()
    if name != "otlp":
        raise TelemetryError(f"{OTEL_TRACES_EXPORTER} names {name!r}: it may be otlp, console or none")
    protocol = (
        os.environ.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL)
        or os.environ.get(OTEL_EXPORTER_OTLP_PROTOCOL)
        or "http/protobuf"
    )
    if protocol not in _OTLP:
        raise TelemetryError(f"{OTEL_EXPORTER_OTLP_PROTOCOL} is {protocol!r}: it may be {' or '.join(_OTLP)}")
    try:
        module = importlib.import_module(_OTLP[protocol])
    except ModuleNotFoundError as missing:
        raise TelemetryError("spans are to be exported by OTLP: install stepwell-server[otlp]") from missing
    exporter: SpanExporter = module.OTLPSpanExporter()
    return exporter


def _batching(exporter: SpanExporter) -> SpanProcessor:
    return BatchSpanProcessor(
        exporter,
        max_queue_size=None if os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE) else _QUEUE_SPANS,
        schedule_delay_millis=None if os.environ.get(OTEL_BSP_SCHEDULE_DELAY) else _DELAY_MILLISECONDS,
    )
