package postgres

import (
	"bytes"
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// loadSQL returns the snapshot first, as a row without events. It joins the
// snapshot with its commit, because in a log that went back a snapshot may be
// newer than its stream or belong to a commit that was replaced. Once the rows
// have eventstore.LoadBytes (of compressed data, as stored), the events of
// further rows are null, and stored.Page omits those rows.
var loadSQL = `with snap as materialized (select s.*
		from snapshot s join commit c on c.pos = s.pos and c.agg_id = s.agg_id and c.agg_type = s.agg_type and c.version = s.version and c.at = s.at
		where s.agg_id = $1 and s.agg_type = $2 and s.fingerprint = $3)
	select pos, 0, agg_type, agg_id, version, fingerprint, at, null, state from snap
	union all select pos, n, agg_type, agg_id, version, key, at, meta, case when before is null or before < ` + strconv.Itoa(eventstore.LoadBytes) + ` then events end
	from (select *, sum(pg_column_size(events)) over (order by version rows between unbounded preceding and 1 preceding) as before
		from (select ` + columns + ` from commit
			where agg_id = $1 and agg_type = $2 and version > coalesce((select version from snap), $4) order by version limit $5) page) rest`

func loadArgs(r eventstore.LoadRequest) []any {
	return []any{r.Stream.ID, r.Stream.Type, r.Fingerprint, stored.Signed(r.After), r.Limit}
}

// maxLoads bounds the number of loads in one round trip.
const maxLoads = 64

// load is one call of Load.
type load struct {
	request eventstore.LoadRequest

	page stored.Page
	err  error
	done chan struct{} // closed when page and err are set
}

// Load implements eventstore.Store. Loads that arrive while others are in flight
// share a round trip, so a node that takes over many aggregates needs few
// connections and few round trips.
func (s *Store) Load(ctx context.Context, r eventstore.LoadRequest) (eventstore.Loaded, error) {
	if err := stored.CheckLoad(r); err != nil { // an error of the server would fail all loads of the round trip
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

// serveLoads serves loads over one connection until ctx ends.
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

// gather returns first and the loads that are waiting, at most maxLoads in all.
func (s *Store) gather(first *load) []*load {
	list := []*load{first}
	for len(list) < maxLoads {
		select {
		case l := <-s.loads:
			list = append(list, l)
		default:
			return list
		}
	}
	return list
}

// serve sends all loads of a list in one round trip. If the round trip fails, all
// of them fail.
func (s *Store) serve(ctx context.Context, list []*load) {
	err := s.readBounded(ctx, opLoad, func(ctx context.Context, c *pgx.Conn) error {
		var all pgx.Batch
		for _, l := range list {
			all.Queue(loadSQL, loadArgs(l.request)...)
		}
		results := c.SendBatch(ctx, &all)
		defer results.Close()
		for _, l := range list {
			l.page, l.err = stored.Page{}, nil
			rows, err := results.Query()
			if err != nil {
				return err
			}
			err = each(rows, func(f *stored.Fields) error {
				if l.err != nil { // damaged; the other loads continue
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
		return results.Close()
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
