package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/ganglion-es/ganglion/test/harness"
)

// A repeat is an update that did not change the row that the client had. It is
// right if the row left the result after the position of the client's last batch,
// and returned before that of the next one. A gateway that reads several changes
// together applies the newest form of each row in turn, so a row at the window's
// edge can also leave and return between two of them.
type repeat struct {
	key      string
	from, to uint64
}

// A viewer is a client of a live query that follows docs/protocol.md: it applies a
// batch as a whole, and resumes from the cursor of the last one at any gateway.
type viewer struct {
	client string
	id     string         // of the subscription
	frame  map[string]any // query and data

	// batch is called at each live and synced, on the reader of a session, with
	// the rows in order. May be nil.
	batch func(position uint64, rows []harness.Row)

	mu       sync.Mutex
	changed  chan struct{} // closed at the next batch or end of a session
	rows     map[string]harness.Row
	staged   map[string]harness.Row // rows and the frames of a batch that is not complete; nil if there is none
	loading  bool                   // a state is not complete
	cursor   string
	position uint64
	frames   int
	batches  int
	repeats  []repeat
	resets   []string            // reasons
	sent     map[string]struct{} // keys that were received since the last reset
	faults   []error             // broken promises
}

func newViewer(client, query string, data any) *viewer {
	return &viewer{client: client, id: "v", frame: map[string]any{"query": query, "data": data}, changed: make(chan struct{}), sent: map[string]struct{}{}}
}

func (v *viewer) fault(format string, args ...any) {
	v.faults = append(v.faults, fmt.Errorf(v.client+": "+format, args...))
}

// view connects to a gateway, and stays until enough reports true or the session
// ends. The error says why a session ended or was refused.
func (v *viewer) view(ctx context.Context, url string, enough func() bool) error {
	s, err := harness.Dial(ctx, url, v.client, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := v.follow(ctx, s); err != nil {
		return err
	}
	return v.await(ctx, s, enough)
}

// follow subscribes on a session.
func (v *viewer) follow(ctx context.Context, s *harness.Session) error {
	v.mu.Lock()
	frame := maps.Clone(v.frame)
	v.staged, v.loading = nil, v.cursor == ""
	if v.loading {
		v.staged = map[string]harness.Row{}
	} else {
		frame["cursor"] = v.cursor
	}
	v.mu.Unlock()
	f, err := s.Subscribe(ctx, v.id, frame, v.receive)
	if err == nil && f.Op != "subscribed" {
		err = &harness.ErrRefused{Frame: f}
	}
	return err
}

// await waits until enough, which is called after each frame, reports true.
func (v *viewer) await(ctx context.Context, s *harness.Session, enough func() bool) error {
	for {
		v.mu.Lock()
		done, changed := enough(), v.changed
		v.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-s.Done():
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive handles a frame of the subscription.
func (v *viewer) receive(f harness.Frame) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frames++
	for _, key := range append(f.Keys, f.Key) {
		if key != "" {
			v.sent[key] = struct{}{}
		}
	}
	for _, r := range f.Rows {
		v.sent[r.Key] = struct{}{}
	}
	switch f.Op {
	case "reset":
		v.resets = append(v.resets, f.Reason)
		clear(v.sent)
		v.staged, v.loading = map[string]harness.Row{}, true
		switch f.Reason {
		case "access":
			v.rows = nil
		case "log":
			v.position = 0
		}
	case "state":
		if !v.loading {
			v.fault("a state without a reset")
		}
		for _, r := range f.Rows {
			v.stage(r)
		}
	case "update", "keys":
		v.update(f)
	case "live", "synced":
		v.apply(f)
	case "unsubscribed":
		v.fault("unsubscribed: %s %s", f.Code, f.Reason)
	}
	close(v.changed)
	v.changed = make(chan struct{})
}

// apply applies a batch.
func (v *viewer) apply(f harness.Frame) {
	if (f.Op == "live") != v.loading {
		v.fault("%s while a state is expected: %v", f.Op, v.loading)
	}
	if f.Position < v.position {
		v.fault("position %d follows %d", f.Position, v.position)
	}
	if v.staged != nil {
		for key, r := range v.staged {
			if had, has := v.rows[key]; has && had.Position > r.Position && v.position > 0 {
				v.fault("the row %s at position %d follows the one at %d", key, r.Position, had.Position)
			}
		}
		v.rows = v.staged
	}
	for i := range v.repeats {
		if v.repeats[i].to == 0 {
			v.repeats[i].to = f.Position
		}
	}
	v.staged, v.loading, v.cursor, v.position = nil, false, f.Cursor, f.Position
	v.batches++
	if v.batch != nil {
		v.batch(v.position, v.ordered())
	}
}

// update stages an update or keys.
func (v *viewer) update(u harness.Frame) {
	if v.staged == nil {
		v.staged = maps.Clone(v.rows)
	}
	switch {
	case u.Op == "keys":
		maps.DeleteFunc(v.staged, func(key string, _ harness.Row) bool { return !slices.Contains(u.Keys, key) })
	case u.Gone:
		delete(v.staged, u.Key)
	case v.loading:
		v.fault("an update of %s before the state is complete", u.Key)
	default:
		v.stage(harness.Row{Key: u.Key, Rank: u.Rank, Position: u.Position, Data: u.Data})
	}
}

// stage stages a row, which must be newer than the one before.
func (v *viewer) stage(r harness.Row) {
	if v.staged == nil {
		v.staged = maps.Clone(v.rows)
	}
	had, has := v.staged[r.Key]
	if has && had.Position > r.Position {
		v.fault("the row %s at position %d follows the one at %d", r.Key, r.Position, had.Position)
	}
	if has && had.Position == r.Position && string(had.Data) == string(r.Data) {
		v.repeats = append(v.repeats, repeat{key: r.Key, from: v.position})
	}
	v.staged[r.Key] = r
}

// ordered returns the rows in the order of their ranks.
func (v *viewer) ordered() []harness.Row {
	return slices.SortedFunc(maps.Values(v.rows), func(a, b harness.Row) int { return cmp.Compare(a.Rank, b.Rank) })
}

// hasBegun returns an error before the first batch.
func (v *viewer) hasBegun() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.position == 0 {
		return errors.New("it has no batch yet")
	}
	return nil
}

// err returns the broken promises.
func (v *viewer) err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(v.faults...)
}

// rowsNow returns the rows that the client shows.
func (v *viewer) rowsNow() []harness.Row {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ordered()
}

// has reports whether a client shows the row with a key. The caller holds v.mu.
func (v *viewer) has(key string) bool {
	_, has := v.rows[key]
	return has
}

// asRefused reports whether an error is a refusal.
func asRefused(err error, refused **harness.ErrRefused) bool { return errors.As(err, refused) }
