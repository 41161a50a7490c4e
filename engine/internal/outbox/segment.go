package outbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// page is how many commands are read together, and mostLoaded bounds the commands
	// in memory. One target has at most half of them, and once half are used at most
	// fewOfTarget, so that targets that do not answer leave room for others.
	page        = 256
	mostLoaded  = 2048
	fewOfTarget = 32
	// scanEvery is the pause after a page of which no command had room.
	scanEvery = 50 * time.Millisecond
	// checkEvery is how often a segment that has commands looks whether an operator
	// has decided something, and lookEvery how often one without commands looks for
	// some that it was not told about.
	checkEvery = time.Second
	lookEvery  = 5 * time.Second
	// gateEvery is how often a build looks whether those before it have sent all.
	gateEvery = 50 * time.Millisecond
	// retryAfter is the pause after the database did not answer.
	retryAfter = 200 * time.Millisecond
)

// A segment sends the commands of one segment of one build. It belongs to one
// goroutine, besides the methods that say so.
type segment struct {
	*Outbox
	at       place
	signal   *Signal
	draining bool // it ends when nothing is left
	slots    chan struct{}
	results  chan result
	flights  sync.WaitGroup

	logID   string
	known   map[rows.CommandID]bool // in memory, or sent and not yet removed
	targets map[string]*target
	loaded  int
	cursor  rows.CommandID // the last command that was read
	more    bool           // there may be commands behind the cursor
	rescan  bool           // read from the beginning: commands of a target were left out
	done    []rows.Sent
	ahead   map[string]bool // targets to which other builds have held commands: theirs come first
	seen    signalState
	gated   bool // other builds may have commands in the outbox
	failing bool
	checked time.Time // when check last ran
	scanned time.Time // when a page was read of which no command had room
	gateAt  time.Time // when gate may ask again
}

// A target is an aggregate to which commands are pending.
type target struct {
	queue  []rows.Command // the first is in flight
	cut    bool           // more commands are in the outbox
	held   *rows.Command  // waits for an operator
	flying bool
}

// A result is what became of a command that was in flight.
type result struct {
	command *rows.Command
	verdict verdict
}

func (o *Outbox) newSegment(at place, signal *Signal, draining bool) *segment {
	return &segment{
		Outbox: o, at: at, signal: signal, draining: draining,
		slots: make(chan struct{}, segmentInFlight), results: make(chan result, mostLoaded+page),
	}
}

// run sends until ctx ends, or while draining until nothing is left. It begins again
// when an operator has paused the process manager, and when the log is another one.
func (s *segment) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.reset()
		flying, stop := context.WithCancel(ctx)
		err := s.send(ctx, flying)
		stop()
		s.flights.Wait()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && s.draining:
			return
		case errors.Is(err, rows.ErrPaused):
			sleep(ctx, checkEvery)
		case err != nil:
			if !s.failing {
				s.log.Warn("an outbox waits", "build", s.at.build, "segment", s.at.segment, "err", err)
			}
			s.failing = true
			sleep(ctx, retryAfter)
		}
	}
}

func (s *segment) reset() {
	for len(s.results) > 0 {
		<-s.results
	}
	s.logID = s.cfg.LogID()
	s.known, s.targets, s.loaded, s.ahead = map[rows.CommandID]bool{}, map[string]*target{}, 0, nil
	s.cursor, s.more, s.rescan, s.done, s.gated = rows.CommandID{}, true, false, nil, true
}

// send sends until something stops it. It returns nil when the log is another one,
// and while draining when nothing is left. flying ends the commands in flight.
func (s *segment) send(ctx, flying context.Context) error {
	check := time.NewTimer(0)
	defer check.Stop()
	for {
		state, changed := s.signal.read()
		if state.begun != s.seen.begun { // the fold may have written commands of earlier causes
			s.gated, s.more, s.rescan = true, true, true
		}
		s.more = s.more || state.wrote != s.seen.wrote
		s.seen = state
		if err := s.work(ctx, flying); err != nil {
			return err
		}
		switch {
		case s.cfg.LogID() != s.logID:
			return nil
		case s.draining && len(s.known) == 0 && !s.more && len(s.targets) == 0:
			return nil
		}
		check.Reset(max(0, time.Until(s.checked.Add(s.checkAfter()))))
		select {
		case r := <-s.results:
			s.finish(r)
			for len(s.results) > 0 {
				s.finish(<-s.results)
			}
		case <-changed:
		case <-check.C:
			s.checked = time.Now()
			if err := s.check(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *segment) checkAfter() time.Duration {
	switch {
	case s.isGated():
		return gateEvery
	case s.more && s.loaded < mostLoaded:
		return scanEvery
	case len(s.known) > 0 || len(s.targets) > 0:
		return checkEvery
	}
	return lookEvery
}

// isGated reports whether the segment must not send yet.
func (s *segment) isGated() bool { return s.gated && s.seen.current && !s.draining }

// work removes what is sent, reads what is pending, and begins what can be sent.
func (s *segment) work(ctx, flying context.Context) error {
	if len(s.done) > 0 {
		if err := s.cfg.Rows.Sent(ctx, s.cfg.Process.Name(), s.done); err != nil {
			return err
		}
		for _, c := range s.done {
			delete(s.known, c.CommandID)
		}
		s.done = s.done[:0]
	}
	if s.isGated() {
		if err := s.gate(ctx); err != nil || s.gated {
			return err
		}
	}
	if err := s.fill(ctx); err != nil {
		return err
	}
	for name, t := range s.targets {
		if s.launch(flying, t); t.isIdle() {
			delete(s.targets, name)
		}
	}
	return nil
}

func (t *target) isIdle() bool { return len(t.queue) == 0 && t.held == nil && !t.cut }

// mostAhead bounds the targets of other builds that wait for an operator while the
// segment sends to other targets.
const mostAhead = 1000

// gate opens the segment once all that other builds have in the outbox waits for an
// operator. The targets of these commands stay closed until they are gone.
func (s *segment) gate(ctx context.Context) error {
	began := time.Now()
	if began.Before(s.gateAt) {
		return nil
	}
	targets, held, err := s.cfg.Rows.Ahead(ctx, s.cfg.Process.Name(), s.at.build, mostAhead+1)
	if err != nil {
		return err
	}
	s.gateAt = time.Now().Add(restTimes * time.Since(began)) // it reads the other builds' commands
	if s.gated && (!held || len(targets) > mostAhead) {
		return nil
	}
	s.gated = false
	ahead := map[string]bool{}
	for _, target := range targets {
		ahead[target] = true
	}
	s.rescan = s.rescan || len(ahead) < len(s.ahead) // targets only leave
	s.ahead = ahead
	return nil
}

// fill reads commands while there is room for them.
func (s *segment) fill(ctx context.Context) error {
	if s.rescan && s.loaded < mostLoaded/2 {
		s.rescan, s.cursor, s.more, s.scanned = false, rows.CommandID{}, true, time.Time{}
		for _, t := range s.targets {
			t.cut = false
		}
	}
	for s.more && s.loaded < mostLoaded && time.Since(s.scanned) >= scanEvery {
		before := s.loaded
		list, err := s.cfg.Rows.Pending(ctx, s.cfg.Process.Name(), s.at.build, s.at.segment, s.cursor, page)
		if err != nil {
			return err
		}
		s.failing = false
		for _, c := range list {
			s.cursor = c.CommandID
			s.add(c)
		}
		if s.more = len(list) == page; s.more && s.loaded == before {
			s.scanned = time.Now()
		}
	}
	return nil
}

// roomOf returns how many commands one target may have in memory.
func (s *segment) roomOf() int {
	if s.loaded < mostLoaded/2 {
		return mostLoaded / 2
	}
	return fewOfTarget
}

// add queues a command, unless it is known or its target has enough.
func (s *segment) add(c rows.Command) {
	if s.known[c.CommandID] {
		return
	}
	t := s.targets[c.Target]
	if t == nil {
		t = &target{}
		s.targets[c.Target] = t
	}
	switch {
	case t.held != nil, t.cut, s.ahead[c.Target]:
		t.cut = true
	case c.Held && len(t.queue) == 0:
		t.held, t.cut = &c, true
	case len(t.queue) >= s.roomOf(), c.Held:
		t.cut = true
	default:
		t.queue = append(t.queue, c)
		s.known[c.CommandID] = true
		s.loaded++
	}
}

// launch sends the first command of a target, if none is in flight.
func (s *segment) launch(flying context.Context, t *target) {
	if t.flying || t.held != nil || len(t.queue) == 0 {
		return
	}
	t.flying = true
	c, logID := &t.queue[0], s.logID
	s.flights.Go(func() { s.results <- result{c, s.deliver(flying, *c, logID)} })
}

// finish notes what became of a command.
func (s *segment) finish(r result) {
	c := r.command
	t := s.targets[c.Target]
	t.flying = false
	t.queue = t.queue[1:]
	s.loaded--
	switch r.verdict {
	case final:
		s.done = append(s.done, rows.Sent{CommandID: c.CommandID})
	case rejected:
		s.done = append(s.done, rows.Sent{CommandID: c.CommandID, Rejected: true})
	case held:
		s.drop(t)
		delete(s.known, c.CommandID)
		t.held, t.cut = c, true
		return
	}
	s.rescan = s.rescan || t.cut && len(t.queue) == 0
}

// drop forgets the queue of a target; the outbox has it.
func (s *segment) drop(t *target) {
	for _, c := range t.queue {
		delete(s.known, c.CommandID)
	}
	s.loaded -= len(t.queue)
	t.queue = nil
}

// check looks whether an operator has paused the process manager or decided about a
// held command, and for commands that the fold did not tell about.
func (s *segment) check(ctx context.Context) error {
	if s.isGated() {
		return nil
	}
	if len(s.ahead) > 0 {
		if err := s.gate(ctx); err != nil {
			return err
		}
	}
	if err := s.checkHeld(ctx); err != nil {
		return err
	}
	if len(s.known) == 0 {
		s.more = true
		return nil
	}
	_, err := s.cfg.Rows.Pending(ctx, s.cfg.Process.Name(), s.at.build, s.at.segment, s.cursor, 1)
	return err
}

// mostHeld bounds the held commands that are read together.
const mostHeld = 1000

func (s *segment) checkHeld(ctx context.Context) error {
	waiting := 0
	for _, t := range s.targets {
		if t.held != nil {
			waiting++
		}
	}
	if waiting == 0 {
		return nil
	}
	list, err := s.cfg.Rows.Held(ctx, s.cfg.Process.Name(), mostHeld)
	if err != nil || len(list) == mostHeld {
		return err
	}
	still := map[rows.CommandID]bool{}
	for _, c := range list {
		still[c.CommandID] = true
	}
	for name, t := range s.targets {
		if t.held != nil && !still[t.held.CommandID] {
			delete(s.targets, name)
			s.rescan = true
		}
	}
	return nil
}

// streamOf returns the stream of a target.
func streamOf(target string) (eventstore.StreamID, error) { return eventstore.ParseStreamID(target) }
