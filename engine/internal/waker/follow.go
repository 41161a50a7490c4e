package waker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

const (
	// pageCommits bounds the commits of one read.
	pageCommits = 1024
	// batchAsks is the number of streams after which a batch is written.
	batchAsks = 1024
	// gatherFor is how long a batch waits for more commits at the head, and soon the
	// time before which a stream that asks to be woken is written immediately.
	gatherFor = 100 * time.Millisecond
	soon      = time.Second
	// moveEvery is how often a checkpoint moves although no commit of the segment asks
	// for anything, and movePositions after how many positions. A checkpoint that stands
	// still for longer behind the head may be taken by another node.
	moveEvery     = 2 * time.Second
	movePositions = 65_536
)

// errEmptied reports that the segment showed another log, and begins again.
var errEmptied = errors.New("the rows of wake-ups showed another log, and are made again")

// A batch is what the fold has gathered since it has written.
type batch struct {
	from, at eventstore.Position
	key      string // of the commit at at
	asks     map[eventstore.StreamID]wakes.Ask
	since    time.Time // when it began
	hurry    bool      // a stream is due soon
}

// follow folds the log into the table until ctx ends or something stops it. It calls
// reached each time it is at the head.
func (s *segment) follow(ctx context.Context, reached func()) error {
	tail, resets := s.waker.cfg.Tail, s.waker.cfg.Tail.Resets()
	b, err := s.begin(ctx)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if tail.Resets() != resets {
			return processor.ErrReset
		}
		commits, err := s.next(ctx, b.at)
		if err != nil {
			return err
		}
		s.fold(&b, commits)
		s.watch.follows(b.at, tail.Head())
		atHead := len(commits) == 0
		if s.isDue(&b, atHead) {
			if err := s.write(ctx, &b); err != nil {
				return err
			}
		}
		if !atHead {
			continue
		}
		if len(b.asks) == 0 {
			reached()
		}
		if err := s.wait(ctx, &b, resets); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// begin reads the checkpoint, and empties the segment if it shows another log.
func (s *segment) begin(ctx context.Context) (batch, error) {
	w := s.waker
	c, err := w.cfg.Wakes.Begin(ctx, w.fingerprint, s.number)
	if err != nil {
		return batch{}, err
	}
	has, err := processor.HasCommit(ctx, w.cfg.Log, c.LogID, c.Position, c.Key)
	if err != nil {
		return batch{}, err
	}
	if !has {
		s.log.Warn("the rows of wake-ups show another log; making them again", "position", c.Position)
		if err := w.cfg.Wakes.Reset(ctx, w.fingerprint, s.number, c); err != nil {
			return batch{}, err
		}
		return batch{}, errEmptied
	}
	return batch{from: c.Position, at: c.Position, key: c.Key, asks: map[eventstore.StreamID]wakes.Ask{}, since: time.Now()}, nil
}

// next returns the commits after a position, from the tail or else from the log; none
// at the head.
func (s *segment) next(ctx context.Context, after eventstore.Position) ([]eventstore.Commit, error) {
	if commits, ok := s.waker.cfg.Tail.After(after, pageCommits); ok {
		return commits, nil
	}
	return s.waker.cfg.Log.Read(ctx, after, pageCommits)
}

// fold gathers what commits ask for.
func (s *segment) fold(b *batch, commits []eventstore.Commit) {
	for i := range commits {
		c := &commits[i]
		b.at, b.key = c.Position, c.Key
		d := s.waker.types[c.Stream.Type]
		if d == nil || segmentOf(c.Stream) != s.number {
			continue
		}
		a := wakes.Ask{Stream: c.Stream, Version: c.Version}
		switch w := c.Meta.Wake; {
		case !w.Known || w.Revision != d.WakeRevision():
			a.Now = true
		case w.Micros != 0:
			a.At = time.UnixMicro(w.Micros).UTC()
		}
		if len(b.asks) == 0 {
			b.since = time.Now()
		}
		b.asks[c.Stream] = a
		b.hurry = b.hurry || a.Now || !a.At.IsZero() && time.Until(a.At) < soon
	}
}

// isDue reports whether a batch must be written now.
func (s *segment) isDue(b *batch, atHead bool) bool {
	switch {
	case b.at == b.from:
		return false
	case len(b.asks) >= batchAsks, b.at-b.from >= movePositions, time.Since(b.since) >= moveEvery:
		return true
	case len(b.asks) == 0:
		return false
	}
	return atHead && (b.hurry || time.Since(b.since) >= gatherFor)
}

func (s *segment) write(ctx context.Context, b *batch) error {
	asks := slices.Collect(maps.Values(b.asks))
	sort.Slice(asks, func(i, j int) bool { return asks[i].Stream.String() < asks[j].Stream.String() })
	w := s.waker
	if err := w.cfg.Wakes.Write(ctx, wakes.Batch{
		Fingerprint: w.fingerprint, Segment: s.number, From: b.from, To: b.at, Key: b.key, Asks: asks,
	}); err != nil {
		return err
	}
	b.from, b.since, b.hurry = b.at, time.Now(), false
	clear(b.asks)
	for i := range asks {
		if asks[i].Now || !asks[i].At.IsZero() && s.watch.isBeforePlan(asks[i].At) {
			s.wakeAsker()
			break
		}
	}
	return nil
}

// wait waits at the head for commits, or for the time at which the batch is written.
func (s *segment) wait(ctx context.Context, b *batch, resets uint64) error {
	outer := ctx
	if b.at != b.from {
		left := moveEvery - time.Since(b.since)
		if len(b.asks) > 0 {
			left = gatherFor - time.Since(b.since)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(left, 0))
		defer cancel()
	}
	err := s.waker.cfg.Tail.Wait(ctx, b.at, resets)
	if errors.Is(err, context.DeadlineExceeded) && outer.Err() == nil {
		return nil
	}
	return err
}

func (s *segment) wakeAsker() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}
