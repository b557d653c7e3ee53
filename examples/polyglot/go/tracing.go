package main

import (
	"context"
	"log"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const flushTime = 5 * time.Second

// tracer makes the spans of this program itself; those of activities come from the client.
var tracer = otel.Tracer("polyglot")

// setUpTracing sends spans where the OTEL_* variables say. What it gives sends what is left, at the end.
func setUpTracing(ctx context.Context) (flush func(), err error) {
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, err
	}
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithProcessPID())
	if err != nil {
		return nil, err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	otel.SetTracerProvider(provider)
	return func() {
		// The worker's own context has ended by now.
		ending, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		if err := provider.Shutdown(ending); err != nil {
			log.Print("spans were lost: ", err)
		}
	}, nil
}
