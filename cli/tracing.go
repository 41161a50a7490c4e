package cli

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

// flushTimeout bounds how long a stopping node waits for its last spans.
const flushTimeout = 5 * time.Second

// tracingFlags configure the export of spans.
type tracingFlags struct {
	TraceEndpoint string
	TraceRatio    float64
}

func (f *tracingFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.TraceEndpoint, "trace-endpoint", "", "`URL` of an OpenTelemetry collector for spans of commands, by OTLP over HTTP (default off)")
	flags.Float64Var(&f.TraceRatio, "trace-ratio", 0.01, "share of commands to trace, 0 to 1; the sampled flag of a command's own trace overrides it")
}

// provider returns nil if tracing is off. A queue of 2,048 spans absorbs a slow
// collector; further spans are dropped.
func (f tracingFlags) provider(ctx context.Context, service, instance string, log *slog.Logger) (*sdktrace.TracerProvider, error) {
	if f.TraceRatio < 0 || f.TraceRatio > 1 {
		return nil, usagef("--trace-ratio is %v: it must be from 0 to 1", f.TraceRatio)
	}
	if f.TraceEndpoint == "" {
		return nil, nil
	}
	u, err := url.Parse(f.TraceEndpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usagef("--trace-endpoint is not a URL of a collector: write http://HOST:4318")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were lost", "err", err) }))
	return sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(f.TraceRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", service), attribute.String("service.version", node.Version()), attribute.String("service.instance.id", instance))),
	), nil
}

// runTraced runs a node and sends its last spans when it has ended.
func runTraced(ctx context.Context, provider *sdktrace.TracerProvider, run func(context.Context) error) error {
	if provider == nil {
		return run(ctx)
	}
	err := run(ctx)
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	// An unreachable collector must not fail a drain; its error was logged.
	if lost := provider.Shutdown(flush); lost != nil && !errors.Is(lost, context.DeadlineExceeded) {
		otel.Handle(lost)
	}
	return err
}
