package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

// page is how many commits are read at once, of at most eventstore.LoadBytes. A
// commit has at most MaxCommitBytes, as a rule a few hundred bytes.
const page = 256

// errForgotten reports that all was to be forgotten again and again while an
// aggregate was read.
var errForgotten = fmt.Errorf("%w: the log changed while the aggregate was read", eventstore.ErrUnavailable)

// load makes the cell's state one that is at or past every version that the
// host knows of, and shows it. What is in memory already is only caught up.
//
// Reading takes its own time and not that of the request that set it off: the
// next request finds the state there. What was read when the time ended is kept,
// in memory and as a snapshot, and the next load continues from it: so an
// aggregate that takes longer than LoadTimeout to read is usable in the end.
//
// only are the gets that the state is loaded for; none if commands wait for it.
// A load that waits for its turn is given up once their callers have gone.
func (h *Host) load(c *cell, only []*read) error {
	for range 3 {
		h.mu.Lock()
		if c.forget {
			c.forget = false
			c.drop()
		}
		known := c.known
		h.mu.Unlock()
		if c.state != nil && !c.partial && c.version >= known {
			h.counters.hits.Add(1)
			return nil
		}
		if err := h.read(c, only); err != nil {
			if !interrupted(err) || c.state == nil {
				h.discard(c)
				return err
			}
			c.partial = true
			h.hold(c)
			h.offerSnapshot(c)
			return err
		}
		c.partial = false
		h.measure(c)
		if h.publish(c, known) {
			h.offerSnapshot(c)
			return nil
		}
	}
	return errForgotten
}

// interrupted reports whether a read ended because of time or the connection,
// so that what it has read so far is right.
func interrupted(err error) bool {
	return !errors.Is(err, eventstore.ErrWentBack) &&
		(errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, eventstore.ErrUnavailable))
}

// turn waits until the cell may be read from the log. The caller gives the
// turn back to h.loads.
func (h *Host) turn(only []*read) error {
	select {
	case h.loads <- struct{}{}:
		return nil
	default:
	}
	ctx, stop := h.ctx, func() {}
	if len(only) > 0 {
		ctx, stop = wanted(h.ctx, only)
	}
	defer stop()
	timer := time.NewTimer(h.config.LoadTimeout)
	defer timer.Stop()
	select {
	case h.loads <- struct{}{}:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: %d aggregates are being read, and none of them has ended in %s",
			eventstore.ErrUnavailable, h.config.Loads, h.config.LoadTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read reads what the cell's state lacks from the log.
func (h *Host) read(c *cell, only []*read) error {
	if err := h.turn(only); err != nil {
		return err
	}
	defer func() { <-h.loads }()
	ctx, cancel := context.WithTimeout(h.ctx, h.config.LoadTimeout)
	defer cancel()
	h.counters.loads.Add(1)
	loaded, err := h.first(ctx, c)
	for {
		if err != nil {
			return fmt.Errorf("read after version %d: %w", c.version, err)
		}
		if err := h.applyAll(c, loaded.Commits); err != nil {
			c.drop() // the state may be half changed
			return err
		}
		if !loaded.More {
			return nil
		}
		loaded, err = h.store.Load(ctx, eventstore.LoadRequest{Stream: c.stream, After: c.version, Limit: page})
	}
}

// first reads the first commits that the cell's state lacks. A cell without a
// state gets one to start from: the snapshot, if there is one that this program
// understands, else that of an unused aggregate.
func (h *Host) first(ctx context.Context, c *cell) (eventstore.Loaded, error) {
	r := eventstore.LoadRequest{Stream: c.stream, After: c.version, Limit: page}
	if c.state != nil {
		return h.store.Load(ctx, r)
	}
	if c.def.SnapshotEvery() > 0 && !c.fromScratch {
		r.Fingerprint = c.def.Fingerprint()
	}
	loaded, err := h.store.Load(ctx, r)
	if err != nil {
		return loaded, err
	}
	if loaded.Snapshot == nil {
		return loaded, c.begin()
	}
	if h.restore(c, loaded.Snapshot) {
		return loaded, nil
	}
	r.Fingerprint = ""
	if loaded, err = h.store.Load(ctx, r); err != nil {
		return loaded, err
	}
	return loaded, c.begin()
}

// begin gives the cell the state of an unused aggregate.
func (c *cell) begin() error {
	return guarded(func() error {
		c.state = c.def.NewState()
		return nil
	})
}

// restore gives the cell the state of a snapshot, if this program understands
// it.
func (h *Host) restore(c *cell, s *eventstore.Snapshot) bool {
	h.begin(c, decoding)
	defer c.watchdog.end()
	err := guarded(func() (err error) {
		c.state, err = c.def.DecodeState(s.State)
		return err
	})
	if err != nil {
		c.state = nil
		h.log.Warn("a snapshot can't be decoded: reading the aggregate from its first event", "stream", c.stream, "error", err)
		return false
	}
	c.version, c.position, c.at = s.Version, s.Position, s.At
	c.snapshot, c.stateBytes, c.measured = s.Version, len(s.State), len(s.State)
	h.counters.snapshotsUsed.Add(1)
	return true
}

func (h *Host) applyAll(c *cell, commits []eventstore.Commit) error {
	h.begin(c, applying)
	defer c.watchdog.end()
	for i := range commits {
		if err := h.apply(c, &commits[i]); err != nil {
			return err
		}
	}
	return nil
}

// apply applies those events of a commit that the state does not have.
func (h *Host) apply(c *cell, commit *eventstore.Commit) error {
	first := commit.FirstVersion()
	if first > c.version+1 || commit.Version < first {
		return &eventstore.DamagedError{
			Position: commit.Position,
			Reason:   fmt.Sprintf("%s has versions %d to %d after version %d", c.stream, first, commit.Version, c.version),
		}
	}
	for i, e := range commit.Events {
		if first+eventstore.Version(i) <= c.version {
			continue
		}
		err := guarded(func() error {
			if err := h.checkStored(c, &e, first+eventstore.Version(i)); err != nil {
				return err
			}
			event, err := c.def.DecodeEvent(e.Type, e.Form, e.Data)
			if err == nil {
				c.def.Apply(c.state, event)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("event %s at version %d: %w", e.Type, first+eventstore.Version(i), err)
		}
		c.version++
		c.stateBytes += len(e.Data)
		h.counters.eventsLoaded.Add(1)
	}
	c.position, c.at = commit.Position, commit.At
	return nil
}

// checkStored refuses an event that this program would misread. It logs each
// form that differs from what this program declares once.
func (h *Host) checkStored(c *cell, e *eventstore.Event, version eventstore.Version) error {
	err := c.def.CheckStored(e.Type, e.Form, e.Data)
	wrong, ok := errors.AsType[*aggregate.FormError](err)
	if !ok {
		return err
	}
	if _, known := h.differing.LoadOrStore(formKey{c.stream.Type, e.Type, e.Form, wrong.Misread()}, true); !known {
		level, doing := slog.LevelWarn, "a stored event has members that this program ignores"
		if wrong.Misread() {
			level, doing = slog.LevelError, "this program would misread a stored event: it leaves the aggregate to other nodes"
		}
		h.log.Log(context.Background(), level, doing, "stream", c.stream, "version", version,
			"event", e.Type, "form", wrong.Form, "unknown", wrong.Unknown, "missing", wrong.Missing, "err", wrong)
	}
	if wrong.Misread() {
		return wrong
	}
	return nil
}

// isMisread reports whether a stored event has another form than this program
// declares.
func isMisread(err error) bool {
	_, ok := errors.AsType[*aggregate.FormError](err)
	return ok
}

// formKey is a form of an event that differs from what this program declares.
type formKey struct {
	typ, event string
	form       int
	misread    bool
}

// render returns the state's view, rendered when a get first asks for its
// version. It returns nil if the application fails at that. Such an aggregate
// still takes commands, and its state is read again.
func (h *Host) render(c *cell) *view {
	h.mu.Lock()
	v := c.view
	h.mu.Unlock()
	if v != nil && v.version == c.version {
		return v
	}
	v = &view{version: c.version, position: c.position}
	h.begin(c, rendering)
	err := guarded(func() (err error) {
		v.data, err = c.def.View(c.state)
		return err
	})
	c.watchdog.end()
	if err != nil {
		h.failure(c.stream, "rendering the view", err)
		h.discard(c)
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.forget {
		c.view = v
		h.account(c)
	}
	return v
}

// publish makes the state the one that the next goroutine continues from. It
// reports false, and drops the state, if that must be forgotten. known is what
// was known before the state was read: if the log has less, it was wrong.
func (h *Host) publish(c *cell, known eventstore.Version) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.forget {
		c.forget = false
		c.drop()
		h.release(c)
		return false
	}
	if c.known == known {
		c.known = c.version
	}
	c.known = max(c.known, c.version)
	h.account(c)
	return true
}

// hold keeps a state that is not complete.
func (h *Host) hold(c *cell) {
	h.measure(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.forget { // else load drops it
		h.account(c)
	}
}

// discard drops the state and what gets are answered from.
func (h *Host) discard(c *cell) {
	c.drop()
	h.mu.Lock()
	h.release(c)
	h.mu.Unlock()
}

const (
	// snapshotQueue bounds the snapshots that wait to be written. One that
	// finds no place is dropped: the next commit makes another.
	snapshotQueue   = 64
	snapshotTimeout = 30 * time.Second
)

// offerSnapshot makes a snapshot of the state and hands it to the writer, if
// enough has happened since the last one.
func (h *Host) offerSnapshot(c *cell) {
	every := eventstore.Version(c.def.SnapshotEvery())
	if every == 0 || c.state == nil || c.version < c.snapshot+every {
		return
	}
	if len(h.snapshots) == cap(h.snapshots) {
		h.counters.snapshotsDropped.Add(1)
		return
	}
	s := eventstore.Snapshot{
		Stream: c.stream, Version: c.version, Position: c.position, At: c.at, Fingerprint: c.def.Fingerprint(),
	}
	h.begin(c, encoding)
	err := guarded(func() (err error) {
		s.State, err = c.def.EncodeState(c.state)
		return err
	})
	c.watchdog.end()
	c.snapshot = c.version // also if it failed: the same state fails again
	if err != nil {
		h.log.Warn("a snapshot can't be made", "stream", c.stream, "version", c.version, "error", err)
		return
	}
	c.stateBytes, c.measured = len(s.State), len(s.State)
	select {
	case h.snapshots <- s:
	default:
		h.counters.snapshotsDropped.Add(1)
	}
}

// writeSnapshots writes snapshots one after another. What still waits in the
// end is dropped: a snapshot is a cache.
func (h *Host) writeSnapshots() {
	for {
		select {
		case <-h.ctx.Done():
			return
		case s := <-h.snapshots:
			ctx, cancel := context.WithTimeout(h.ctx, snapshotTimeout)
			err := h.store.SaveSnapshot(ctx, s)
			cancel()
			switch {
			case err == nil:
				h.counters.snapshots.Add(1)
			case h.ctx.Err() == nil:
				h.counters.snapshotsDropped.Add(1)
				h.log.Warn("a snapshot was not written", "stream", s.Stream, "version", s.Version, "error", err)
			}
		}
	}
}
