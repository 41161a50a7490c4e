package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// ours is this project's engine in this process: it owns all segments, and gets
// the commits that its store announces, as a node does.
type ours struct {
	*engine.Projections
	store    *postgres.Store
	catalog  *aggregate.Catalog
	announce atomic.Pointer[engine.Queries] // hears of written batches; may be nil
	names    []string
	end      context.CancelFunc
	ended    chan error
}

// follow begins a new build of the projections, from the first event of the log.
// Call stop.
func follow(ctx context.Context, store *postgres.Store, revision int, names ...string) (*ours, error) {
	catalog, err := define(revision, names...)
	if err != nil {
		return nil, err
	}
	return followCatalog(ctx, store, catalog, names...)
}

// followOffers is follow for the projection of the live queries.
func followOffers(ctx context.Context, store *postgres.Store) (*ours, error) {
	catalog, err := defineOffers()
	if err != nil {
		return nil, err
	}
	return followCatalog(ctx, store, catalog, "offers")
}

func followCatalog(ctx context.Context, store *postgres.Store, catalog *aggregate.Catalog, names ...string) (*ours, error) {
	head, err := store.Head(ctx)
	if err != nil {
		return nil, err
	}
	o := &ours{store: store, catalog: catalog, names: names, ended: make(chan error, 1)}
	o.Projections = engine.NewProjections(engine.ProjectionsConfig{
		Catalog: catalog, Store: store, Rows: store.Rows(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Owns: func(string, int) bool { return true },
		Wrote: func(projection string, build int64, segment int, p eventstore.Position) {
			if q := o.announce.Load(); q != nil {
				q.Announce(projection, build, segment, p)
			}
		},
	})
	o.Begin(head)
	ctx, o.end = context.WithCancel(ctx)
	go func() { o.ended <- o.Run(ctx) }()
	return o, nil
}

// active waits until the newest build of each projection has caught up, and
// returns their ids.
func (o *ours) active(ctx context.Context) ([]int64, error) {
	for {
		builds, err := o.store.Rows().Builds(ctx)
		if err != nil {
			return nil, err
		}
		newest := map[string]rows.Build{}
		for _, b := range builds {
			if slices.Contains(o.names, b.Projection) {
				newest[b.Projection] = b // sorted by id
			}
		}
		var ids []int64
		for _, name := range o.names {
			if newest[name].State == rows.Active {
				ids = append(ids, newest[name].ID)
			}
		}
		if len(ids) == len(o.names) {
			return ids, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case err := <-o.ended:
			return nil, fmt.Errorf("the projections ended: %w", err)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// halt ends the projections. Their builds stay.
func (o *ours) halt() error {
	o.end()
	return <-o.ended
}

// stop ends the projections and drops all builds.
func (o *ours) stop(ctx context.Context) error {
	if err := o.halt(); err != nil {
		return err
	}
	builds, err := o.store.Rows().Builds(ctx)
	if err != nil {
		return err
	}
	for _, b := range builds {
		if err := o.store.Rows().Drop(ctx, b.ID); err != nil {
			return err
		}
	}
	return nil
}

// table returns the name of a build's table.
func table(projection string, build int64) string {
	return fmt.Sprintf("ours.r_%s_%d", projection, build)
}

// rebuild measures a build of the whole log, from the start of the engine until
// the build answers queries.
func (b *bench) rebuildOurs(ctx context.Context, round, lots int) (took time.Duration, err error) {
	start := time.Now()
	o, err := follow(ctx, b.store, round+1, "listings")
	if err != nil {
		return 0, err
	}
	ids, err := o.active(ctx)
	took = time.Since(start)
	if err == nil {
		err = checkRows(ctx, b.server.Admin, `select count(*), sum((data->>'price')::bigint), sum((data->>'bids')::bigint) from `+table("listings", ids[0]), lots)
	}
	if stopped := o.stop(ctx); err == nil {
		err = stopped
	}
	return took, err
}

func openStore(ctx context.Context, url string, committed func([]eventstore.Commit)) (*postgres.Store, error) {
	return postgres.Open(ctx, postgres.Config{
		URL: url, Schema: "ours",
		Committed: func(_ string, batch []eventstore.Commit) { committed(batch) },
	})
}
