/** OpenTelemetry, where it is installed and set up; nothing otherwise. */

import type * as Otel from "@opentelemetry/api";

const otel: typeof Otel | undefined = await import("@opentelemetry/api").catch(() => undefined);

/** The W3C trace context of the calling code, empty if there is none. */
export function currentTraceparent(): string {
  const span = otel?.trace.getSpanContext(otel.context.active());
  if (!otel || !span || !otel.isSpanContextValid(span)) return "";
  return `00-${span.traceId}-${span.spanId}-${span.traceFlags.toString(16).padStart(2, "0")}`;
}

/** Calls a function within a trace that came over the wire. */
export function within<T>(traceparent: string, call: () => T): T {
  const context = remote(traceparent);
  return otel && context ? otel.context.with(context, call) : call();
}

/** Calls a function within a span of its own in that trace; gives it the span's own context to pass on. */
export async function spanning<T>(
  name: string,
  traceparent: string,
  attributes: Record<string, string | number>,
  call: (traceparent: string) => Promise<T>,
): Promise<T> {
  if (!otel) return call("");
  const tracer = otel.trace.getTracer("stepwell");
  const context = remote(traceparent) ?? otel.context.active();
  const span = tracer.startSpan(name, { kind: otel.SpanKind.CONSUMER, attributes }, context);
  try {
    return await otel.context.with(otel.trace.setSpan(context, span), () => call(currentTraceparent()));
  } catch (error) {
    span.setStatus({ code: otel.SpanStatusCode.ERROR, message: error instanceof Error ? error.message : typeof error });
    throw error;
  } finally {
    span.end();
  }
}

function remote(traceparent: string): Otel.Context | undefined {
  const [, traceId, spanId, flags] = traceparent.split("-");
  if (!otel || !traceId || !spanId || !flags) return undefined;
  const span = { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true };
  return otel.trace.setSpanContext(otel.context.active(), span);
}
