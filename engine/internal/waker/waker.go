package waker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Segments is the number of segments of the table.
const Segments = 4

const (
	// checkEvery is how often a waker looks at ownership.
	checkEvery = 250 * time.Millisecond
	// retryAfter is the pause after the database, or another writer, has stopped a
	// segment.
	retryAfter = 500 * time.Millisecond
)

// Config configures a Waker. All fields but TakeAfter, Appending and Late are required.
type Config struct {
	// Types are the types with wake-ups.
	Types []*aggregate.Definition
	Wakes wakes.Store
	Log   processor.Log
	Tail  *processor.Tail
	// Owns reports whether this node works on a segment. It is asked every 250 ms.
	Owns func(segment int) bool
	// TakeAfter is how long a segment of another node must stand still with work to do
	// before this node works on it too. 0: it never does.
	TakeAfter time.Duration
	// Send carries a question to the owner of its stream.
	Send command.SystemSender
	// Appending returns the number of appends that wait for the database.
	Appending func() int
	// Late is called with how late each wake-up was that stored events or was refused.
	Late   func(time.Duration)
	Logger *slog.Logger
}

// A Waker asks the aggregates of the segments that its node owns. Its methods are
// safe for concurrent use.
type Waker struct {
	cfg         Config
	fingerprint string
	types       map[string]*aggregate.Definition
	names       []string

	mu       sync.Mutex
	segments map[int]*segment
	totals   totals
	running  sync.WaitGroup

	others others // for the goroutine of Run
}

// New returns a Waker. Call Run.
func New(cfg Config) *Waker {
	w := &Waker{cfg: cfg, fingerprint: Fingerprint(cfg.Types), types: map[string]*aggregate.Definition{}, segments: map[int]*segment{}}
	w.others.since = map[int]*still{}
	for _, d := range cfg.Types {
		w.types[d.Name()] = d
		w.names = append(w.names, d.Name())
	}
	if w.cfg.Appending == nil {
		w.cfg.Appending = func() int { return 0 }
	}
	if w.cfg.Late == nil {
		w.cfg.Late = func(time.Duration) {}
	}
	return w
}

// TypesOf returns the types of a catalog that have wake-ups.
func TypesOf(c *aggregate.Catalog) (types []*aggregate.Definition) {
	for _, d := range c.Types() {
		if d.HasWake() {
			types = append(types, d)
		}
	}
	return types
}

// Fingerprint names everything on which the fold of the table depends: the types with
// wake-ups, their revisions, and the number of segments. It is "" without types.
func Fingerprint(types []*aggregate.Definition) string {
	if len(types) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "wake %d", Segments)
	for _, d := range types {
		fmt.Fprintf(&b, " %s %d", d.Name(), d.WakeRevision())
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:16])
}

// segmentOf returns the segment of a stream. The number is stored: it must not change.
func segmentOf(s eventstore.StreamID) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(s.String()))
	return int(h.Sum32() % Segments)
}

// Run works until ctx ends.
func (w *Waker) Run(ctx context.Context) error {
	defer w.running.Wait()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		w.adjust(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// adjust starts the segments that this node owns or takes, and stops the others.
func (w *Waker) adjust(ctx context.Context) {
	var owned [Segments]bool
	for n := range owned {
		owned[n] = w.cfg.Owns(n)
	}
	w.observe(ctx, owned)
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, own := range owned {
		s := w.segments[n]
		taken := !own && w.takes(n, s)
		switch {
		case s == nil && (own || taken):
			s = &segment{waker: w, number: n, log: w.cfg.Logger.With("segment", n), signal: make(chan struct{}, 1)}
			inner, stop := context.WithCancel(ctx)
			s.stop = stop
			w.segments[n] = s
			w.running.Go(func() { s.run(inner) })
		case s != nil && !own && !taken:
			s.stop()
			delete(w.segments, n)
		}
		if s != nil {
			s.taken = taken
		}
	}
}

// A segment is the work on one segment while the node owns it.
type segment struct {
	waker  *Waker
	number int
	stop   context.CancelFunc
	log    *slog.Logger
	signal chan struct{} // has an element if the asker must look again
	watch  watch
	taken  bool        // the segment is another node's; guarded by the waker
	fenced atomic.Bool // another node has moved the checkpoint since this one began
}

// run follows the log, and asks once it has reached the head.
func (s *segment) run(ctx context.Context) {
	current, reach := context.WithCancel(context.Background())
	var both sync.WaitGroup
	both.Go(func() { s.repeat(ctx, "follow the log", func() error { return s.follow(ctx, reach) }) })
	both.Go(func() {
		select {
		case <-current.Done():
		case <-ctx.Done():
			return
		}
		s.repeat(ctx, "ask", func() error { return s.ask(ctx) })
	})
	both.Wait()
	reach()
}

// repeat calls do until ctx ends. It logs the first of several failures in a row.
func (s *segment) repeat(ctx context.Context, doing string, do func() error) {
	var logged time.Time
	for ctx.Err() == nil {
		err := do()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, wakes.ErrFenced) {
			s.fenced.Store(true)
		}
		switch {
		case errors.Is(err, wakes.ErrFenced), errors.Is(err, processor.ErrReset), errors.Is(err, eventstore.ErrWentBack), errors.Is(err, errEmptied): // the node logs it
			s.log.Debug("wake-ups begin again", "reason", err)
		case time.Since(logged) > time.Minute:
			s.log.Warn("wake-ups wait: could not "+doing, "err", err)
			logged = time.Now()
		}
		s.pause(ctx, retryAfter)
	}
}

// pause waits, but not beyond a Reset of the tail or the end of ctx.
func (s *segment) pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tail := s.waker.cfg.Tail
	_ = tail.Wait(ctx, math.MaxInt64, tail.Resets())
}
