package postgres

import (
	"bytes"
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// loadSQL returns the snapshot first, as a row of no events. A snapshot of a
// log that went back may be newer than its stream, or stand where another
// commit is by now. Once the rows have eventstore.LoadBytes as they are stored,
// which is compressed, the events of the others are null: stored.Page counts
// what arrives, and leaves those out.
var loadSQL = `with snap as materialized (select s.*
		from snapshot s join commit c on c.pos = s.pos and c.agg_id = s.agg_id and c.agg_type = s.agg_type and c.version = s.version and c.at = s.at
		where s.agg_id = $1 and s.agg_type = $2 and s.fingerprint = $3)
	select pos, 0, agg_type, agg_id, version, fingerprint, at, null, state from snap
	union all select pos, n, agg_type, agg_id, version, key, at, meta, case when before is null or before < ` + strconv.Itoa(eventstore.LoadBytes) + ` then events end
	from (select *, sum(pg_column_size(events)) over (order by version rows between unbounded preceding and 1 preceding) as before
		from (select ` + columns + ` from commit
			where agg_id = $1 and agg_type = $2 and version > coalesce((select version from snap), $4) order by version limit $5) page) rest`

func loadArgs(r eventstore.LoadRequest) []any {
	return []any{r.Stream.ID, r.Stream.Type, r.Fingerprint, signed(r.After), r.Limit}
}

// loadsAtOnce bounds the loads that go to the server together.
const loadsAtOnce = 64

// load is one call of Load.
type load struct {
	request eventstore.LoadRequest

	page stored.Page
	err  error
	done chan struct{} // closed when the two above are there
}

// Load implements eventstore.Store. Loads that come while others are under way
// go to the server together: a node that takes over many aggregates at once
// needs few connections for it, and few ways there and back.
func (s *Store) Load(ctx context.Context, r eventstore.LoadRequest) (eventstore.Loaded, error) {
	if err := stored.CheckLoad(r); err != nil { // what the server refuses would fail for all
		return eventstore.Loaded{}, err
	}
	l := &load{request: r, done: make(chan struct{})}
	select {
	case s.loads <- l:
	case <-ctx.Done():
		return eventstore.Loaded{}, s.failed(ctx, opLoad, ctx.Err())
	case <-s.closed:
		return eventstore.Loaded{}, eventstore.ErrClosed
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return eventstore.Loaded{}, s.failed(ctx, opLoad, ctx.Err())
	}
	if l.err != nil {
		return eventstore.Loaded{}, l.err
	}
	return l.page.Check(r)
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
			all.Queue(loadSQL, loadArgs(l.request)...)
		}
		answers := c.SendBatch(ctx, &all)
		defer answers.Close()
		for _, l := range list {
			l.page, l.err = stored.Page{}, nil
			rows, err := answers.Query()
			if err != nil {
				return err
			}
			err = each(rows, func(f *stored.Fields) error {
				if l.err != nil { // damaged: the other loads go on
					return nil
				}
				if !l.page.Full() {
					f.Events = bytes.Clone(f.Events)
				}
				l.err = l.page.Add(f)
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
