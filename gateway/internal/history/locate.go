package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Start is where a reader begins.
type Start struct {
	// Head is the head for the subscribed frame.
	Head eventstore.Position
	// Place is where the reader begins. The client has the matching events up
	// to it, or does not want them.
	Place

	State         json.RawMessage     // at Version, if the request asks for it
	StatePosition eventstore.Position // position of Version
}

// Locate finds where a reader begins. The failure is meant for the client.
func (l *Log) Locate(ctx context.Context, caller Caller, t Topic, req frame.Subscribe) (Start, *command.Failure) {
	x, head := l.cfg.Live.Excerpt(t)
	s := Start{Head: head, Place: Place{At: head}}
	if req.State == frame.StateFirst {
		return l.locateState(ctx, caller, t, s)
	}
	if req.Cursor != "" {
		p, ok := parseCursor(req.Cursor)
		if !ok {
			return s, command.BadRequest("cursor", `the cursor is malformed: send a cursor that a gateway sent you, the position of an event, or "0" for the beginning`)
		}
		s.At = p
	}
	if req.State == frame.StateOnly && s.At <= head { // it sends no events, so it needs none before the newest
		req.Cursor, s.At = "", head
	}
	if t.IsCategory() && s.At <= head || !t.IsCategory() && x.locate(req, &s) {
		return s, nil
	}
	// Clients that reconnect together ask for the same place. The log is asked
	// once for all of them.
	after := "-"
	if req.After != nil {
		after = strconv.FormatUint(uint64(*req.After), 10)
	}
	key := fmt.Sprint(l.ID(), " ", head, " ", after, " ", req.Cursor, " ", req.Last, " ", t.Category, " ", t.Stream)
	located := l.locating.DoChan(key, func() (any, error) {
		s := s
		err := l.locateInStore(caller, t, req, &s)
		return s, err
	})
	select {
	case r := <-located:
		if r.Err != nil {
			return s, Failure(r.Err)
		}
		return r.Val.(Start), nil
	case <-ctx.Done():
		return s, Failure(ctx.Err())
	}
}

// locate finds where a reader of the stream begins. It returns false if the
// window does not have enough events to know.
func (x *Excerpt) locate(req frame.Subscribe, s *Start) bool {
	known := len(x.entries)
	var after eventstore.Version
	switch {
	case req.Cursor != "":
		var ok bool
		if s.At <= s.Head {
			s.Version, ok = x.VersionAt(s.At)
		}
		return ok
	case req.After != nil:
		after = *req.After
	case known == 0:
		return false
	case req.Last > 0:
		newest := x.entries[known-1].Version
		after = newest - min(newest, eventstore.Version(req.Last))
	default:
		after = x.entries[known-1].Version
	}
	i := afterVersion(x.entries, after)
	s.Version = after
	switch {
	case i < known && x.entries[i].Version == after+1:
		s.At = x.entries[i].Position - 1
	case i == known && i > 0 && x.entries[i-1].Version == after:
		s.At = s.Head
	default:
		return false
	}
	return true
}

// locateInStore finds where a reader begins, by reads of the stored log.
func (l *Log) locateInStore(caller Caller, t Topic, req frame.Subscribe, s *Start) error {
	waiting, cancel := context.WithTimeout(l.ctx, turnTimeout)
	err := l.reads.Acquire(waiting, caller.Client)
	cancel()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return noTurn(l.cfg.Counters)
	case err != nil:
		return err
	}
	defer l.reads.Release()
	ctx, cancel := context.WithTimeout(l.ctx, frame.DefaultTimeout)
	defer cancel()
	switch {
	case t.IsCategory():
		return l.checkAhead(ctx, s.At, s.Head)
	case req.Cursor != "":
		if err = l.checkAhead(ctx, s.At, s.Head); err == nil && s.At > 0 {
			s.Version, err = l.versionAt(ctx, t.Stream, s.At)
		}
		return err
	case req.After != nil:
		s.Version = *req.After
		s.At, err = l.positionOf(ctx, t.Stream, s.Version, s.Head)
		return err
	}
	newest, err := l.newest(ctx, t.Stream)
	if err != nil {
		return err
	}
	if req.Last > 0 {
		s.Version = newest.Version - min(newest.Version, eventstore.Version(req.Last))
		s.At, err = l.positionOf(ctx, t.Stream, s.Version, s.Head)
		return err
	}
	s.Version, s.At = newest.Version, max(s.Head, newest.Position) // only new events
	s.Head = s.At
	return nil
}

// locateState finds where a reader begins that wants the state first. The state
// includes every event up to the window's head.
func (l *Log) locateState(ctx context.Context, caller Caller, t Topic, s Start) (Start, *command.Failure) {
	state, failure := l.cfg.States.Get(ctx, caller, command.Get{Stream: t.Stream, AtLeast: s.Head, Strong: s.Head == 0})
	if failure != nil {
		return s, failure
	}
	s.State, s.Version, s.StatePosition = state.Data, state.Version, state.Position
	s.At = max(s.Head, state.Position)
	return s, nil
}

// checkAhead returns an error if a cursor is past the head of the stored log,
// which may be ahead of the window.
func (l *Log) checkAhead(ctx context.Context, at, head eventstore.Position) error {
	if at <= head {
		return nil
	}
	newest, err := l.cfg.Store.Head(ctx)
	if err == nil && at > newest {
		err = aheadError{fmt.Sprintf("the cursor %d is past the head of the log, %d", at, newest)}
	}
	return err
}
