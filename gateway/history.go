package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// scanPositions bounds how much of the log one filtered read looks at.
const scanPositions = 10_000

// start is where a subscription begins.
type start struct {
	head eventstore.Position // as "subscribed" says it
	// Every matching event at or below at is known to the client, or of no
	// interest to it; version is that of the stream there.
	at      eventstore.Position
	version eventstore.Version

	state    json.RawMessage // with State: at version, of position
	position eventstore.Position
}

// reading takes a place among the concurrent reads of the log, once it is the
// client's turn.
func (g *Gateway) reading(ctx context.Context, client string) (done func(), err error) {
	if err := g.reads.acquire(ctx, client); err != nil {
		return nil, err
	}
	return g.reads.release, nil
}

// asker is on whose behalf something is read: a client, and its session if it
// has one.
type asker struct{ client, session string }

// locate finds where a subscription begins.
func (g *Gateway) locate(ctx context.Context, who asker, t topic, req frame.Subscribe) (start, *command.Failure) {
	x, head := g.hub.excerpt(t)
	s := start{head: head, at: head}
	if req.State {
		return g.locateState(ctx, who, t, s)
	}
	if req.Cursor != "" {
		p, ok := parseCursor(req.Cursor)
		if !ok {
			return s, &command.Failure{
				Code: command.BadRequest, Field: "cursor", Retry: command.RetryNo,
				Message: "cursor is not one that this gateway gave out: hand back a cursor, the position of an event, or \"0\" for the beginning",
			}
		}
		s.at = p
	}
	if t.category != "" && s.at <= head || t.category == "" && x.locate(req, &s) {
		return s, nil
	}
	// Many who come back at once ask the same, and get one answer.
	after := "-"
	if req.After != nil {
		after = strconv.FormatUint(uint64(*req.After), 10)
	}
	same := fmt.Sprint(g.cfg.Store.LogID(), " ", head, " ", after, " ", req.Cursor, " ", req.Last, " ", t.category, " ", t.stream)
	answer := g.locating.DoChan(same, func() (any, error) {
		s := s
		err := g.locateInLog(who, t, req, &s)
		return s, err
	})
	select {
	case r := <-answer:
		if r.Err != nil {
			return s, readFailure(r.Err)
		}
		return r.Val.(start), nil
	case <-ctx.Done():
		return s, readFailure(ctx.Err())
	}
}

// locate finds in the window where a subscription to its stream begins. It
// returns false if that is not to be found there.
func (x *excerpt) locate(req frame.Subscribe, s *start) bool {
	known := len(x.entries)
	var after eventstore.Version
	switch {
	case req.Cursor != "":
		var ok bool
		if s.at <= s.head {
			s.version, ok = x.versionAt(s.at)
		}
		return ok
	case req.After != nil:
		after = *req.After
	case known == 0:
		return false
	case req.Last > 0:
		newest := x.entries[known-1].version
		after = newest - min(newest, eventstore.Version(req.Last))
	default:
		after = x.entries[known-1].version
	}
	i := search(x.entries, func(e *entry) int { return cmp.Compare(e.version, after) })
	s.version = after
	switch {
	case i < known && x.entries[i].version == after+1:
		s.at = x.entries[i].position - 1
	case i == known && i > 0 && x.entries[i-1].version == after:
		s.at = s.head
	default:
		return false
	}
	return true
}

// locateInLog finds where a subscription begins that the window does not know.
func (g *Gateway) locateInLog(who asker, t topic, req frame.Subscribe, s *start) error {
	waiting, cancel := context.WithTimeout(g.ctx, readPatience)
	done, err := g.reading(waiting, who.client)
	cancel()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return g.noTurn()
	case err != nil:
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(g.ctx, frame.DefaultTimeout)
	defer cancel()
	switch {
	case t.category != "":
		return g.checkAhead(ctx, s.at, s.head)
	case req.Cursor != "":
		if err = g.checkAhead(ctx, s.at, s.head); err == nil && s.at > 0 {
			s.version, err = g.versionAt(ctx, t.stream, s.at)
		}
		return err
	case req.After != nil:
		s.version = *req.After
		s.at, err = g.positionOf(ctx, t.stream, s.version, s.head)
		return err
	}
	newest, err := g.cfg.Store.StreamHead(ctx, t.stream)
	if err != nil {
		return err
	}
	if req.Last > 0 {
		s.version = newest.Version - min(newest.Version, eventstore.Version(req.Last))
		s.at, err = g.positionOf(ctx, t.stream, s.version, s.head)
		return err
	}
	s.version, s.at = newest.Version, max(s.head, newest.Position) // from now on
	s.head = s.at
	return nil
}

// locateState begins with the state of an aggregate, which must know of
// everything that this gateway has delivered.
func (g *Gateway) locateState(ctx context.Context, who asker, t topic, s start) (start, *command.Failure) {
	state, failure := g.askRouter(ctx, who, command.Get{Stream: t.stream, AtLeast: s.head, Strong: s.head == 0})
	if failure != nil {
		return s, failure
	}
	s.state, s.version, s.position = state.Data, state.Version, state.Position
	s.at = max(s.head, state.Position)
	return s, nil
}

// checkAhead reports a cursor past the head of the log. The log may be ahead
// of what has arrived here.
func (g *Gateway) checkAhead(ctx context.Context, at, head eventstore.Position) error {
	if at <= head {
		return nil
	}
	newest, err := g.cfg.Store.Head(ctx)
	if err == nil && at > newest {
		err = aheadError{fmt.Sprintf("the cursor %d lies past the head of the log, %d", at, newest)}
	}
	return err
}

// aheadError says that a client knows more than the log.
type aheadError struct{ what string }

func (e aheadError) Error() string { return e.what }

// positionOf returns the position up to which a stream has no more events
// than version says. head is a position that had been delivered before.
func (g *Gateway) positionOf(ctx context.Context, s eventstore.StreamID, version eventstore.Version, head eventstore.Position) (eventstore.Position, error) {
	for {
		next, err := g.cfg.Store.ReadStream(ctx, s, version, 1)
		if err != nil {
			return 0, err
		}
		if len(next) > 0 {
			c := &next[0]
			return c.Position - eventstore.Position(c.Version-version), nil
		}
		newest, err := g.cfg.Store.StreamHead(ctx, s)
		switch {
		case err != nil:
			return 0, err
		case newest.Version < version:
			return 0, aheadError{fmt.Sprintf("version %d lies past the newest of %s, %d", version, s, newest.Version)}
		case newest.Version == version:
			return max(head, newest.Position), nil
		} // an event came between the two: look again
	}
}

// versionAt returns a stream's version at a position: that of its last event
// at or below it. The log has no index for that, but the positions of a
// stream rise with its versions.
func (g *Gateway) versionAt(ctx context.Context, s eventstore.StreamID, at eventstore.Position) (eventstore.Version, error) {
	if version, ok := g.hub.versionAt(topic{stream: s}, at); ok {
		return version, nil
	}
	newest, err := g.cfg.Store.StreamHead(ctx, s)
	if err != nil || newest.Position <= at {
		return newest.Version, err
	}
	// Most cursors are the position of an event of this stream.
	if c, err := g.cfg.Store.Read(ctx, at-1, 1); err == nil && len(c) == 1 && c[0].Stream == s && c[0].First() <= at {
		return c[0].FirstVersion() + eventstore.Version(at-c[0].First()), nil
	}
	low, high := eventstore.Version(0), newest.Version // at low or above, below high
	for high-low > 1 {
		middle := low + (high-low)/2
		c, err := g.cfg.Store.ReadStream(ctx, s, middle-1, 1)
		if err != nil {
			return 0, err
		}
		if len(c) == 0 {
			return 0, &eventstore.DamagedError{Position: at, Reason: fmt.Sprintf("version %d of %s is gone", middle, s)}
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

// readPage reads one page of the log: events of a topic past a place, none
// past head.
func (g *Gateway) readPage(ctx context.Context, client string, t topic, from place, head eventstore.Position) (*page, error) {
	p := &page{topic: t, from: from, to: from}
	done, err := g.reading(ctx, client)
	if err != nil {
		return p, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, frame.DefaultTimeout)
	defer cancel()
	g.stats.pages.Add(1)

	var commits []eventstore.Commit
	upTo, limit := head, g.cfg.PageCommits
	if t.category != "" {
		commits, upTo, err = g.cfg.Store.ReadType(ctx, t.category, from.at, limit, scanPositions)
		upTo = min(upTo, head)
	} else if commits, err = g.cfg.Store.ReadStream(ctx, t.stream, from.version, limit); len(commits) == limit && err == nil {
		upTo = min(head, commits[limit-1].Position) // else that was all of it at the head, or later
	}
	if err != nil {
		return p, err
	}
	for i := range commits {
		c := &commits[i]
		for j := range c.Events {
			at, version := c.First()+eventstore.Position(j), c.FirstVersion()+eventstore.Version(j)
			if at > head || at <= from.at || t.category == "" && version <= from.version {
				continue
			}
			e := g.encode(c, j)
			p.list = append(p.list, e)
			p.bytes += e.size()
			p.to.version = version
		}
	}
	p.to.at = max(from.at, upTo)
	return p, nil
}

// readFailure turns a failed read of the log into an answer.
func readFailure(err error) *command.Failure {
	f := &command.Failure{Code: command.Internal, Message: "internal error: the node's log has the details", Retry: command.RetryLater}
	var ahead aheadError
	var known *command.Failure
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &ahead):
		return &command.Failure{
			Code: command.CursorAhead, Retry: command.RetryNo,
			Message: ahead.what + ": what you know was lost here; start again without it",
		}
	case errors.Is(err, context.DeadlineExceeded):
		f.Code, f.Message = command.Timeout, "the log did not answer in time: try again"
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrWentBack), errors.Is(err, eventstore.ErrClosed),
		errors.Is(err, context.Canceled):
		f.Code, f.Message, f.After = command.Unavailable, "the log can't be read at the moment: try again", 500*time.Millisecond
	}
	return f
}
