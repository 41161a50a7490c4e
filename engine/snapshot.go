package engine

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// snapshotQueue bounds the snapshots that wait to be written. A snapshot
	// that finds the queue full is dropped; the next commit makes another.
	snapshotQueue   = 64
	snapshotTimeout = 30 * time.Second
)

// offerSnapshot hands a snapshot of the state to the writer if the state has at
// least SnapshotEvery more events than the last snapshot.
func (w worker) offerSnapshot() {
	h, c := w.host, w.cell
	every := eventstore.Version(c.def.SnapshotEvery())
	if every == 0 || c.state.value == nil || c.state.version < c.state.snapshotAt+every {
		return
	}
	if len(h.snapshots) == cap(h.snapshots) {
		h.counters.snapshotsDropped.Add(1)
		return
	}
	s := eventstore.Snapshot{
		Stream: c.stream, Version: c.state.version, Position: c.state.position, At: c.state.at, Fingerprint: c.def.Fingerprint(),
	}
	w.watch(encoding)
	err := guarded(func() (err error) {
		s.State, err = c.def.EncodeState(c.state.value)
		return err
	})
	c.watchdog.stop()
	c.state.snapshotAt = c.state.version // also after an error: the same state would fail again
	if err != nil {
		h.log.Warn("cannot make a snapshot", "stream", c.stream, "version", c.state.version, "err", err)
		return
	}
	c.state.bytes, c.state.measured = len(s.State), len(s.State)
	select {
	case h.snapshots <- s:
	default:
		h.counters.snapshotsDropped.Add(1)
	}
}

// restore gives the cell the state of a snapshot. It returns false if this
// program cannot decode it.
func (w worker) restore(s *eventstore.Snapshot) bool {
	c := w.cell
	w.watch(decoding)
	defer c.watchdog.stop()
	err := guarded(func() (err error) {
		c.state.value, err = c.def.DecodeState(s.State)
		return err
	})
	if err != nil {
		c.state.value = nil
		w.host.log.Warn("cannot decode a snapshot; reading the aggregate from its first event", "stream", c.stream, "err", err)
		return false
	}
	c.state.version, c.state.position, c.state.at = s.Version, s.Position, s.At
	c.state.snapshotAt, c.state.bytes, c.state.measured = s.Version, len(s.State), len(s.State)
	w.host.counters.snapshotsUsed.Add(1)
	return true
}

// writeSnapshots writes snapshots one after another until the host ends. It then
// drops the snapshots that wait, since a later load can make them again.
func (h *Host) writeSnapshots() {
	for {
		select {
		case <-h.ctx.Done():
			return
		case s := <-h.snapshots:
			h.writeSnapshot(s)
		}
	}
}

func (h *Host) writeSnapshot(s eventstore.Snapshot) {
	ctx, cancel := context.WithTimeout(h.ctx, snapshotTimeout)
	defer cancel()
	err := h.store.SaveSnapshot(ctx, s)
	switch {
	case err == nil:
		h.counters.snapshots.Add(1)
	case h.ctx.Err() == nil:
		h.counters.snapshotsDropped.Add(1)
		h.log.Warn("cannot write a snapshot", "stream", s.Stream, "version", s.Version, "err", err)
	}
}
