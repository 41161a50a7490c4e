package live

import (
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// loadRows bounds the rows of one load, so that what many followers load fits
	// into the cache: at most 1 MiB.
	loadRows = 64
	// loadRetry is the pause after a load failed.
	loadRetry = 250 * time.Millisecond
)

// A wanted row is one whose data followers need.
type wanted struct {
	key   tailKey
	rank  string
	ready []*Follower
}

// A loader reads the data of rows that the cache lacks, for the followers of one
// source. One load is under way at a time.
type loader struct {
	source *source

	mu      sync.Mutex
	wants   map[tailKey]*wanted
	order   []tailKey
	running bool
}

// want loads rows and then wakes the follower. Rows that are wanted already are
// loaded once.
func (l *loader) want(f *Follower, build int64, order int, forms []form) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wants == nil {
		l.wants = map[tailKey]*wanted{}
	}
	for i, form := range forms {
		k := form.tailKey(build, order)
		w := l.wants[k]
		if w == nil {
			w = &wanted{key: k, rank: form.rank}
			l.wants[k] = w
			l.order = append(l.order, k)
		}
		if i == 0 { // the rest makes the next calls quicker
			w.ready = append(w.ready, f)
		}
	}
	if !l.running && len(l.order) > 0 {
		l.running = true
		go l.run()
	}
}

// run loads until no row is wanted.
func (l *loader) run() {
	for {
		batch := l.next()
		if len(batch) == 0 {
			return
		}
		if err := l.load(batch); err != nil {
			if l.source.ctx.Err() == nil {
				l.source.registry.logError("load rows", l.source.model, err)
			}
			select {
			case <-time.After(loadRetry):
			case <-l.source.ctx.Done():
			}
		}
	}
}

func (l *loader) next() (batch map[string][]*wanted) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.source.ctx.Err() != nil {
		l.wants, l.order = nil, nil
	}
	n := min(len(l.order), loadRows)
	if n == 0 {
		l.order, l.running = nil, false
		return nil
	}
	batch = map[string][]*wanted{}
	for _, k := range l.order[:n] {
		w := l.wants[k]
		delete(l.wants, k)
		batch[k.key] = append(batch[k.key], w)
	}
	l.order = l.order[n:]
	return batch
}

// load reads rows into the cache and wakes the followers. A row that is not the
// wanted form is a change that the source has not read: its followers are woken
// when it has.
func (l *loader) load(batch map[string][]*wanted) error {
	s := l.source
	s.mu.Lock()
	table := s.table
	s.mu.Unlock()
	keys := make([]string, 0, len(batch))
	for key := range batch {
		keys = append(keys, key)
	}
	if err := s.registry.loads.acquire(s.ctx); err != nil {
		return err
	}
	list, err := table.Load(s.ctx, keys)
	s.registry.loads.release()
	wake := map[*Follower]bool{}
	found := map[string]rows.Row{}
	for _, r := range list {
		found[r.Key] = r
	}
	s.registry.stats.loads.Add(int64(len(list)))
	late := false
	for key, ws := range batch {
		for _, w := range ws {
			r, ok := found[key]
			if ok && w.key.isOf(table.Build().ID, r) {
				s.registry.cache.put(w.key, rowTail(key, w.rank, r.Position, r.Data))
			} else if err == nil {
				late = true
			}
			for _, f := range w.ready {
				wake[f] = true
			}
		}
	}
	if late {
		s.awaitRound() // the next attempt finds what the table has
	}
	for f := range wake {
		if f.idle.Swap(false) {
			f.wake()
		}
	}
	return err
}

// isOf reports whether the key names the form of a stored row.
func (k tailKey) isOf(build int64, r rows.Row) bool {
	return k.build == build && k.position == r.Position && k.digest == digestOf(r.Data)
}

// awaitRound asks for a read of changes and waits until one that began later has
// ended, or a moment has passed.
func (s *source) awaitRound() {
	s.mu.Lock()
	number := s.begun + 1
	s.mu.Unlock()
	deadline := time.NewTimer(loadRetry)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		over, moved := s.ended >= number, s.movedLocked()
		s.mu.Unlock()
		if over {
			return
		}
		s.poke()
		select {
		case <-moved:
		case <-deadline.C:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// movedLocked returns a channel that is closed after the next read.
func (s *source) movedLocked() chan struct{} {
	if s.moved == nil {
		s.moved = make(chan struct{})
	}
	return s.moved
}
