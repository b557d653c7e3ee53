"""Receivers of OTLP, as collectors are, over gRPC and over HTTP. They keep what came, and with which headers."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SECONDS = 60.0


class Collector:
    """What came in. Filled by threads of servers, read by tests."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.headers: list[dict[str, str]] = []
        self.resources: list[dict[str, Any]] = []
        self._spans: list[Span] = []
        self._came = threading.Condition()

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        with self._came:
            self.headers.append(headers)
            for group in request.resource_spans:
                self.resources.append(attributes(group.resource.attributes))
                self._spans += [span for scope in group.scope_spans for span in scope.spans]
            self._came.notify_all()

    @property
    def spans(self) -> list[Span]:
        with self._came:
            return list(self._spans)

    def wait(self, holds: Callable[[list[Span]], Any], seconds: float = SECONDS) -> list[Span]:
        """Blocks until it holds of all that has come."""
        with self._came:
            held = self._came.wait_for(lambda: holds(self._spans), seconds)
            assert held, f"only {[span.name for span in self._spans]}"
            return list(self._spans)


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """OTLP's attributes as a dict."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self._collector.take(request, {key: str(value) for key, value in context.invocation_metadata()})
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def over_grpc() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Service(collector), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    collector.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield collector
    finally:
        server.stop(None).wait()


@contextmanager
def over_http(path: str = "/v1/traces") -> Iterator[Collector]:
    """Takes posts to one path, and answers 404 to others."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_known = self.path == path and self.headers["content-type"] == "application/x-protobuf"
            if is_known:
                body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
                request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                collector.take(request, {key.lower(): value for key, value in self.headers.items()})
            self.send_response(200 if is_known else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is inherited
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.02,))
    serving.start()
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
