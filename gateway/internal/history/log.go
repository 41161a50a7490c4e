package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"golang.org/x/sync/singleflight"
)

// Live is the newest part of the log, in memory.
type Live interface {
	// Head returns the position of the newest event.
	Head() eventstore.Position
	// Excerpt returns the window's events of a topic, and the head.
	Excerpt(Topic) (Excerpt, eventstore.Position)
}

// Encode makes the entry of a commit's event i.
type Encode func(c *eventstore.Commit, i int) *Entry

// Config configures a [Log].
type Config struct {
	Store  eventstore.Store
	Live   Live
	Encode Encode
	States *States

	PageCommits int // commits that one read asks for
	Reads       int // maximum of concurrent reads
	Counters    *limits.Counters
	Logger      *slog.Logger
}

// Log is the event log as clients read it.
type Log struct {
	cfg      Config
	ctx      context.Context // ends when no client is left
	reads    *limits.Places
	pages    *Pages
	locating singleflight.Group // calls of locateInStore
	count    atomic.Uint64      // pages read
}

// NewLog returns a Log. Its reads end with ctx.
func NewLog(ctx context.Context, cfg Config) *Log {
	l := &Log{cfg: cfg, ctx: ctx, reads: limits.NewPlaces(cfg.Reads)}
	l.pages = newPages(l, cfg.PageCommits, cfg.Reads, cfg.Logger)
	return l
}

// ID returns the id of the log.
func (l *Log) ID() string { return l.cfg.Store.LogID() }

// Pages returns the pages that readers share.
func (l *Log) Pages() *Pages { return l.pages }

// PageReads returns how many pages were read.
func (l *Log) PageReads() uint64 { return l.count.Load() }

// Waiting returns the number of reads that wait for their turn.
func (l *Log) Waiting() int { return l.reads.Waiting() }

// Excerpt returns the window's events of a topic.
func (l *Log) Excerpt(t Topic) Excerpt {
	x, _ := l.cfg.Live.Excerpt(t)
	return x
}

// Head reads the head of the stored log, which may be ahead of the window.
func (l *Log) Head(ctx context.Context, client string) (eventstore.Position, error) {
	if err := l.reads.Acquire(ctx, client); err != nil {
		return 0, err
	}
	defer l.reads.Release()
	return l.cfg.Store.Head(ctx)
}

// scanPositions is the number of positions that one read of a type scans at
// most.
const scanPositions = 10_000

// ReadPage reads one page: the events of a topic past a place and up to head. It
// waits until it is the client's turn. If it returns an error, the page is
// empty.
func (l *Log) ReadPage(ctx context.Context, client string, t Topic, from Place, head eventstore.Position) (*Page, error) {
	p := &Page{topic: t, from: from, to: from}
	if err := l.reads.Acquire(ctx, client); err != nil {
		return p, err
	}
	defer l.reads.Release()
	ctx, cancel := context.WithTimeout(ctx, frame.DefaultTimeout)
	defer cancel()
	l.count.Add(1)

	var commits []eventstore.Commit
	var err error
	end, limit := head, l.cfg.PageCommits
	switch {
	case t.IsCategory():
		commits, end, err = l.cfg.Store.ReadType(ctx, t.Category, from.At, limit, scanPositions)
		end = min(end, head)
	case t.isStream():
		commits, err = l.cfg.Store.ReadStream(ctx, t.Stream, from.Version, limit)
	default:
		commits, err = l.cfg.Store.Read(ctx, from.At, limit)
	}
	if len(commits) == limit && err == nil && !t.IsCategory() {
		end = min(head, commits[limit-1].Position) // with fewer commits, the page extends to the head
	}
	if err != nil {
		return p, err
	}
	for i := range commits {
		l.addTo(p, &commits[i], head)
	}
	p.to.At, p.isLast = max(from.At, end), end >= head
	return p, nil
}

// addTo adds the events of a commit that belong to a page.
func (l *Log) addTo(p *Page, c *eventstore.Commit, head eventstore.Position) {
	for j := range c.Events {
		at, version := c.First()+eventstore.Position(j), c.FirstVersion()+eventstore.Version(j)
		if at > head || at <= p.from.At || p.topic.isStream() && version <= p.from.Version {
			continue
		}
		e := l.cfg.Encode(c, j)
		p.entries = append(p.entries, e)
		p.bytes += e.Size()
		p.to.Version = version
	}
}

func (l *Log) context() context.Context { return l.ctx }

func (l *Log) next(client string, t Topic, from Place) (*Page, error) {
	return l.ReadPage(l.ctx, client, t, from, l.cfg.Live.Head())
}

// aheadError reports that a client has seen more events than the log has.
type aheadError struct{ what string }

func (e aheadError) Error() string { return e.what }

// Failure turns the error of a read into a failure for the client.
func Failure(err error) *command.Failure {
	f := command.Internal(command.RetryLater)
	var ahead aheadError
	var known *command.Failure
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &ahead):
		return command.CursorAhead("%s: this log lost events that you have seen; start again without the cursor", ahead.what)
	case errors.Is(err, context.DeadlineExceeded):
		f.Code, f.Message = command.CodeTimeout, "the log did not answer in time: try again"
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrWentBack), errors.Is(err, eventstore.ErrClosed),
		errors.Is(err, context.Canceled):
		f.Code, f.Message, f.After = command.CodeUnavailable, "the log can't be read at the moment: try again", 500*time.Millisecond
	}
	return f
}

// OtherLog refuses a cursor of another log.
func OtherLog(other, log string) *command.Failure {
	return command.CursorAhead("your cursors belong to the log %s, but this log is %s: events that you have seen may be lost here; "+
		"start from the beginning, and send hello with this log's id from now on", other, log)
}

// newest returns the version and position of a stream's newest event.
func (l *Log) newest(ctx context.Context, s eventstore.StreamID) (eventstore.Head, error) {
	return l.cfg.Store.StreamHead(ctx, s)
}

// positionOf returns a position at which a stream has a version: right before
// its next event or, if the version is the newest, at or past head. head is an
// earlier head of the window.
func (l *Log) positionOf(ctx context.Context, s eventstore.StreamID, version eventstore.Version, head eventstore.Position) (eventstore.Position, error) {
	for {
		next, err := l.cfg.Store.ReadStream(ctx, s, version, 1)
		if err != nil {
			return 0, err
		}
		if len(next) > 0 {
			c := &next[0]
			return c.Position - eventstore.Position(c.Version-version), nil
		}
		newest, err := l.newest(ctx, s)
		switch {
		case err != nil:
			return 0, err
		case newest.Version < version:
			return 0, aheadError{fmt.Sprintf("version %d is past the newest of %s, %d", version, s, newest.Version)}
		case newest.Version == version:
			return max(head, newest.Position), nil
		} // an event was stored between the two reads: read again
	}
}

// versionAt returns a stream's version at a position: the version of its last
// event at or below it. The log has no index for that. Since the positions of a
// stream rise with its versions, versionAt bisects the versions.
func (l *Log) versionAt(ctx context.Context, s eventstore.StreamID, at eventstore.Position) (eventstore.Version, error) {
	if x, head := l.cfg.Live.Excerpt(Topic{Stream: s}); at <= head {
		if version, ok := x.VersionAt(at); ok {
			return version, nil
		}
	}
	newest, err := l.newest(ctx, s)
	if err != nil || newest.Position <= at {
		return newest.Version, err
	}
	// Most cursors are the position of an event of this stream.
	if c, err := l.cfg.Store.Read(ctx, at-1, 1); err == nil && len(c) == 1 && c[0].Stream == s && c[0].First() <= at {
		return c[0].FirstVersion() + eventstore.Version(at-c[0].First()), nil
	}
	low, high := eventstore.Version(0), newest.Version // low <= the version < high
	for high-low > 1 {
		middle := low + (high-low)/2
		c, err := l.cfg.Store.ReadStream(ctx, s, middle-1, 1)
		if err != nil {
			return 0, err
		}
		if len(c) == 0 {
			return 0, &eventstore.DamagedError{Position: at, Reason: fmt.Sprintf("version %d of %s is missing", middle, s)}
		}
		switch first := c[0].First(); {
		case c[0].Position <= at:
			low = c[0].Version
		case first > at:
			high = min(high, max(c[0].FirstVersion(), low+1))
		default:
			return c[0].FirstVersion() + eventstore.Version(at-first), nil
		}
	}
	return low, nil
}
