"""A receiver of spans by OTLP over gRPC: what a collector is, as far as this demo needs one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

MESSAGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """One span; ids in hexadecimal digits, `parent_id` empty for a root, times in seconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    pid: int
    start: float
    end: float
    about: dict[str, str]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.address = ""
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", MESSAGE_BYTES)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]

    async def start(self) -> None:
        """Listens."""
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def close(self) -> None:
        """Stops listening."""
        await self._server.stop(1)

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Takes spans in."""
        for sent in request.resource_spans:
            whose = _read(sent.resource.attributes)
            service, pid = whose.get("service.name", ""), int(whose.get("process.pid", "0"))
            for scope in sent.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    times = (span.start_time_unix_nano / 1e9, span.end_time_unix_nano / 1e9)
                    self.spans.append(Span(*ids, span.name, service, pid, *times, _read(span.attributes)))
        return trace_service_pb2.ExportTraceServiceResponse()


def _read(attributes: Any) -> dict[str, str]:
    return {each.key: _text(each) for each in attributes}


def _text(attribute: KeyValue) -> str:
    kind = attribute.value.WhichOneof("value")
    return "" if kind is None else str(getattr(attribute.value, kind))
