// Package observe measures and traces commands, appends and deliveries. Its types
// implement the interfaces through which the parts of a node call each other, so the
// parts do not depend on it.
//
// Without a tracer it only keeps histograms. With one, a sampled command gets these
// spans, on the nodes where the work happens:
//
//	command       at the gateway, from the frame to its answer
//	└ execute     at the owner, from arrival to outcome; the time from the start of
//	  │           command to its start is that of the router and of the link
//	  ├ append    at the owner, while the store appends the unit
//	  └ deliver   on each gateway, while its sessions get the events
//
// Commands carry the context as a W3C traceparent in command.Command.Trace, even
// over links; events carry it in eventstore.Meta.Trace.
package observe

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

// Observer has the histograms and the tracer of a node. It is safe for concurrent
// use.
type Observer struct {
	// Commands, Appends and Deliveries are histograms in seconds.
	Commands, Appends, Deliveries prometheus.Histogram
	// Wakes is a histogram in seconds of how late aggregates were woken.
	Wakes prometheus.Histogram
	// Queries counts the answers to queries, by query and code. QueryTimes is a
	// histogram in seconds, by query.
	Queries    *prometheus.CounterVec
	QueryTimes *prometheus.HistogramVec
	// Store is the health of the log.
	Store StoreHealth
	// Steps are the newest steps of commands.
	Steps Steps
	// Audience counts the live subscriptions that get the events of a stream. It is
	// needed for Deliver.
	Audience func(eventstore.StreamID) int

	tracer trace.Tracer // nil while tracing is off
	node   trace.SpanStartEventOption
}

// New returns the Observer of a node. A nil provider switches tracing off.
func New(node string, provider trace.TracerProvider) *Observer {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds})
	}
	o := &Observer{
		node:       trace.WithAttributes(attribute.String("ganglion.node", node)),
		Commands:   histogram("ganglion_command_seconds", "Time from a command's arrival at this gateway to its answer, whatever the answer."),
		Appends:    histogram("ganglion_append_seconds", "Time that the store took for an append, including the wait for its batch. Appends that an unreachable or full database refused are not counted."),
		Deliveries: histogram("ganglion_delivery_seconds", "Time from a commit, by its owner's clock, to its delivery to this node's sessions."),
		Wakes:      histogram("ganglion_wake_lateness_seconds", "Time from the moment at which an aggregate was to be woken, by the database's clock, to the answer of its owner."),
		Queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ganglion_queries_total", Help: "Queries of this gateway's clients, by query and by the code of the answer.",
		}, []string{"query", "code"}),
		QueryTimes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ganglion_query_seconds", Help: "Time from a query's arrival at this gateway to its answer, including the wait for at_least.", Buckets: seconds,
		}, []string{"query"}),
	}
	if provider != nil {
		o.tracer = provider.Tracer("github.com/ganglion-es/ganglion")
	}
	return o
}

// seconds are the buckets of all histograms: a hop within a rack takes half a
// millisecond, a disk flush a few, a failover half a second, and a client waits at
// most 30 s.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// StoreHealth records whether the store answers and whether it stores events: a
// database whose disk is full still answers, but stores nothing. It is safe for
// concurrent use.
type StoreHealth struct {
	silent  atomic.Bool  // at the last check
	refused atomic.Int64 // Unix nanoseconds of the last refused append; 0 once events were stored
}

// refusedFor is how long the store counts as down after a refused append.
const refusedFor = time.Minute

// Checked records the result of a check of the store.
func (s *StoreHealth) Checked(err error) { s.silent.Store(err != nil && isOutage(err)) }

func (s *StoreHealth) appended(appended eventstore.Appended, err error, now time.Time) {
	switch {
	case err == nil && appended.Stored():
		s.refused.Store(0)
	case isOutage(err):
		s.refused.Store(now.UnixNano())
	}
}

// Up reports whether the store answers and has refused no append for a minute.
func (s *StoreHealth) Up(now time.Time) bool {
	refused := s.refused.Load()
	return !s.silent.Load() && (refused == 0 || now.Sub(time.Unix(0, refused)) >= refusedFor)
}

func isOutage(err error) bool {
	return errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown)
}

var w3c propagation.TraceContext

// parent returns a context with the span of a traceparent, if that is valid.
func parent(traceparent string) context.Context {
	if traceparent == "" {
		return context.Background()
	}
	return w3c.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
}

// start begins a child of the span of a traceparent, and returns the traceparent for
// its own children. It returns a nil span and the unchanged traceparent if the trace
// is not sampled. It begins a new trace only if root is set, as at the gateway.
func (o *Observer) start(name, traceparent string, root bool, opts ...trace.SpanStartOption) (trace.Span, string) {
	if o.tracer == nil || traceparent == "" && !root {
		return nil, traceparent
	}
	above := parent(traceparent)
	if !root && !trace.SpanContextFromContext(above).IsSampled() {
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

func commandAttributes(c command.Command) trace.SpanStartEventOption {
	return trace.WithAttributes(attribute.String("ganglion.stream", c.Stream.String()), attribute.String("ganglion.command", c.Name))
}

// endSpan ends a command's span. A rejection is a regular outcome; a command that
// was not executed, or failed, is an error.
func endSpan(span trace.Span, out command.Outcome) {
	switch f := out.Failure; {
	case f == nil:
		span.SetAttributes(attribute.Int64("ganglion.version", int64(out.Result.Version)), attribute.Int64("ganglion.position", int64(out.Result.Position)),
			attribute.Bool("ganglion.replayed", out.Result.Replayed))
	default:
		span.SetAttributes(attribute.String("ganglion.code", string(f.Code)), attribute.String("ganglion.reason", f.Reason))
		switch f.Code {
		case command.CodeBusy, command.CodeUnavailable, command.CodeTimeout, command.CodeInternal:
			span.SetStatus(codes.Error, string(f.Code))
		}
	}
	span.End()
}

// Router is the router that a gateway calls. It measures and traces commands.
type Router struct {
	gateway.Router
	Observer *Observer
}

// Send sends a command.
func (r Router) Send(c command.Command, reply func(command.Outcome)) {
	began, o := time.Now(), r.Observer
	var span trace.Span
	if o.tracer != nil {
		span, c.Trace = o.start("command", c.Trace, true, trace.WithSpanKind(trace.SpanKindServer), commandAttributes(c))
	}
	answer := o.Steps.recorded("command", &c, reply)
	r.Router.Send(c, func(out command.Outcome) {
		o.Commands.Observe(time.Since(began).Seconds())
		if span != nil {
			endSpan(span, out)
		}
		answer(out)
	})
}

// Executor is the engine that a router calls. It traces executions.
type Executor struct {
	router.Executor
	Observer *Observer
}

// Submit executes a command.
func (e Executor) Submit(c command.Command, reply func(command.Outcome)) {
	answer := e.Observer.Steps.recorded("execute", &c, reply)
	if e.Observer.tracer == nil {
		e.Executor.Submit(c, answer)
		return
	}
	span, below := e.Observer.start("execute", c.Trace, false, trace.WithSpanKind(trace.SpanKindServer), commandAttributes(c), trace.WithAttributes(attribute.Int("ganglion.attempt", c.Attempt)))
	if span == nil {
		e.Executor.Submit(c, answer)
		return
	}
	c.Trace = below
	e.Executor.Submit(c, func(out command.Outcome) {
		endSpan(span, out)
		answer(out)
	})
}

// Store is the log that the engine calls. It measures and traces appends.
type Store struct {
	eventstore.Store
	Observer *Observer
}

// Append appends a unit.
func (s Store) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	began, o := time.Now(), s.Observer
	var spans []trace.Span
	if o.tracer != nil {
		for _, c := range u.Commands {
			// The events keep the trace of their command, so a delivery is a child of
			// execute, not of append.
			span, _ := o.start("append", c.Meta.Trace, false, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
				attribute.String("ganglion.stream", u.Stream.String()), attribute.Int("ganglion.commands", len(u.Commands)), attribute.Int("ganglion.events", len(c.Events))))
			if span != nil {
				spans = append(spans, span)
			}
		}
	}
	appended, err := s.Store.Append(ctx, u)
	if !isOutage(err) { // during an outage the time to fail is not a latency
		o.Appends.Observe(time.Since(began).Seconds())
	}
	o.Store.appended(appended, err, time.Now())
	if err == nil && o.Steps.keeps.Load() {
		for i, c := range u.Commands {
			o.Steps.add(Step{Kind: "append", Stream: u.Stream, Key: c.Key, Position: appended.Commands[i].Position, Began: began})
		}
	}
	for _, span := range spans {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
	return appended, err
}

// Deliver calls deliver, which passes commits to a gateway's sessions, and measures
// and traces the delivery.
func (o *Observer) Deliver(commits []eventstore.Commit, now time.Time, deliver func([]eventstore.Commit)) {
	var spans []trace.Span
	for i := range commits {
		c := &commits[i]
		o.Deliveries.Observe(max(0, now.Sub(c.At).Seconds()))
		if o.tracer == nil {
			continue
		}
		span, _ := o.start("deliver", c.Meta.Trace, false, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			attribute.String("ganglion.stream", c.Stream.String()), attribute.Int64("ganglion.position", int64(c.Position)), attribute.Int("ganglion.events", len(c.Events))))
		if span != nil {
			spans = append(spans, span)
		}
	}
	began := time.Now()
	deliver(commits)
	if o.Steps.keeps.Load() {
		for i := range commits {
			c := &commits[i]
			o.Steps.add(Step{Kind: "deliver", Stream: c.Stream, Key: c.Key, Position: c.Position, Began: began, Subscriptions: o.Audience(c.Stream)})
		}
	}
	for _, span := range spans {
		span.End()
	}
}
