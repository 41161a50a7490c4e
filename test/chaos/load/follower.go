package load

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/harness"
)

const (
	// pingEvery is the interval at which a follower pings its gateway.
	pingEvery = 2 * time.Second
	// A follower stays on a gateway for minStay to maxStay.
	minStay, maxStay = 2 * time.Second, 20 * time.Second
	// maxFollow bounds the time that a stream is followed.
	maxFollow = 30 * time.Second
)

// follower has one subscription at a time, which it resumes on several gateways.
// Followers of streams change the stream from time to time.
type follower struct {
	load   *Load
	index  int
	random *rand.Rand

	mu       sync.Mutex
	sub      check.Subscription
	start    map[string]any // first request
	cursor   string         // to resume from, "" before the first item
	live     bool           // was live once
	liveHere bool           // is live on this session
	progress chan struct{}  // capacity 1
	names    map[string]string
}

// run follows streams or a category until running ends, and then continues the
// current subscription until all ends.
func (f *follower) run(running, all context.Context) {
	f.mu.Lock()
	f.progress, f.names = make(chan struct{}, 1), map[string]string{}
	f.mu.Unlock()
	for n := 0; all.Err() == nil; n++ {
		if !f.choose(n) {
			if running.Err() != nil {
				return
			}
			pause(running, 100*time.Millisecond)
			continue
		}
		ctx, cancel := context.WithCancel(all)
		var timer *time.Timer
		if f.sub.Stream != "" {
			timer = time.AfterFunc(time.Second+time.Duration(f.random.Int64N(int64(maxFollow))), func() {
				if running.Err() == nil {
					cancel()
				}
			})
		}
		f.follow(ctx, n)
		cancel()
		if timer != nil {
			timer.Stop()
		}
		f.end(running.Err() != nil)
	}
}

// choose selects a target and a start.
func (f *follower) choose(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	sub := check.Subscription{Name: "follower " + strconv.Itoa(f.index) + "." + strconv.Itoa(n)}
	start := map[string]any{}
	switch f.index {
	case 0:
		sub.Category, start["cursor"] = "counter", "0"
	case 1:
		sub.Category = "counter" // from now on
	case 2:
		sub.Category, start["cursor"] = "auction", "0"
	default:
		if sub.Stream = f.load.pool.any(f.random); sub.Stream == "" {
			return false
		}
		switch f.random.IntN(5) {
		case 0:
			start["cursor"] = "0"
		case 1:
			start["after"] = 0
		case 2:
			start["state"] = true
		case 3:
			sub.Last = 1 + f.random.IntN(10)
			start["last"] = sub.Last
		}
	}
	if sub.Stream != "" {
		start["stream"] = sub.Stream
	} else {
		start["category"] = sub.Category
	}
	f.sub, f.start, f.cursor, f.live = sub, start, "", false
	return true
}

// end records the subscription, unless it received nothing or never became live.
func (f *follower) end(complete bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cursor == "" || !f.live {
		if complete {
			f.load.record(nil, "a subscription without items")
		}
		return
	}
	f.sub.Complete = complete
	f.load.mu.Lock()
	defer f.load.mu.Unlock()
	f.load.subs = append(f.load.subs, f.sub)
}

// follow subscribes on one gateway after another until ctx ends.
func (f *follower) follow(ctx context.Context, n int) {
	for at := f.index + n; ctx.Err() == nil; at++ {
		if err := f.once(ctx, f.load.cfg.Gateways[at%len(f.load.cfg.Gateways)].URL); err != nil && ctx.Err() == nil {
			f.load.record(nil, "subscription: "+err.Error())
		}
		pause(ctx, 5*time.Millisecond)
	}
}

type refusal struct{ frame harness.Frame }

func (r refusal) Error() string { return r.frame.Op + " " + r.frame.Code + ", " + r.frame.Retry }

func (f *follower) once(ctx context.Context, url string) error {
	attempt, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := harness.Dial(attempt, url, "f"+strconv.Itoa(f.index), nil)
	if err != nil {
		return errLost
	}
	defer s.Close()
	frame := map[string]any{}
	f.mu.Lock()
	for k, v := range f.start {
		frame[k] = v
	}
	resumes := f.cursor != ""
	f.liveHere = false
	if resumes {
		for _, k := range []string{"after", "state", "last"} {
			delete(frame, k)
		}
		frame["cursor"] = f.cursor
	}
	f.mu.Unlock()
	refused := make(chan harness.Frame, 1)
	answer, err := s.Subscribe(attempt, "s", frame, func(e harness.Frame) {
		if e.Op == "unsubscribed" {
			select {
			case refused <- e:
			default:
			}
			return
		}
		f.receive(e)
	})
	if err != nil {
		return errLost
	}
	if answer.Op != "subscribed" {
		return refusal{answer}
	}
	if !resumes {
		f.began(answer)
	}

	return stay(ctx, s, refused, minStay+time.Duration(f.random.Int64N(int64(maxStay-minStay))))
}

// stay pings the gateway until it is time to move to another one, the subscription
// has ended, or the gateway is lost.
func stay(ctx context.Context, s *harness.Session, ended <-chan harness.Frame, d time.Duration) error {
	move := time.NewTimer(d)
	defer move.Stop()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-move.C:
			return nil
		case e := <-ended:
			return refusal{e}
		case <-s.Done():
			return errLost
		case <-ping.C:
			ask, cancel := context.WithTimeout(ctx, pingEvery)
			_, err := s.Call(ask, map[string]any{"op": "ping"})
			cancel()
			if err != nil {
				return errSilent
			}
		}
	}
}

type lost string

func (l lost) Error() string { return string(l) }

const (
	errLost   = lost("connection lost")
	errSilent = lost("gateway silent")
)

// fromNow reports whether the subscription asked for new events only.
func (f *follower) fromNow() bool { return len(f.start) == 1 }

// began handles the first reply to a subscribe. A subscription of new events must
// deliver everything after the cursor of that reply.
func (f *follower) began(answer harness.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.fromNow() {
		return
	}
	f.sub.Begin, _ = strconv.ParseUint(answer.Cursor, 10, 64)
	if f.cursor == "" {
		f.cursor = answer.Cursor
	}
}

// receive handles a frame of the subscription, on the reader of the session.
func (f *follower) receive(e harness.Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e.Op {
	case "event":
		amount, _, err := check.ParseEvent(e.Data)
		if err != nil {
			amount = -1 // which no event of this load has
		}
		stream, ok := f.names[e.Stream]
		if !ok {
			stream = e.Stream
			f.names[stream] = stream
		}
		if f.fromNow() && f.cursor == "" {
			f.sub.Begin = e.Position - 1 // a reply that arrives later may lower it
		}
		f.sub.Seen = append(f.sub.Seen, check.Seen{Position: e.Position, Version: e.Version, Stream: stream, Key: e.Cause, Event: e.Event, Amount: amount})
		f.cursor = strconv.FormatUint(e.Position, 10)
	case "state":
		if f.sub.State == nil {
			state, err := check.ParseState(e.Data)
			if err != nil {
				state.Seller = err.Error()
			}
			f.sub.State, f.sub.StateVersion, f.sub.BeginVersion = &state, e.Version, e.Version
		}
		f.cursor = strconv.FormatUint(e.Position, 10)
	case "live":
		if !f.live {
			f.live, f.sub.Live = true, e.Version
		}
		f.liveHere = true
		f.mark(e.Cursor)
	case "heartbeat":
		for _, b := range e.Behind {
			if b.Sub == "s" {
				f.mark(b.Cursor)
				return
			}
		}
		if f.liveHere { // before that, it does not cover the subscription
			f.mark(e.Cursor)
		}
	}
	select {
	case f.progress <- struct{}{}:
	default:
	}
}

func (f *follower) mark(cursor string) {
	if at, err := strconv.ParseUint(cursor, 10, 64); err == nil {
		f.sub.Marks = append(f.sub.Marks, check.Mark{After: len(f.sub.Seen), Cursor: at})
		f.cursor = cursor
	}
}

// await waits until the follower has its target's last event.
func (f *follower) await(ctx context.Context, last map[string]uint64) {
	for {
		f.mu.Lock()
		topic := f.sub.Stream
		if topic == "" {
			topic = f.sub.Category
		}
		at, _ := strconv.ParseUint(f.cursor, 10, 64)
		done := at >= last[topic] && f.live
		progress := f.progress
		f.mu.Unlock()
		if done {
			return
		}
		select {
		case <-progress:
		case <-time.After(100 * time.Millisecond): // the subscription may have changed
		case <-ctx.Done():
			return
		}
	}
}
