/** OpenTelemetry, set up as the OTEL_* variables say. */

import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-grpc";
import { detectResources, envDetector, processDetector } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

/** Begins to send spans. What it gives sends what is left, at the end. */
export function setUpTracing(): () => Promise<void> {
  const resource = detectResources({ detectors: [envDetector, processDetector] });
  const provider = new NodeTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())] });
  provider.register();
  return () => provider.shutdown().catch((error: unknown) => console.error("spans were lost:", error));
}
