package main

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"time"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/ganglion-es/ganglion/node"
)

// flushMost bounds how long a node that stops waits for its last spans.
const flushMost = 5 * time.Second

// tracingFlags say where spans go.
type tracingFlags struct {
	TraceEndpoint string
	TraceRatio    float64
}

func (f *tracingFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.TraceEndpoint, "trace-endpoint", "", "Send spans of commands to the OpenTelemetry collector at this `URL`, by OTLP over HTTP; off if not given.")
	flags.Float64Var(&f.TraceRatio, "trace-ratio", 0.01, "Share of the commands without a trace of their own that get one, 0 to 1; those with one follow its sampled flag.")
}

// provider is what the flags ask for, nil while tracing is off. Spans wait in
// a queue of 2,048 for a collector that is slow, and past it they are dropped.
func (f tracingFlags) provider(ctx context.Context, instance string, log *slog.Logger) (*sdktrace.TracerProvider, error) {
	if f.TraceRatio < 0 || f.TraceRatio > 1 {
		return nil, usagef("--trace-ratio is %v: it is 0 to 1", f.TraceRatio)
	}
	if f.TraceEndpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(f.TraceEndpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usagef("--trace-endpoint is no URL of a collector: write http://HOST:4318")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans are lost", "error", err) }))
	return sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(f.TraceRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "ganglion"), attribute.String("service.version", node.Version()), attribute.String("service.instance.id", instance))),
	), nil
}

// runTraced runs a node with tracing, and sends its last spans when it ended.
func runTraced(ctx context.Context, provider *sdktrace.TracerProvider, run func(context.Context) error) error {
	if provider == nil {
		return run(ctx)
	}
	err := run(ctx)
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushMost)
	defer cancel()
	// A collector that is away has been warned of; it makes no drain fail.
	if lost := provider.Shutdown(flush); lost != nil && !errors.Is(lost, context.DeadlineExceeded) {
		otel.Handle(lost)
	}
	return err
}
