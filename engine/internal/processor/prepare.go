package processor

import (
	"context"
	"maps"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

// A prepared is a batch before it is folded: its commits, what they do, and the
// rows that they need.
type prepared struct {
	commits []eventstore.Commit // none at the head
	steps   []step
	present map[string]*kept
	err     error // a *fault, aggregate.ErrUnknownEvent, or one of the database
}

// prepare reads the commits after a position and loads the rows that they need.
// The rows of pending, the batch before, may not be stored yet, so it takes them
// from there.
func (s *segment) prepare(ctx context.Context, after eventstore.Position, pending map[string]*kept) *prepared {
	p := &prepared{}
	if p.commits, p.err = s.next(ctx, after); p.err != nil || len(p.commits) == 0 || s.sql != nil {
		return p
	}
	if p.steps, p.err = s.plan(p.commits, after); p.err != nil {
		return p
	}
	p.present, p.err = s.load(ctx, p.steps, pending)
	return p
}

// load returns the rows that steps need, from the batch before, the cache or the
// table.
func (s *segment) load(ctx context.Context, steps []step, pending map[string]*kept) (map[string]*kept, error) {
	present := make(map[string]*kept, len(steps))
	missing := map[string]eventstore.Position{} // of the first event that needs the row
	for _, st := range steps {
		key := st.effect.key
		if present[key] != nil || missing[key] > 0 {
			continue
		}
		if k := pending[key]; k != nil {
			present[key] = &kept{row: k.row}
		} else if row, ok := s.cache.Get(key); ok {
			present[key] = &kept{row: row}
		} else {
			missing[key] = eventstore.Position(st.at.Position)
		}
	}
	if len(missing) == 0 {
		return present, nil
	}
	found, err := s.table.Load(ctx, slices.Collect(maps.Keys(missing)))
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		row, err := s.model.DecodeRow(r.Data)
		if err != nil {
			return nil, &fault{r.Key, missing[r.Key], err}
		}
		present[r.Key] = &kept{row: row}
	}
	return present, nil
}
