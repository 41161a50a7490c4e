package console

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// tailRate is the number of events a second that a tail shows. tailBurst is how
	// many it shows together after a pause.
	tailRate, tailBurst = 50, 50
	// tailPending and tailBytes bound the events of a tail that wait to be shown. If
	// more wait, all but the newest tailKept are counted and not shown.
	tailPending, tailBytes, tailKept = 250, 4 << 20, 50
	// tailBehind is the number of events before the head at which a tail can begin. A
	// tail that would begin earlier counts the events before that.
	tailBehind = 10_000
	// recentCommits and recentBytes bound the commits that are kept for tails that
	// still read the stored log.
	recentCommits, recentBytes = 4096, 8 << 20
	// placeEvery is how often an idle tail tells its page how far it has looked.
	placeEvery = 5 * time.Second
)

// tails passes new events to open tails.
type tails struct {
	open atomic.Int32 // the number of elements of list

	mu     sync.Mutex
	list   map[*tail]bool
	recent []eventstore.Commit // the newest commits since the first tail was opened
	bytes  int                 // of recent
}

func newTails() *tails { return &tails{list: map[*tail]bool{}} }

// Deliver passes committed events, in order, to the open tails. It does not wait for
// pages. While no tail is open, it costs one atomic load.
func (c *Console) Deliver(commits []eventstore.Commit) {
	if c.tails.open.Load() > 0 && len(commits) > 0 {
		c.tails.deliver(commits)
	}
}

func (ts *tails) deliver(commits []eventstore.Commit) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.list) == 0 {
		return
	}
	if n := len(ts.recent); n > 0 && commits[0].First() <= ts.recent[n-1].Position { // the log went back
		ts.forget()
		for t := range ts.list {
			t.wentBack = true
			t.wake()
		}
	}
	for i := range commits {
		ts.recent = append(ts.recent, commits[i])
		ts.bytes += sizeOf(&commits[i])
	}
	drop := 0
	for len(ts.recent)-drop > recentCommits || ts.bytes > recentBytes && drop < len(ts.recent)-1 {
		ts.bytes -= sizeOf(&ts.recent[drop])
		ts.recent[drop] = eventstore.Commit{}
		drop++
	}
	ts.recent = ts.recent[drop:]
	for t := range ts.list {
		if t.isLive {
			for i := range commits {
				t.add(&commits[i])
			}
		}
	}
}

func (ts *tails) forget() { ts.recent, ts.bytes = nil, 0 }

func (ts *tails) join(t *tail) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.list[t] = true
	ts.open.Add(1)
}

func (ts *tails) leave(t *tail) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.list, t)
	ts.open.Add(-1)
	if len(ts.list) == 0 {
		ts.forget()
	}
}

// goLive lets Deliver pass further commits to a tail that has read the stored log up
// to its head. It returns false if newer commits must still be read there.
func (ts *tails) goLive(t *tail) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.recent) > 0 && ts.recent[0].First() > t.seen+1 {
		return false
	}
	for i := range ts.recent {
		t.add(&ts.recent[i])
	}
	t.isLive = true
	return true
}

// waitingEvent is an event that waits to be shown.
type waitingEvent struct {
	commit *eventstore.Commit
	i      int
	bytes  int // what the tail counts for it
}

func (e waitingEvent) position() eventstore.Position {
	return e.commit.First() + eventstore.Position(e.i)
}

// A tail shows a page the events that match its filter, at most tailRate a second.
// The lock of tails guards its members but filter, log and news.
type tail struct {
	filter filter
	log    string        // its incarnation
	news   chan struct{} // has one place

	isLive   bool
	wentBack bool
	seen     eventstore.Position // events up to here were examined
	pending  []waitingEvent
	bytes    int
	// skipped is the number of events, all before those in pending, that are not
	// shown, skippedTo the last one's position.
	skipped   uint64
	skippedTo eventstore.Position
	tokens    float64 // how many events may be shown now
	refilled  time.Time
}

func (t *tail) wake() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// add adds the matching events of a commit that the tail has not examined. The caller
// holds the lock of tails.
func (t *tail) add(commit *eventstore.Commit) {
	if commit.Position <= t.seen {
		return
	}
	owned, size := commit, sizeOf(commit)
	for i := range commit.Events {
		if commit.First()+eventstore.Position(i) <= t.seen || !t.filter.matches(commit, i) {
			continue
		}
		if owned == commit { // the slice that it is in may be reused
			c := *commit
			owned = &c
		}
		t.pending = append(t.pending, waitingEvent{owned, i, size})
		t.bytes += size
		size = 0
	}
	t.seen = commit.Position
	if len(t.pending) > tailPending || t.bytes > tailBytes {
		t.skip()
	}
	if len(t.pending) > 0 {
		t.wake()
	}
}

// skip counts all pending events but the newest.
func (t *tail) skip() {
	n := 0
	for len(t.pending)-n > tailKept || t.bytes > tailBytes/2 && len(t.pending)-n > 1 {
		t.bytes -= t.pending[n].bytes
		n++
	}
	if n > 0 {
		t.skipped += uint64(n)
		t.skippedTo = t.pending[n-1].position()
		t.pending = slices.Delete(t.pending, 0, n)
	}
}

// take returns the events to show now, the number of events before them that are not
// shown, and how long to wait for more; 0 if that needs new events. The caller holds
// the lock of tails.
func (t *tail) take(now time.Time) (events []waitingEvent, skipped skippedEvents, wait time.Duration) {
	if !t.refilled.IsZero() {
		t.tokens = min(tailBurst, t.tokens+now.Sub(t.refilled).Seconds()*tailRate)
	} else {
		t.tokens = tailBurst
	}
	t.refilled = now
	n := min(len(t.pending), int(t.tokens))
	if n == 0 && len(t.pending) > 0 {
		return nil, skippedEvents{}, 100 * time.Millisecond
	}
	events = slices.Clone(t.pending[:n])
	t.pending = slices.Delete(t.pending, 0, n)
	t.tokens -= float64(n)
	for _, e := range events {
		t.bytes -= e.bytes
	}
	skipped = skippedEvents{Count: t.skipped, To: uint64(t.skippedTo)}
	t.skipped = 0
	if len(t.pending) > 0 {
		wait = 100 * time.Millisecond
	}
	return events, skipped, wait
}

// skippedEvents is the message about events that are not shown.
type skippedEvents struct {
	Count uint64 `json:"count"`
	// To is the position up to which the events are counted.
	To uint64 `json:"to"`
	// Unexamined means that Count is the number of all events up to To, since they were
	// not compared with the filter.
	Unexamined bool `json:"unexamined,omitempty"`
}

// place is the message that says up to where the tail has looked.
type place struct {
	Log      string `json:"log"`
	Position uint64 `json:"position"`
}

// serveLog sends matching events from a position on, or from the head, as they happen.
// Its messages are:
//
//	at       the log, and the position up to which it has looked: first, and while
//	         no event matches. The page continues there after a reconnect.
//	events   events, oldest first
//	skipped  how many events are not shown, before the next ones
//
// The response ends when the log goes back; the page then begins at the head.
func (c *Console) serveLog(w http.ResponseWriter, r *http.Request, user User) {
	q := r.URL.Query()
	f, err := filterOf(q)
	after, isGiven, afterErr := number(q, "after")
	if bad := firstOf(err, afterErr); bad != nil {
		refuse(w, http.StatusBadRequest, bad.Error())
		return
	}
	t := &tail{filter: f, news: make(chan struct{}, 1)}
	c.tails.join(t) // before the head is read, so that Deliver keeps the events after it
	defer c.tails.leave(t)
	head, err := c.reader.head(r.Context())
	if err != nil {
		c.refuseRead(w, r, err)
		return
	}
	t.log, t.seen = c.cfg.Log.LogID(), head // no other goroutine reads it before goLive
	if isGiven {
		t.seen = min(eventstore.Position(after), head)
	}
	start := place{t.log, uint64(t.seen)}
	var skipped skippedEvents
	if first := head - min(head, tailBehind); t.seen < first {
		skipped = skippedEvents{uint64(first - t.seen), uint64(first), true}
		t.seen = first
	}
	s := openStream(w, r, user)
	defer s.close()
	if !s.sendJSON("at", start) || skipped.Count > 0 && !s.sendJSON("skipped", skipped) {
		return
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer s.close() // ends catchUp
	reading.Go(func() { c.catchUp(s.ctx, t) })
	c.showTail(s, t, user.Role)
}

// catchUp reads the stored log until Deliver has the events that follow.
func (c *Console) catchUp(ctx context.Context, t *tail) {
	for pause := 100 * time.Millisecond; ; {
		c.tails.mu.Lock()
		after := t.seen
		c.tails.mu.Unlock()
		end, err := c.reader.scan(ctx, t.filter.typ, after, after+tailBehind, func(commit *eventstore.Commit) bool {
			c.tails.mu.Lock()
			defer c.tails.mu.Unlock()
			t.add(commit)
			return true
		})
		c.tails.mu.Lock()
		t.seen = max(t.seen, end)
		c.tails.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.cfg.Logger.Warn("reading the log for the console failed", "err", err)
			select {
			case <-time.After(pause):
				pause = min(2*pause, 5*time.Second)
			case <-ctx.Done():
				return
			}
		case end == after && c.tails.goLive(t):
			return
		}
	}
}

// showTail sends events to the page until it goes.
func (c *Console) showTail(s *stream, t *tail, role Role) {
	timer := time.NewTimer(placeEvery)
	defer timer.Stop()
	var told eventstore.Position
	for first := true; ; first = false {
		c.tails.mu.Lock()
		events, skipped, wait := t.take(time.Now())
		seen, isIdle, wentBack := t.seen, len(t.pending) == 0, t.wentBack
		c.tails.mu.Unlock()
		if wentBack || c.cfg.Log.LogID() != t.log {
			return
		}
		if first {
			told = seen
		}
		if skipped.Count > 0 && !s.sendJSON("skipped", skipped) {
			return
		}
		if len(events) > 0 {
			list := make([]event, len(events))
			for i, e := range events {
				list[i] = show(e.commit, e.i, role, false)
			}
			if !s.sendJSON("events", list) {
				return
			}
		}
		if len(events) == 0 && isIdle && seen > told {
			if !s.sendJSON("at", place{c.cfg.Log.LogID(), uint64(seen)}) {
				return
			}
			told = seen
		}
		timer.Reset(placeEvery)
		news := t.news
		if wait > 0 {
			timer.Reset(wait)
			news = nil
		}
		select {
		case <-news:
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *stream) sendJSON(kind string, value any) bool {
	text, err := json.Marshal(value)
	return err == nil && s.send(kind, text)
}
