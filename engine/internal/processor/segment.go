package processor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// batchCommits is the size of the first batches, mostCommits that of batches
	// while there is a backlog. They stop growing at growBytes of events. A batch
	// ends before it has more than batchEvents or batchBytes, unless its first commit
	// has.
	batchCommits = 256
	mostCommits  = 1024
	growBytes    = 1 << 20
	batchEvents  = 8192
	batchBytes   = 4 << 20
	cachedRows   = 4096
	// attempts is how often an event is tried before its row is blocked.
	attempts = 3
)

// errOtherLog reports rows that show another log than the store's: one that was
// restored to an earlier point, or whose loss was accepted.
var errOtherLog = errors.New("the rows show a log that this one is not: rebuild the projection")

// A segment folds one segment of one build. It belongs to one goroutine.
type segment struct {
	fold
	cfg   *Config
	table rows.Table
	sql   SQLTable // nil for a projection with rows
	log   *slog.Logger

	stats    *SegmentStats
	worker   *worker // may be nil
	at       eventstore.Position
	mends    int64
	resets   uint64 // of the tail, when the segment began
	limit    int    // commits in the next batch
	failed   *fault // the last event that failed, and how often it did
	tries    int
	blocking []rows.Block                   // to be written with the next batch
	cache    *simplelru.LRU[string, any]    // rows as they are stored, by key
	caughtUp func(head eventstore.Position) // called at the head; may be nil
}

// follow folds events until ctx ends or something stops it. It begins by reading
// the checkpoint. The error is rows.ErrFenced, errOtherLog, ErrReset,
// aggregate.ErrUnknownEvent, rows.ErrDropped, or one of the database.
func (s *segment) follow(ctx context.Context) error {
	s.resets = s.cfg.Tail.Resets()
	if err := s.begin(ctx); err != nil {
		return err
	}
	s.moved()
	var p *prepared
	for ctx.Err() == nil {
		if s.cfg.Tail.Resets() != s.resets {
			return ErrReset
		}
		began := time.Now()
		if p == nil {
			p = s.prepare(ctx, s.at, nil)
		}
		if p.err == nil && len(p.commits) == 0 {
			s.stats.current(began)
			if s.caughtUp != nil && s.sendsOrServes() {
				s.caughtUp(s.at)
			}
			if err := s.wait(ctx); err != nil {
				return err
			}
			p = nil
			continue
		}
		head := s.cfg.Tail.Head()
		var err error
		s.cfg.Throttle.do(ctx, func() { p, err = s.advance(ctx, p) })
		if err != nil {
			return err
		}
		if s.at >= head {
			s.stats.current(began)
		}
	}
	return ctx.Err()
}

// moved reports the checkpoint and the blocked rows.
func (s *segment) moved() {
	s.stats.moved(s.at, len(s.blocked))
	if s.cfg.Wrote != nil {
		s.cfg.Wrote(s.table.Build().ID, s.fold.segment, s.at)
	}
}

// sameLog returns errOtherLog if the log does not have the commit at which a
// checkpoint stands.
func sameLog(ctx context.Context, log Log, b rows.Build, c rows.Checkpoint) error {
	has, err := HasCommit(ctx, log, b.LogID, c.Position, c.Key)
	if err == nil && !has {
		err = errOtherLog
	}
	return err
}

// HasCommit reports whether a log has an id, and a commit with a key at a position,
// which may be 0.
func HasCommit(ctx context.Context, log Log, id string, at eventstore.Position, key string) (bool, error) {
	if id != log.LogID() || at == 0 {
		return id == log.LogID(), nil
	}
	commits, err := log.Read(ctx, at-1, 1)
	return len(commits) > 0 && commits[0].Position == at && commits[0].Key == key, err
}

// begin reads the checkpoint and the blocked rows, and checks that the log still
// has the commit at which the checkpoint stands.
func (s *segment) begin(ctx context.Context) error {
	list, err := s.table.Checkpoints(ctx)
	if err != nil {
		return err
	}
	blocks, err := s.table.Blocks(ctx)
	if err != nil {
		return err
	}
	c := list[s.fold.segment]
	if err := sameLog(ctx, s.cfg.Log, s.table.Build(), c); err != nil {
		return err
	}
	s.at, s.mends, s.limit, s.blocking, s.failed, s.term = c.Position, c.Mends, batchCommits, nil, nil, c.Term
	if s.sql != nil {
		s.limit = firstSQLCommits
	}
	if s.worker != nil {
		s.worker.start(c)
		s.worker.signal.Began(c.Term.Current())
	}
	s.blocked = blockedIn(s.fold.segment, blocks)
	s.forget()
	return nil
}

func blockedIn(segment int, blocks []rows.Block) map[string]eventstore.Position {
	blocked := map[string]eventstore.Position{}
	for _, b := range blocks {
		if b.Segment == segment {
			blocked[b.Key] = b.Position
		}
	}
	return blocked
}

// forget drops the cached rows, which may differ from the stored ones.
func (s *segment) forget() {
	s.cache, _ = simplelru.NewLRU[string, any](cachedRows, nil) // the size is positive
}

// next returns the commits after a position that the next batch has; none at the
// head.
func (s *segment) next(ctx context.Context, after eventstore.Position) (commits []eventstore.Commit, err error) {
	commits, ok := s.cfg.Tail.After(after, s.limit)
	if !ok {
		commits, err = s.cfg.Log.Read(ctx, after, s.limit)
	}
	if n := bounded(commits); n < len(commits) {
		commits, s.limit = commits[:n], n
	}
	if bound := s.bound(); err == nil && len(commits) > 0 && commits[len(commits)-1].Position > bound {
		commits = upTo(commits, bound)
	}
	return commits, err
}

// bounded returns how many of the commits a batch may have.
func bounded(commits []eventstore.Commit) int {
	events, bytes := 0, 0
	for i := range commits {
		events, bytes = events+len(commits[i].Events), bytes+size(&commits[i])
		if i > 0 && (events > batchEvents || bytes > batchBytes) {
			return i
		}
	}
	return len(commits)
}

// advance folds a prepared batch and writes the rows. While the database writes,
// it prepares the next batch if there is a backlog. If an event cannot be folded
// or stored, it returns nil and remembers the event, so that the next call tries
// again, or blocks the row.
func (s *segment) advance(ctx context.Context, p *prepared) (following *prepared, err error) {
	if s.sql != nil {
		return nil, s.advanceSQL(ctx, p)
	}
	batch, err := s.rowsAfter(p)
	if err == nil {
		written := make(chan error, 1)
		go func() { written <- s.table.Write(ctx, batch) }()
		if len(p.commits) == s.limit {
			s.grow(p.commits)
			following = s.prepare(ctx, batch.To, p.present)
		}
		err = <-written
	}
	var invalid *rows.InvalidError
	if errors.As(err, &invalid) {
		s.forget()
		following, err = nil, s.refused(ctx, p, batch)
	}
	var failed *fault
	switch {
	case err == nil:
		s.at, s.blocking = batch.To, nil
		s.stats.wrote(len(batch.Rows))
		s.moved()
		s.signal(batch)
		return following, nil
	case errors.As(err, &failed):
		s.fail(failed)
		return nil, nil
	}
	s.forget()
	return nil, err
}

// grow doubles the next batch if the events are few.
func (s *segment) grow(commits []eventstore.Commit) {
	bytes := 0
	for i := range commits {
		bytes += size(&commits[i])
	}
	if bytes < growBytes {
		s.limit = min(s.limit*2, mostCommits)
	}
}

// fail counts the attempts of an event. After the last one its row is blocked,
// with the next batch that is written.
func (s *segment) fail(f *fault) {
	s.forget()
	s.stats.retried(RetryEvent)
	if s.failed == nil || s.failed.key != f.key || s.failed.position != f.position {
		s.failed, s.tries = f, 0
	}
	if s.tries++; s.tries < attempts {
		return
	}
	s.log.Error("an event cannot be folded: the row is blocked until an operator decides", "key", f.key, "position", f.position, "err", f.err)
	s.blocked[f.key] = f.position
	// An earlier event of the row may fail while the block waits to be written.
	s.blocking = slices.DeleteFunc(s.blocking, func(b rows.Block) bool { return b.Key == f.key })
	s.blocking = append(s.blocking, blockOf(f, s.fold.segment, attempts))
	s.failed, s.tries = nil, 0
}

// maxError bounds the stored text of an error, in bytes.
const maxError = 1000

// clip shortens the text of an error and removes what a database cannot store.
func clip(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text[:min(len(text), maxError)], ""), "\x00", "")
}

// rowsAfter folds a prepared batch.
func (s *segment) rowsAfter(p *prepared) (rows.Batch, error) {
	if p.err != nil {
		return rows.Batch{}, p.err
	}
	last := &p.commits[len(p.commits)-1]
	b := rows.Batch{Segment: s.fold.segment, From: s.at, To: last.Position, Mends: s.mends, Key: last.Key, Block: s.blocking, Term: s.term}
	var err error
	if b.Commands, err = s.apply(p.steps, p.present); err != nil {
		return b, err
	}
	if b.Rows, err = s.stored(p.steps, p.present); err != nil {
		return b, err
	}
	for key, k := range p.present {
		s.cache.Add(key, k.row)
	}
	return b, nil
}
