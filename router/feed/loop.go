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

// loop is the state of Run's goroutine, which makes all decisions and delivers.
// Other goroutines send it arrivals from publishers and answers from the log.
type loop struct {
	*Subscriber
	ctx context.Context // ends when Run must end
	wg  sync.WaitGroup

	seq     sequence
	started bool   // W is known
	lost    error  // if set, nothing is delivered until Reset
	log     string // the incarnation that is delivered
	epoch   uint64 // number of resets; arrivals and answers of an earlier epoch are ignored

	view   *cluster.View
	remote map[string]*source // by member id
	local  *source

	questions  chan question
	answers    chan answer
	asking     bool      // a question to the log is unanswered; there is one at a time
	lastAsk    time.Time // when it was asked
	short      bool      // the last answer was less than a page: the head may be near
	failing    bool      // the last question failed
	wait       time.Duration
	retryAt    time.Time
	checkHead  bool        // ask for the head as soon as possible
	headChecks []time.Time // when to ask for the head, for events of a dead publisher

	out      []eventstore.Commit // not delivered yet
	lastPush *eventstore.Commit  // the last one in out that was pushed
}

// Run delivers until ctx ends, and then returns nil. It returns an error if the
// log is damaged or closed. When it returns, all its goroutines have ended. It
// can be called once.
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
	l.wg.Go(l.askQuestions)

	err := l.serve()
	if err != nil {
		s.cfg.Logger.Error("the feed has stopped permanently", "err", err)
		s.lost.Store(&err)
	}
	return err
}

func (l *loop) serve() error {
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
				views = nil // closed when ctx ends
				break
			}
			l.view = v
			l.updateStreams()
		case a := <-l.arrivals:
			l.handleArrival(a)
			// Process all pending arrivals, so that under load one call of
			// Deliver has many commits.
			for n := len(l.arrivals); n > 0; n-- {
				l.handleArrival(<-l.arrivals)
			}
		case a := <-l.answers:
			err = l.handleAnswer(a)
		case r := <-l.resets:
			l.reset(r.log, r.w)
			close(r.done)
		case <-timer.C:
		}
		l.deliver()
		if err != nil {
			return err
		}
		timer.Reset(l.schedule(time.Now()))
	}
}

// begin starts to deliver the incarnation log after w.
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
	l.updateStreams()
}

// reset executes a call of Reset.
func (l *loop) reset(log string, w eventstore.Position) {
	if l.lost != nil {
		l.cfg.Logger.Warn("the feed continues with the log that went back", "position", w)
	}
	l.epoch++
	l.lost, l.checkHead, l.headChecks = nil, false, nil
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

// updateStreams opens and closes streams, so that every domain member of the view
// has one. The member's state does not matter: a starting member may be ready in
// another view, and a draining member still commits.
func (l *loop) updateStreams() {
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
		l.checkHeadSoon()
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
		l.keepStream(ctx, src)
	})
	return src
}

// handleArrival processes a batch of a source. The source may have been closed
// in the meantime because its member left. Arrivals from before a Reset are
// ignored. Events of another incarnation are never delivered: they mean that
// either the peer or this node has not noticed yet that the log went back, so
// the log is asked.
func (l *loop) handleArrival(a arrival) {
	if l.lost != nil || !l.started || a.src.epoch != l.epoch {
		return
	}
	switch {
	case a.log == l.log:
		a.src.foreign.Store(false)
	case a.concernsLog():
		if !a.src.foreign.Swap(true) {
			l.cfg.Logger.Warn("a peer sends events of another log; the log is asked", "member", a.src.member.ID, "log", l.log, "other", a.log)
			l.checkHead = true
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
		l.seq.readUpTo(a.skip)
	}
	l.checkHead = l.checkHead || a.opened
	if a.ended {
		l.checkHeadSoon()
	}
	l.advance()
}

// advance moves the watermark over all parked runs that it reaches.
func (l *loop) advance() {
	for {
		commits, src, refused, ok := l.seq.next()
		if !ok {
			return
		}
		if refused {
			l.reject(src, "a frame begins inside a commit that was delivered")
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
			l.out = slices.Clip(commits) // so that an append copies, since publishers share the slice
		} else {
			l.out = append(l.out, commits...)
		}
	}
}

// deliver delivers the commits up to the watermark and publishes the state of
// the loop.
func (l *loop) deliver() {
	if len(l.out) > 0 {
		if c := l.lastPush; c != nil {
			l.cfg.Store.Witness(l.log, c)
		}
		l.cfg.Deliver(l.out)
		l.out, l.lastPush = nil, nil
		l.watermark.Store(uint64(l.seq.w))
	}
	l.seq.updateTimes(time.Now())
	if since := l.seq.behind(); since.IsZero() {
		l.behind.Store(nil)
	} else if b := l.behind.Load(); b == nil || !b.Equal(since) {
		l.behind.Store(&since)
	}
	l.known.Store(uint64(l.seq.known()))
	l.parked.Store(int64(l.seq.events))
}

// reject ends the stream of a source that sent a false position.
func (l *loop) reject(src *source, what string) {
	l.counters.refused.Add(1)
	if src == nil || src.local {
		return
	}
	src.refuse(fmt.Errorf("%w: %s", errRefused, what))
}

// checkHeadSoon schedules questions for the log's head: now, after 50 ms and
// after 200 ms.
func (l *loop) checkHeadSoon() {
	now := time.Now()
	l.headChecks = l.headChecks[:0]
	for _, d := range headChecksAfterEnd {
		l.headChecks = append(l.headChecks, now.Add(d))
	}
}

// schedule asks the log a question if one is due, and returns how long the loop
// may sleep.
func (l *loop) schedule(now time.Time) time.Duration {
	if l.asking || l.lost != nil {
		return time.Hour // the answer or Reset wakes the loop
	}
	next := now.Add(pollEvery) // to check the health of streams again
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
		l.seq.readUpTo(l.seq.known())
		q.upTo, ask = l.seq.urgent, true
	default:
		for len(l.headChecks) > 0 && due(l.headChecks[0]) {
			l.headChecks = l.headChecks[1:]
			ask = true
		}
		ask = ask || l.checkHead
		l.checkHead = false
		every := headEvery
		if l.mustPoll(now) {
			every = pollEvery
		} else {
			q.patient = !ask
		}
		ask = due(l.lastAsk.Add(every)) || ask
	}
	if !ask {
		return next.Sub(now)
	}
	l.seq.noteQuestion()
	l.asking, l.lastAsk = true, now
	l.counters.asks.Add(1)
	l.questions <- q // does not block: the channel has room for one
	return time.Hour
}

// mustPoll reports whether a live domain member has no healthy stream, so that
// only the log has its events.
func (l *loop) mustPoll(now time.Time) bool {
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
