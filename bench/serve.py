"""The service's process: as `stepwell-server serve`, but that spans are exported to nowhere.

An exporter to a collector would measure the collector too, which shares the machine. Sampling, spans and their batches
are the product's own. The process ends when its standard input does, so that it can't outlive who began it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from stepwell_server import program, running, telemetry

# As the product's own (docs/observability.md).
_QUEUE_SPANS, _DELAY_MILLISECONDS = 32_768, 1_000


class Discarding(SpanExporter):
    """Takes spans and drops them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Drops them."""
        return SpanExportResult.SUCCESS


def main() -> None:
    """Serves until it is told to end."""
    settings = program.read_settings()
    telemetry.set_up_logs(settings.log_level, settings.log_format)
    exporting = BatchSpanProcessor(Discarding(), max_queue_size=_QUEUE_SPANS, schedule_delay_millis=_DELAY_MILLISECONDS)
    telemetry.set_up_tracing([exporting])
    threading.Thread(target=_end_with_input, daemon=True).start()
    program.run(running.serve(settings))


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
