package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router"
)

// observer stands between the parts of a node and sees how long commands,
// appends and deliveries take. The parts know nothing of it: it has the shape
// of what each calls. It is safe for concurrent use.
//
// Without a tracer it only keeps histograms. With one, a command whose trace
// is sampled gets these spans, each the parent of the next, on whichever nodes
// they happen:
//
//	command   at the gateway, from the frame to its answer
//	execute   at the owner, from its arrival to its outcome: the time between
//	          the two beginnings is the way through the router, and the hop
//	append    at the owner, as long as the store takes for the unit
//	deliver   on each gateway, while its sessions are given the events
//
// The context travels as a W3C traceparent in command.Command.Trace, over
// links as well, and with the events in eventstore.Meta.Trace.
type observer struct {
	tracer trace.Tracer // nil while tracing is off
	node   trace.SpanStartEventOption

	commands, appends, deliveries prometheus.Histogram
	store                         storeHealth
}

// storeHealth is whether the store answers, as the node finds out by asking it
// and by its appends. A database whose disk is full answers and stores nothing.
// It is safe for concurrent use.
type storeHealth struct {
	silent  atomic.Bool  // at the last question
	refused atomic.Int64 // when the last append failed for the store's sake, in Unix nanoseconds; 0 since events were stored
}

// refusedFor is how long the failure of an append counts if none follows it.
const refusedFor = time.Minute

func (s *storeHealth) checked(err error) { s.silent.Store(err != nil && isOutage(err)) }

func (s *storeHealth) appended(appended eventstore.Appended, err error, now time.Time) {
	switch {
	case err == nil && appended.Stored():
		s.refused.Store(0)
	case isOutage(err):
		s.refused.Store(now.UnixNano())
	}
}

func (s *storeHealth) up(now time.Time) bool {
	refused := s.refused.Load()
	return !s.silent.Load() && (refused == 0 || now.Sub(time.Unix(0, refused)) >= refusedFor)
}

func isOutage(err error) bool {
	return errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown)
}

// seconds are the buckets of all three: a hop within a rack takes half a
// millisecond, a flush of a disk a few, a failover half a second, and a client
// waits 30 at most.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

func newObserver(node string, provider trace.TracerProvider) *observer {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds})
	}
	o := &observer{
		node:       trace.WithAttributes(attribute.String("ganglion.node", node)),
		commands:   histogram("ganglion_command_seconds", "From a command's arrival at this gateway to its answer, whichever it was."),
		appends:    histogram("ganglion_append_seconds", "How long the store took for an append, with the wait for its batch; without those that a database refused which is away or full."),
		deliveries: histogram("ganglion_delivery_seconds", "From a commit's time, by its owner's clock, to its delivery to this node's sessions."),
	}
	if provider != nil {
		o.tracer = provider.Tracer("github.com/ganglion-es/ganglion")
	}
	return o
}

var w3c propagation.TraceContext

// parent is the context that a traceparent names; one without a span if it
// names none.
func parent(traceparent string) context.Context {
	if traceparent == "" {
		return context.Background()
	}
	return w3c.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
}

// start begins a span below a traceparent, and returns the one for what lies
// below it. A nil span means that nobody looks: the traceparent stays what it
// was. Only at the gateway does a trace begin that had no beginning.
func (o *observer) start(name, traceparent string, begin bool, opts ...trace.SpanStartOption) (trace.Span, string) {
	if o.tracer == nil || traceparent == "" && !begin {
		return nil, traceparent
	}
	above := parent(traceparent)
	if !begin && !trace.SpanContextFromContext(above).IsSampled() {
		return nil, traceparent
	}
	ctx, span := o.tracer.Start(above, name, append(opts, o.node)...)
	if !span.SpanContext().IsSampled() {
		span.End()
		return nil, traceparent
	}
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return span, carrier["traceparent"]
}

func ofCommand(c command.Command) trace.SpanStartEventOption {
	return trace.WithAttributes(attribute.String("ganglion.stream", c.Stream.String()), attribute.String("ganglion.command", c.Name))
}

// answered ends a command's span. A rejection is an answer like any other;
// what did not work out is an error.
func answered(span trace.Span, out command.Outcome) {
	switch f := out.Failure; {
	case f == nil:
		span.SetAttributes(attribute.Int64("ganglion.version", int64(out.Result.Version)), attribute.Int64("ganglion.position", int64(out.Result.Position)),
			attribute.Bool("ganglion.replayed", out.Result.Replayed))
	default:
		span.SetAttributes(attribute.String("ganglion.code", string(f.Code)), attribute.String("ganglion.reason", f.Reason))
		switch f.Code {
		case command.Busy, command.Unavailable, command.Timeout, command.Internal:
			span.SetStatus(codes.Error, string(f.Code))
		}
	}
	span.End()
}

// observedRouter is the router as a gateway sees it.
type observedRouter struct {
	gateway.Router
	*observer
}

func (r observedRouter) Send(c command.Command, reply func(command.Outcome)) {
	began := time.Now()
	var span trace.Span
	if r.tracer != nil {
		span, c.Trace = r.start("command", c.Trace, true, trace.WithSpanKind(trace.SpanKindServer), ofCommand(c))
	}
	r.Router.Send(c, func(out command.Outcome) {
		r.commands.Observe(time.Since(began).Seconds())
		if span != nil {
			answered(span, out)
		}
		reply(out)
	})
}

// observedExecutor is the host as a router sees it.
type observedExecutor struct {
	router.Executor
	*observer
}

func (e observedExecutor) Submit(c command.Command, reply func(command.Outcome)) {
	if e.tracer == nil {
		e.Executor.Submit(c, reply)
		return
	}
	span, below := e.start("execute", c.Trace, false, trace.WithSpanKind(trace.SpanKindServer), ofCommand(c), trace.WithAttributes(attribute.Int("ganglion.attempt", c.Attempt)))
	if span == nil {
		e.Executor.Submit(c, reply)
		return
	}
	c.Trace = below
	e.Executor.Submit(c, func(out command.Outcome) {
		answered(span, out)
		reply(out)
	})
}

// observedStore is the log as a host sees it.
type observedStore struct {
	eventstore.Store
	*observer
}

func (s observedStore) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	began := time.Now()
	var spans []trace.Span
	if s.tracer != nil {
		for _, c := range u.Commands {
			// The events are stored with the trace of their command: they are
			// not what the store did.
			span, _ := s.start("append", c.Meta.Trace, false, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
				attribute.String("ganglion.stream", u.Stream.String()), attribute.Int("ganglion.commands", len(u.Commands)), attribute.Int("ganglion.events", len(c.Events))))
			if span != nil {
				spans = append(spans, span)
			}
		}
	}
	appended, err := s.Store.Append(ctx, u)
	if !isOutage(err) { // how slow a database is that stores nothing, says nothing
		s.appends.Observe(time.Since(began).Seconds())
	}
	s.store.appended(appended, err, time.Now())
	for _, span := range spans {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
	return appended, err
}

// delivering sees commits being given to a gateway's sessions.
func (o *observer) delivering(commits []eventstore.Commit, now time.Time, deliver func([]eventstore.Commit)) {
	var spans []trace.Span
	for i := range commits {
		c := &commits[i]
		o.deliveries.Observe(max(0, now.Sub(c.At).Seconds()))
		if o.tracer == nil {
			continue
		}
		span, _ := o.start("deliver", c.Meta.Trace, false, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			attribute.String("ganglion.stream", c.Stream.String()), attribute.Int64("ganglion.position", int64(c.Position)), attribute.Int("ganglion.events", len(c.Events))))
		if span != nil {
			spans = append(spans, span)
		}
	}
	deliver(commits)
	for _, span := range spans {
		span.End()
	}
}
