package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

// Activities that are named in the log lines about failures.
const (
	loading = "reading the aggregate"
	storing = "storing"
)

// pageCommits bounds the commits that one call of the store reads, which have at
// most eventstore.LoadBytes together. A commit has at most MaxCommitBytes, and usually a few
// hundred bytes.
const pageCommits = 256

// maxReloads bounds the attempts of a load whose state is invalidated while it is
// read.
const maxReloads = 3

// errInvalidated reports that each of maxReloads loads was invalidated.
var errInvalidated = fmt.Errorf("%w: the log changed while the aggregate was read", eventstore.ErrUnavailable)

// load brings the cell's state to at least the newest version that the host knows
// of. It reads only the events that the state in memory lacks.
//
// A load is bounded by LoadTimeout and not by the deadline of the request that
// caused it, so that the next request finds the state. If the time runs out, the
// state read so far is kept, in memory and as a snapshot, and the next load
// continues from it. An aggregate that takes longer than LoadTimeout to read
// therefore becomes usable after a few requests.
//
// onlyFor lists the gets that wait for the state, or is empty if commands wait for
// it too. A load that waits for a slot is abandoned once the callers of all these
// gets have left.
func (w worker) load(onlyFor []*read) error {
	c := w.cell
	for range maxReloads {
		known := w.knownVersion()
		if c.state.value != nil && !c.state.partial && c.state.version >= known {
			w.host.counters.hits.Add(1)
			return nil
		}
		if err := w.readLog(onlyFor); err != nil {
			if !isInterrupted(err) || c.state.value == nil {
				w.discard()
				return err
			}
			c.state.partial = true
			w.keepPartial()
			w.offerSnapshot()
			return err
		}
		c.state.partial = false
		w.measure()
		if w.publish(known) {
			w.offerSnapshot()
			return nil
		}
	}
	return errInvalidated
}

// knownVersion returns the newest version that the host knows of. It drops an
// invalid state.
func (w worker) knownVersion() eventstore.Version {
	w.host.mu.Lock()
	defer w.host.mu.Unlock()
	if w.cell.invalid {
		w.cell.invalid = false
		w.cell.state = state{}
	}
	return w.cell.known
}

// isInterrupted reports whether a read ended because of a timeout or a lost
// connection, so that the events read so far are correct.
func isInterrupted(err error) bool {
	return !errors.Is(err, eventstore.ErrWentBack) &&
		(errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, eventstore.ErrUnavailable))
}

// acquireSlot waits for one of the Config.Loads slots, or of the half of them that
// wake-ups may use, at most LoadTimeout. The caller releases it.
func (w worker) acquireSlot(slots chan struct{}, onlyFor []*read) error {
	h := w.host
	select {
	case slots <- struct{}{}:
		return nil
	default:
	}
	ctx, stop := h.ctx, func() {}
	if len(onlyFor) > 0 {
		ctx, stop = whileWanted(h.ctx, onlyFor)
	}
	defer stop()
	timer := time.NewTimer(h.config.LoadTimeout)
	defer timer.Stop()
	select {
	case slots <- struct{}{}:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: %d aggregates are being read, and none of them was finished within %s",
			eventstore.ErrUnavailable, cap(slots), h.config.LoadTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readLog applies the commits that the cell's state lacks.
func (w worker) readLog(onlyFor []*read) error {
	h, c := w.host, w.cell
	if c.onlyWakes {
		if err := w.acquireSlot(h.wakeSlots, nil); err != nil {
			return err
		}
		defer func() { <-h.wakeSlots }()
	}
	if err := w.acquireSlot(h.loadSlots, onlyFor); err != nil {
		return err
	}
	defer func() { <-h.loadSlots }()
	ctx, cancel := context.WithTimeout(h.ctx, h.config.LoadTimeout)
	defer cancel()
	h.counters.loads.Add(1)
	loaded, err := w.firstPage(ctx)
	for {
		if err != nil {
			return fmt.Errorf("read after version %d: %w", c.state.version, err)
		}
		if err := w.applyCommits(loaded.Commits); err != nil {
			c.state = state{} // it may be half changed
			return err
		}
		if !loaded.More {
			return nil
		}
		loaded, err = h.store.Load(ctx, eventstore.LoadRequest{Stream: c.stream, After: c.state.version, Limit: pageCommits})
	}
}

// firstPage reads the first commits that the cell's state lacks. Without a state
// in memory it begins with the stored snapshot, or with the empty state if the
// log has no snapshot that this program can decode.
func (w worker) firstPage(ctx context.Context) (eventstore.Loaded, error) {
	c := w.cell
	r := eventstore.LoadRequest{Stream: c.stream, After: c.state.version, Limit: pageCommits}
	if c.state.value != nil {
		return w.host.store.Load(ctx, r)
	}
	if c.def.SnapshotEvery() > 0 && !c.fromScratch {
		r.Fingerprint = c.def.Fingerprint()
	}
	loaded, err := w.host.store.Load(ctx, r)
	if err != nil {
		return loaded, err
	}
	if loaded.Snapshot == nil {
		return loaded, c.startEmpty()
	}
	if w.restore(loaded.Snapshot) {
		return loaded, nil
	}
	r.Fingerprint = ""
	if loaded, err = w.host.store.Load(ctx, r); err != nil {
		return loaded, err
	}
	return loaded, c.startEmpty()
}

// startEmpty gives the cell the state of an unused aggregate.
func (c *cell) startEmpty() error {
	return guarded(func() error {
		c.state.value = c.def.NewState()
		return nil
	})
}

func (w worker) applyCommits(commits []eventstore.Commit) error {
	w.watch(applying)
	defer w.cell.watchdog.stop()
	for i := range commits {
		if err := w.applyCommit(&commits[i]); err != nil {
			return err
		}
	}
	return nil
}

// applyCommit applies those events of a commit that the state lacks.
func (w worker) applyCommit(commit *eventstore.Commit) error {
	c := w.cell
	first := commit.FirstVersion()
	if first > c.state.version+1 || commit.Version < first {
		return &eventstore.DamagedError{
			Position: commit.Position,
			Reason:   fmt.Sprintf("%s has versions %d to %d after version %d", c.stream, first, commit.Version, c.state.version),
		}
	}
	for i, e := range commit.Events {
		version := first + eventstore.Version(i)
		if version <= c.state.version {
			continue
		}
		err := guarded(func() error {
			if err := w.checkForm(&e, version); err != nil {
				return err
			}
			event, err := c.def.DecodeEvent(e.Type, e.Form, e.Data)
			if err == nil {
				c.def.Apply(c.state.value, event)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("event %s at version %d: %w", e.Type, version, err)
		}
		c.state.version++
		c.state.bytes += len(e.Data)
		w.host.counters.eventsLoaded.Add(1)
	}
	c.state.position, c.state.at = commit.Position, commit.At
	return nil
}

// checkForm refuses a stored event that this program would misread. It logs each
// form that differs from the program's declaration once.
func (w worker) checkForm(e *eventstore.Event, version eventstore.Version) error {
	err := w.cell.def.CheckStored(e.Type, e.Form, e.Data)
	wrong, ok := errors.AsType[*aggregate.FormError](err)
	if !ok {
		return err
	}
	w.host.reportForm(w.cell.stream, e, version, wrong)
	if wrong.Misread() {
		return wrong
	}
	return nil
}

// isMisread reports whether err means that this program would misread a stored
// event.
func isMisread(err error) bool {
	_, ok := errors.AsType[*aggregate.FormError](err)
	return ok
}
