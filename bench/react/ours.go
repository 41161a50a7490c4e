package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/proto/command"
)

// ours is this project's engine in this process: it executes all commands, owns all
// segments, and gets the commits that its store announces, as a node does.
type ours struct {
	store *postgres.Store
	host  *engine.Host
	end   context.CancelFunc
	parts *errgroup.Group
}

// startOurs starts the engine with a catalog on a database. seen is called with the
// commits of the log, before anything else hears of them. Call stop.
func startOurs(ctx context.Context, url string, catalog *aggregate.Catalog, seen func([]eventstore.Commit)) (_ *ours, err error) {
	o := new(ours)
	var projections *engine.Projections
	ready := make(chan struct{})
	o.store, err = postgres.Open(ctx, postgres.Config{URL: url, Committed: func(_ string, batch []eventstore.Commit) {
		<-ready
		seen(batch)
		o.host.Observe(batch)
		projections.Observe(batch)
	}})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.store.Close())
		}
	}()
	if o.host, err = engine.New(engine.Config{Catalog: catalog, Store: o.store}); err != nil {
		return nil, err
	}
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	projections = engine.NewProjections(engine.ProjectionsConfig{
		Catalog: catalog, Store: o.store, Rows: o.store.Rows(), Logger: logger, Send: o.sendSystem,
		Owns: func(string, int) bool { return true },
	})
	wakes := engine.NewWakes(engine.WakesConfig{
		Catalog: catalog, Store: o.store, Wakes: o.store.Wakes(), Projections: projections, Logger: logger, Send: o.sendSystem,
		Owns: func(int) bool { return true },
	})
	head, err := o.store.Head(ctx)
	if err != nil {
		return nil, err
	}
	projections.Begin(head)
	close(ready)
	ctx, o.end = context.WithCancel(ctx)
	o.parts, ctx = errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{o.host.Run, projections.Run, wakes.Run} {
		o.parts.Go(func() error { return run(ctx) })
	}
	return o, nil
}

// stop ends the engine. The log stays.
func (o *ours) stop() error {
	o.end()
	return errors.Join(o.parts.Wait(), o.store.Close())
}

// sendSystem executes a command of the program itself.
func (o *ours) sendSystem(ctx context.Context, c command.Command) command.Outcome {
	c.System, c.ClientKey, c.Attempt = true, true, 1
	return o.execute(ctx, c)
}

func (o *ours) execute(ctx context.Context, c command.Command) command.Outcome {
	out := make(chan command.Outcome, 1)
	o.host.Submit(c, func(outcome command.Outcome) { out <- outcome })
	select {
	case outcome := <-out:
		return outcome
	case <-ctx.Done():
		return command.Failed(command.Timeout(command.RetrySameKey, "the benchmark ends"))
	}
}

// send executes a client's command, and sends it again under the same key while that
// can help.
func (o *ours) send(ctx context.Context, stream eventstore.StreamID, name, key string, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return err
	}
	c := command.Command{Stream: stream, Name: name, Key: key, Data: raw, ClientKey: true, Client: "bench", Session: key, Attempt: 1}
	for {
		outcome := o.execute(ctx, c)
		if outcome.Failure == nil {
			return nil
		}
		if outcome.Failure.Retry == command.RetryNo || ctx.Err() != nil {
			return outcome.Failure
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
