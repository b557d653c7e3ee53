package stepwell

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

var w3c = propagation.TraceContext{}

// caller says with each call whose it is, and in which trace.
type caller struct{ key string }

func (c caller) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	pairs := traceOf(ctx)
	if c.key != "" {
		pairs["authorization"] = "Bearer " + c.key
	}
	return pairs, nil
}

func (caller) RequireTransportSecurity() bool { return false }

// traceOf gives the W3C trace context of a context: its traceparent and tracestate, if it has them.
func traceOf(ctx context.Context) propagation.MapCarrier {
	found := propagation.MapCarrier{}
	w3c.Inject(ctx, found)
	return found
}

// withRemoteTrace goes on with a trace that came over the wire. The flags are read here: OpenTelemetry's own reader refuses
// a context whole that has one which it does not know, and others set more by now than it does.
func withRemoteTrace(ctx context.Context, task *pb.Task) context.Context {
	parts := strings.Split(task.GetTraceparent(), "-")
	if len(parts) != 4 {
		return ctx
	}
	traceID, notTrace := trace.TraceIDFromHex(parts[1])
	spanID, notSpan := trace.SpanIDFromHex(parts[2])
	flags, notFlags := strconv.ParseUint(parts[3], 16, 8)
	if errors.Join(notTrace, notSpan, notFlags) != nil {
		return ctx
	}
	// What can't be read is left out.
	state, _ := trace.ParseTraceState(task.GetTracestate())
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: spanID, TraceFlags: trace.TraceFlags(flags), TraceState: state,
	}))
}

// activitySpan opens a span for an attempt, in its run's trace. It costs next to nothing where OpenTelemetry is not set
// up.
func activitySpan(ctx context.Context, task *pb.Task) (context.Context, trace.Span) {
	attributes := []attribute.KeyValue{attribute.Int("stepwell.attempt", int(task.GetAttempt()))}
	if task.GetJobId() != "" {
		attributes = append(attributes, attribute.String("stepwell.job", task.GetJobId()))
	} else {
		attributes = append(attributes,
			attribute.String("stepwell.run_id", task.GetRunId()), attribute.String("stepwell.step", task.GetStepName()))
	}
	return otel.Tracer("stepwell").Start(
		withRemoteTrace(ctx, task), "stepwell.activity "+task.GetType(),
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...),
	)
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
