package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/bench/pgserver"
	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
)

// ours is this project: a node in a process of its own, and members that are clients
// over WebSockets. Each backlog is in a new database. The node starts after the
// backlog was written, so that it reads it from the log and not from its memory.
type ours struct {
	server   *pgserver.Server
	backlogs int
	store    *postgres.Store // of the newest backlog; nil if that was removed
}

func (o *ours) database() string { return fmt.Sprintf("groups_%d", o.backlogs) }

// create creates a database with an empty log. Remove it.
func (o *ours) create(ctx context.Context) (err error) {
	o.backlogs++
	if _, err := o.server.Admin.Exec(ctx, `create database `+o.database()); err != nil {
		return err
	}
	o.store, err = postgres.Open(ctx, postgres.Config{URL: o.server.URL(o.database())})
	return err
}

func (o *ours) fill(ctx context.Context, events int) (rate float64, err error) {
	if err := o.create(ctx); err != nil {
		return 0, err
	}
	// A new group begins at the head of the log, so it must precede the backlog.
	if _, err := o.store.Groups().Ensure(ctx, groupName(0), partitions); err != nil {
		return 0, err
	}
	return fill(ctx, events, func(ctx context.Context, lot, n int, data []byte) error {
		_, err := o.store.Append(ctx, eventstore.Unit{
			Stream: eventstore.StreamID{Type: "lot", ID: lotID(lot)}, Expected: eventstore.Version(n),
			Commands: []eventstore.Command{{
				Key: fmt.Sprintf("%d-%d", lot, n), At: time.Now(), Meta: eventstore.Meta{Client: "ada"},
				Events: []eventstore.Event{{Type: "bid", Data: data}},
			}},
		})
		return err
	})
}

func (o *ours) drain(ctx context.Context, t *tally) (err error) {
	node, err := startRole("node", o.server.URL(o.database()), "1")
	if err != nil {
		return err
	}
	defer func() { node.stop(); err = errors.Join(err, o.remove()) }()
	consuming, ctx := errgroup.WithContext(ctx)
	ctx, leave := context.WithCancel(ctx)
	for m := range members {
		client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{node.url}, ClientID: "ada"})
		if err != nil {
			leave()
			return errors.Join(err, consuming.Wait())
		}
		defer client.Close()
		consuming.Go(func() error { return consume(ctx, client, fmt.Sprintf("member-%d", m), t) })
	}
	select {
	case <-t.all:
		err = o.acknowledged(ctx)
	case <-ctx.Done():
		err = ctx.Err()
	}
	leave()
	return errors.Join(consuming.Wait(), err)
}

// consume is a member until ctx ends.
func consume(ctx context.Context, client *ganglion.Client, member string, t *tally) error {
	for d, err := range client.Consume(ctx, groupName(0), ganglion.WithMember(member), ganglion.WithWindow(window)) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", member, err)
		}
		if err := t.observe(d.Data); err != nil {
			return err
		}
		d.Ack()
	}
	return nil
}

// acknowledged waits until every segment of the group is at the head of the log.
func (o *ours) acknowledged(ctx context.Context) error {
	head, err := o.store.Head(ctx)
	if err != nil {
		return err
	}
	for {
		list, err := o.store.Groups().Groups(ctx, groupName(0))
		if err != nil {
			return err
		}
		behind := 0
		for _, g := range list {
			for _, s := range g.Segments {
				if s.Position < head {
					behind++
				}
			}
		}
		if behind == 0 {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the node has not recorded all acknowledgements: %d of %d segments are behind: %w", behind, partitions, ctx.Err())
		}
	}
}

// remove removes the newest backlog.
func (o *ours) remove() error {
	if o.store == nil {
		return nil
	}
	err := o.store.Close()
	o.store = nil
	_, dropped := o.server.Admin.Exec(context.Background(), `drop database `+o.database()+` with (force)`)
	return errors.Join(err, dropped)
}

func (o *ours) close() error { return o.remove() }
