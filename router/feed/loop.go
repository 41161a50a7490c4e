package feed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// loop is what only the goroutine of Run touches. It alone decides and
// delivers; the others bring it what peers push and what the log answers.
type loop struct {
	*Subscriber
	ctx context.Context // ends when Run is to end
	wg  sync.WaitGroup

	seq     sequence
	started bool   // W is known
	lost    error  // set: nothing is delivered until Reset
	log     string // the incarnation that is delivered
	epoch   uint64 // counts resets: what began before the last one is ignored

	view   *cluster.View
	remote map[string]*source // by member id
	local  *source

	questions chan question
	answers   chan answer
	asking    bool      // a question is with the log; there is never a second
	lastAsk   time.Time // when it was put
	short     bool      // the last answer was no full page: the head may be near
	failing   bool      // the last question was not answered
	wait      time.Duration
	retryAt   time.Time
	lookNow   bool        // a stream has opened: ask for the head
	discover  []time.Time // … and when to, for what a dead publisher left behind

	out      []eventstore.Commit // to be delivered
	lastPush *eventstore.Commit  // the last in out that was pushed
}

// Run delivers until ctx ends, and then returns nil; all it started has
// ended by then. A damaged or closed log ends it with an error. It can be
// called once.
func (s *Subscriber) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("feed: Run was called before")
	}
	defer close(s.ended)
	ctx, cancel := context.WithCancel(ctx)
	l := &loop{
		Subscriber: s,
		ctx:        ctx,
		remote:     make(map[string]*source),
		questions:  make(chan question, 1),
		answers:    make(chan answer, 1),
	}
	defer l.wg.Wait()
	defer cancel()
	l.wg.Go(l.answer)

	err := l.run()
	if err != nil {
		s.cfg.Logger.Error("the feed has stopped for good", "error", err)
		s.lost.Store(&err)
	}
	return err
}

func (l *loop) run() error {
	var views <-chan *cluster.View
	if l.cfg.Push {
		views = l.cfg.Watch(l.ctx)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-l.ctx.Done():
			return nil
		case v, ok := <-views:
			if !ok {
				views = nil // it ends with ctx
				break
			}
			l.view = v
			l.listen()
		case a := <-l.arrivals:
			l.arrived(a)
			// What else is there is taken along, so that under load a call
			// of Deliver has much to do.
			for n := len(l.arrivals); n > 0; n-- {
				l.arrived(<-l.arrivals)
			}
		case a := <-l.answers:
			err = l.answered(a)
		case r := <-l.resets:
			l.reset(r.log, r.w)
			close(r.done)
		case <-timer.C:
		}
		l.deliver()
		if err != nil {
			return err
		}
		timer.Reset(l.plan(time.Now()))
	}
}

// begin starts to deliver the incarnation log behind w.
func (l *loop) begin(log string, w eventstore.Position) {
	l.seq.reset(w)
	l.log, l.started = log, true
	l.watermark.Store(uint64(w))
	if l.cfg.Begin != nil {
		l.cfg.Begin(w)
	}
	select {
	case <-l.Subscriber.started:
	default:
		close(l.Subscriber.started)
	}
	l.listen()
}

// reset takes a call of Reset.
func (l *loop) reset(log string, w eventstore.Position) {
	if l.lost != nil {
		l.cfg.Logger.Warn("the feed goes on with the log that went back", "position", w)
	}
	l.epoch++
	l.lost, l.lookNow, l.discover = nil, false, nil
	l.Subscriber.lost.Store(nil)
	for id, src := range l.remote {
		src.cancel()
		delete(l.remote, id)
	}
	if l.local != nil {
		l.local.cancel()
		l.local = nil
		l.cfg.Local.reset(log)
	}
	l.begin(log, w)
}

// listen opens and closes streams so that there is one to every domain member
// of the view, whatever its state: a starting one may be ready in another
// member's view, a draining one still commits.
func (l *loop) listen() {
	if !l.started || !l.cfg.Push {
		return
	}
	if l.local == nil && l.cfg.Local != nil {
		l.local = l.open(cluster.Member{ID: l.cfg.Self}, true)
	}
	want := make(map[string]cluster.Member)
	if l.view != nil {
		for _, m := range l.view.Members {
			if m.Domain && m.ID != l.cfg.Self {
				want[m.ID] = m
			}
		}
	}
	for id, src := range l.remote {
		m, ok := want[id]
		if ok && m.Boot == src.member.Boot && m.PeerAddr == src.member.PeerAddr {
			continue
		}
		src.cancel()
		delete(l.remote, id)
		if !src.bye.Load() {
			now := time.Now()
			l.vanished.Store(&now)
		}
		l.lookSoon()
	}
	for id, m := range want {
		if l.remote[id] == nil {
			l.remote[id] = l.open(m, false)
		}
	}
	sources := slices.SortedFunc(maps.Values(l.remote), func(a, b *source) int {
		return strings.Compare(a.member.ID, b.member.ID)
	})
	if l.local != nil {
		sources = append([]*source{l.local}, sources...)
	}
	l.sources.Store(&sources)
}

func (l *loop) open(m cluster.Member, local bool) *source {
	ctx, cancel := context.WithCancel(l.ctx)
	src := &source{member: m, local: local, epoch: l.epoch, cancel: cancel, made: time.Now()}
	l.wg.Go(func() {
		defer cancel()
		l.follow(ctx, src)
	})
	return src
}

// arrived takes what a source heard. Also a source that was closed because
// its member left is listened to, for what it said before; one from before a
// Reset is not. Events of another incarnation are never delivered: the peer or
// this node has not noticed yet that the log went back, and the log knows which.
func (l *loop) arrived(a arrival) {
	if l.lost != nil || !l.started || a.src.epoch != l.epoch {
		return
	}
	switch {
	case a.log == l.log:
		a.src.foreign.Store(false)
	case a.says():
		if !a.src.foreign.Swap(true) {
			l.cfg.Logger.Warn("a peer's events are of another log; the log is asked", "member", a.src.member.ID, "log", l.log, "other", a.log)
			l.lookNow = true
		}
		a.runs, a.skip, a.head = nil, 0, 0
	}
	for _, r := range a.runs {
		if !l.seq.offer(r) {
			l.counters.overflows.Add(1)
		}
	}
	l.seq.claim(a.head, a.src)
	if a.skip != 0 {
		l.counters.skips.Add(1)
		l.seq.claim(a.skip, a.src)
		l.seq.hurry(a.skip)
	}
	l.lookNow = l.lookNow || a.opened
	if a.ended {
		l.lookSoon()
	}
	l.gather()
}

// gather moves the watermark as far as it goes.
func (l *loop) gather() {
	for {
		commits, src, refused, ok := l.seq.next()
		if !ok {
			return
		}
		if refused {
			l.disbelieve(src, "a frame begins within a commit that was delivered")
			continue
		}
		events := uint64(commits[len(commits)-1].Position - commits[0].First() + 1)
		if src == nil {
			l.counters.read.Add(events)
		} else {
			l.counters.pushed.Add(events)
			l.lastPush = &commits[len(commits)-1]
		}
		if l.out == nil {
			l.out = slices.Clip(commits) // an append copies; what the publishers share stays as it is
		} else {
			l.out = append(l.out, commits...)
		}
	}
}

// deliver hands on what was gathered, and lets others know where this node is.
func (l *loop) deliver() {
	if len(l.out) > 0 {
		if c := l.lastPush; c != nil {
			l.cfg.Store.Witness(l.log, c)
		}
		l.cfg.Deliver(l.out)
		l.out, l.lastPush = nil, nil
		l.watermark.Store(uint64(l.seq.w))
	}
	l.seq.note(time.Now())
	if since := l.seq.behind(); since.IsZero() {
		l.behind.Store(nil)
	} else if b := l.behind.Load(); b == nil || !b.Equal(since) {
		l.behind.Store(&since)
	}
	l.known.Store(uint64(l.seq.known()))
	l.parked.Store(int64(l.seq.events))
}

// disbelieve notes that a source said what is not so.
func (l *loop) disbelieve(src *source, what string) {
	l.counters.refused.Add(1)
	if src == nil || src.local {
		return
	}
	src.refuse(fmt.Errorf("%w: %s", errRefused, what))
}

// lookSoon asks the log for its head now, and again a little later.
func (l *loop) lookSoon() {
	now := time.Now()
	l.discover = l.discover[:0]
	for _, d := range lookAfterEnd {
		l.discover = append(l.discover, now.Add(d))
	}
}

// plan puts the question to the log that is due, if one is, and returns how
// long nothing needs to be done.
func (l *loop) plan(now time.Time) time.Duration {
	if l.asking || l.lost != nil {
		return time.Hour // the answer wakes the loop, or Reset
	}
	next := now.Add(tailEvery) // by then health is looked at again
	due := func(at time.Time) bool {
		if at.After(now) {
			if at.Before(next) {
				next = at
			}
			return false
		}
		return true
	}
	q := question{epoch: l.epoch, started: l.started, after: l.seq.w}
	ask := false
	switch {
	case !due(l.retryAt):
	case !l.started:
		ask = true
	case l.seq.urgent > l.seq.w:
		ask = true
		if !l.short {
			q.upTo = l.seq.urgent
		}
	case !l.seq.missing.IsZero() && due(l.seq.missing.Add(patience)):
		l.counters.holes.Add(1)
		l.seq.hurry(l.seq.known())
		q.upTo, ask = l.seq.urgent, true
	default:
		for len(l.discover) > 0 && due(l.discover[0]) {
			l.discover = l.discover[1:]
			ask = true
		}
		ask = ask || l.lookNow
		l.lookNow = false
		every := headEvery
		if l.tailing(now) {
			every = tailEvery
		} else {
			q.patient = !ask
		}
		ask = due(l.lastAsk.Add(every)) || ask
	}
	if !ask {
		return next.Sub(now)
	}
	l.seq.ask()
	l.asking, l.lastAsk = true, now
	l.counters.asks.Add(1)
	l.questions <- q // never waits: there is room for the only one
	return time.Hour
}

// tailing tells whether some live domain member's events may come to be known
// by reading the log alone.
func (l *loop) tailing(now time.Time) bool {
	if !l.cfg.Push || l.view == nil {
		return true
	}
	for _, src := range l.remote {
		if !src.healthy(now, l.cfg.Silence) {
			return true
		}
	}
	return l.local != nil && !l.local.healthy(now, l.cfg.Silence)
}
