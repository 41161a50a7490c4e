package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
)

// roamAfter is after how many events a roaming subscriber moves on to a new
// session, which the load balancer may give to the other gateway.
const roamAfter = 150

// subscriber follows one stream, or all counters, until it sees the load's
// last event. It checks order on the way and keeps what it got.
type subscriber struct {
	load   *load
	name   string // also its client id
	stream string // empty for the category
	roams  bool

	got      map[string][]frame // by stream
	last     *frame             // the newest event
	cursor   string             // where to begin, before the first event
	sessions int
}

// run calls subscribed once no event can be missed any more.
func (s *subscriber) run(ctx context.Context, subscribed func()) error {
	s.got = map[string][]frame{}
	for {
		c, err := connect(ctx, s.load.url, frame{Op: "hello", ID: "hello", Client: s.name})
		if err == nil {
			s.sessions++
			err = s.follow(ctx, c, subscribed)
			c.close()
		}
		switch {
		case err == nil || errors.As(err, new(violation)):
			return err
		case errors.Is(err, errRoam):
			continue
		}
		s.load.count("connection")
		if err := pause(ctx, 0); err != nil {
			return err
		}
	}
}

// errRoam ends a session that the subscriber leaves by itself.
var errRoam = errors.New("roam")

// follow subscribes from where the last session ended. It returns nil after
// the load's last event.
func (s *subscriber) follow(ctx context.Context, c *session, subscribed func()) error {
	subscribe := frame{Op: "subscribe", ID: "s", Category: "counter", Cursor: s.cursor}
	if s.last != nil {
		// An event's position is a cursor for the subscription it came on.
		subscribe.Cursor = strconv.FormatUint(s.last.Position, 10)
	}
	if s.stream != "" {
		after := uint64(len(s.got[s.stream]))
		subscribe = frame{Op: "subscribe", ID: "s", Stream: s.stream, After: &after}
	}
	if err := c.send(ctx, subscribe); err != nil {
		return err
	}
	for events := 0; ; {
		f, err := c.receive(ctx)
		if err != nil {
			return err
		}
		switch f.Op {
		case "subscribed":
			if f.Cursor == "" {
				return violationf("%s subscribed and got no cursor", s.name)
			}
			if s.cursor == "" {
				s.cursor = f.Cursor
				subscribed()
			}
		case "event":
			if err := s.take(f); err != nil {
				return err
			}
			if f.Cause == s.load.lastKey() {
				return nil
			}
			if events++; s.roams && events == roamAfter {
				return errRoam
			}
		case "error":
			return violationf("%s can't subscribe: %w", s.name, f.refusal())
		case "live", "heartbeat", "goodbye":
		default:
			return violationf("%s got a frame that it did not ask for: %+v", s.name, f)
		}
	}
}

// take checks that an event is the next one, and keeps it.
func (s *subscriber) take(f frame) error {
	if s.last != nil && f.Position <= s.last.Position {
		return violationf("%s got position %d after %d", s.name, f.Position, s.last.Position)
	}
	s.last = &f
	if !strings.HasPrefix(f.Stream, s.load.prefix()) {
		return nil // of another load
	}
	if want := uint64(len(s.got[f.Stream]) + 1); f.Version != want {
		return violationf("%s got version %d of %s instead of %d", s.name, f.Version, f.Stream, want)
	}
	s.got[f.Stream] = append(s.got[f.Stream], f)
	return nil
}
