package live

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Bounds of a registry.
const (
	maxQuestions = 20_000
	maxEntries   = 2_000_000
	// maxScans bounds the questions of one projection that no index of conditions
	// finds: each costs an evaluation of its condition per changed row.
	maxScans = 1_000
	// maxReads bounds the evaluations under way, and the loads, of all projections:
	// the processors and other queries share their connections.
	maxReads = 2
	// busyRetry is what a client is asked to wait when a bound is reached.
	busyRetry = 2 * time.Second
)

// Config configures a Registry. All fields are required.
type Config struct {
	// Serving returns the table that answers for a projection, nil while none does.
	Serving func(context.Context, *projection.Definition) (rows.Table, error)
	// Forget makes Serving look for the table again.
	Forget func(projection string)
	// Failure is what a client is told about an error.
	Failure func(*query.Definition, error) *command.Failure
	Logger  *slog.Logger
}

// A Registry has the live queries of a node. Nothing runs without one. It is safe
// for concurrent use.
type Registry struct {
	cfg   Config
	cache *cache
	head  atomic.Uint64
	stats counters

	evaluations, loads tokens

	mu      sync.Mutex
	sources atomic.Pointer[map[string]*source] // by projection; replaced under mu
}

// New returns a registry without live queries.
func New(cfg Config) *Registry {
	r := &Registry{cfg: cfg, cache: newCache(maxCache), evaluations: make(tokens, maxReads), loads: make(tokens, maxReads)}
	r.sources.Store(&map[string]*source{})
	return r
}

// source returns the source of a projection, or nil. It does not block.
func (r *Registry) source(projection string) *source { return (*r.sources.Load())[projection] }

// replace changes the source of a projection, nil for none. The caller holds r.mu.
func (r *Registry) replace(projection string, s *source) {
	sources := maps.Clone(*r.sources.Load())
	if sources[projection] = s; s == nil {
		delete(sources, projection)
	}
	r.sources.Store(&sources)
}

// Announce says that a segment of a build has reached a position. It is a hint:
// what it says is read, never believed. It does not block.
func (r *Registry) Announce(projection string, build int64, segment int, p eventstore.Position) {
	if s := r.source(projection); s != nil && s.lacks(build, segment, p) {
		s.poke()
	}
}

// Head says that the node has received the log up to a position. It does not
// block.
func (r *Registry) Head(p eventstore.Position) {
	for old := r.head.Load(); old < uint64(p); old = r.head.Load() {
		if r.head.CompareAndSwap(old, uint64(p)) {
			r.hurry()
			return
		}
	}
}

// hurry makes the sources that sleep long look sooner.
func (r *Registry) hurry() {
	for _, s := range *r.sources.Load() {
		if s.idling.CompareAndSwap(true, false) {
			s.rearm()
		}
	}
}

// join returns the question of a query, and makes it if it is the first of its
// kind. The caller must release it.
func (r *Registry) join(d *query.Definition, compiled query.Question) (*question, *command.Failure) {
	id := identity(compiled)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.source(d.From().Name())
	if s == nil {
		s = newSource(r, d.From())
		r.replace(d.From().Name(), s)
	}
	q, failure := s.join(id, compiled)
	if failure != nil && s.users == 0 {
		r.replace(d.From().Name(), nil)
		s.stop()
	}
	return q, failure
}

// release gives a question back. The last release ends it, and with the last
// question the source.
func (r *Registry) release(q *question) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := q.source
	s.release(q)
	if s.users == 0 && r.source(s.model.Name()) == s {
		r.replace(s.model.Name(), nil)
		s.stop()
	}
}

// tokens bound the readers under way.
type tokens chan struct{}

func (t tokens) acquire(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t tokens) release() { <-t }

func busy(format string, args ...any) *command.Failure {
	f := command.Busy(format, args...)
	f.After = busyRetry
	return f
}

func tooManyQuestions() *command.Failure {
	return busy("this gateway keeps %d different live queries, its bound: retry later", maxQuestions)
}

func tooManyEntries() *command.Failure {
	return busy("this gateway keeps %d rows for live queries, its bound: retry later", maxEntries)
}

func tooManyScans(projection string) *command.Failure {
	return busy("this gateway keeps %d live queries of projection %q whose conditions cannot be indexed, its bound: retry later", maxScans, projection)
}

// logError reports an error that no client is told.
func (r *Registry) logError(doing string, model *projection.Definition, err error) {
	r.cfg.Logger.Warn("live queries wait: could not "+doing, "projection", model.Name(), "err", err)
}

var errDecode = fmt.Errorf("a stored row does not have the form of its projection")
