package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// A snapshot comes first, as a row of no events. One of a log that went back
// may be newer than its stream, or stand where another commit is by now.
const loadSQL = `with snap as materialized (select s.*
		from snapshot s join commit c on c.pos = s.pos and c.agg_id = s.agg_id and c.agg_type = s.agg_type and c.version = s.version and c.at = s.at
		where s.agg_id = $1 and s.agg_type = $2)
	select pos, 0, agg_type, agg_id, version, fingerprint, at, null, state from snap
	union all select * from (select ` + columns + ` from commit
		where agg_id = $1 and agg_type = $2 and version > coalesce((select version from snap), 0) order by version limit $3) rest`

// loadsAtOnce bounds the loads that go to the server together.
const loadsAtOnce = 64

// load is one call of Load.
type load struct {
	stream eventstore.StreamID
	limit  int

	loaded stored.Loaded
	err    error
	done   chan struct{} // closed when the two above are there
}

// Load implements eventstore.Store. Loads that come while others are under way
// go to the server together: a node that takes over many aggregates at once
// needs few connections for it, and few ways there and back.
func (s *Store) Load(ctx context.Context, id eventstore.StreamID, limit int) (*eventstore.Snapshot, []eventstore.Commit, error) {
	if err := id.Validate(); err != nil { // what the server refuses would fail for all
		return nil, nil, fmt.Errorf("%w: %w", eventstore.ErrInvalid, err)
	}
	l := &load{stream: id, limit: limit, done: make(chan struct{})}
	select {
	case s.loads <- l:
	case <-ctx.Done():
		return nil, nil, s.failed(ctx, opLoad, ctx.Err())
	case <-s.closed:
		return nil, nil, eventstore.ErrClosed
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, nil, s.failed(ctx, opLoad, ctx.Err())
	}
	if l.err != nil {
		return nil, nil, l.err
	}
	return l.loaded.Snapshot, l.loaded.Commits, l.loaded.Check()
}

const opLoad = "load a stream"

// serveLoads serves loads until ctx ends.
func (s *Store) serveLoads(ctx context.Context) {
	for {
		select {
		case first := <-s.loads:
			s.serve(ctx, s.gather(first))
		case <-ctx.Done():
			return
		}
	}
}

// gather returns the first load and those that wait with it.
func (s *Store) gather(first *load) []*load {
	list := []*load{first}
	for len(list) < loadsAtOnce {
		select {
		case l := <-s.loads:
			list = append(list, l)
		default:
			return list
		}
	}
	return list
}

// serve asks the server for all loads of a list at once. What fails there fails
// for all.
func (s *Store) serve(ctx context.Context, list []*load) {
	err := s.ask(ctx, opLoad, func(ctx context.Context, c *pgx.Conn) error {
		var all pgx.Batch
		for _, l := range list {
			all.Queue(loadSQL, l.stream.ID, l.stream.Type, l.limit)
		}
		answers := c.SendBatch(ctx, &all)
		defer answers.Close()
		for _, l := range list {
			l.loaded, l.err = stored.Loaded{}, nil
			rows, err := answers.Query()
			if err != nil {
				return err
			}
			err = each(rows, func(f *stored.Fields) error {
				if l.err == nil { // else damaged, which is nobody's matter but its own
					l.err = l.loaded.Add(f)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return answers.Close()
	})
	if ctx.Err() != nil {
		err = eventstore.ErrClosed
	}
	for _, l := range list {
		if err != nil {
			l.err = err
		}
		close(l.done)
	}
}
