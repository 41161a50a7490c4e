package groups

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/proto/group"
)

const (
	// answerWithin is how long a coordinator may take to answer, which holds an answer
	// back for group.Exchange.
	answerWithin = group.Exchange + time.Second
	// retryMin and retryMax bound the pause after a failed exchange.
	retryMin = 20 * time.Millisecond
	retryMax = 250 * time.Millisecond
	// apart is the least time between two exchanges.
	apart = 5 * time.Millisecond
)

// errWoken ends an exchange because there is news to report.
var errWoken = errors.New("groups: news")

// A talk is the conversation of a gateway with the coordinator of one group.
type talk struct {
	cfg   Config
	group group.Group
	boot  string
	woken chan struct{} // of capacity 1: report soon

	mu       sync.Mutex
	sessions map[string]*membership // closed ones until an answer
	number   uint64                 // of the last report
	seen     uint64                 // the digest of the last answer
	holds    time.Time              // until when the last answer holds
	silence  *time.Timer            // tells the sessions at that time
}

func newTalk(cfg Config, g group.Group, boot string) *talk {
	return &talk{cfg: cfg, group: g, boot: boot, woken: make(chan struct{}, 1), sessions: map[string]*membership{}}
}

func (t *talk) wake() {
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// silent reports whether the coordinator was not heard for too long. The caller holds
// mu.
func (t *talk) silent() bool { return !time.Now().Before(t.holds) }

// add adds a session, unless there are too many.
func (t *talk) add(s *membership) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sessions) >= group.MaxMembers {
		return false
	}
	t.sessions[s.id] = s
	t.wake()
	return true
}

// remove closes a session, which is reported once more.
func (t *talk) remove(s *membership) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !s.closed {
		s.closed = true
		t.wake()
	}
}

// run exchanges reports for answers, while there are sessions, until ctx ends.
func (t *talk) run(ctx context.Context) {
	defer t.stop()
	for pause := retryMin; ; {
		if !t.active() {
			select {
			case <-t.woken:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := t.exchange(ctx)
		wait := apart
		switch {
		case ctx.Err() != nil:
			return
		case err == nil || errors.Is(err, errWoken):
			pause = retryMin
		default:
			t.cfg.Logger.Debug("a consumer group's coordinator did not answer", "group", t.group.Name, "err", err)
			wait, pause = pause, min(2*pause, retryMax)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (t *talk) active() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sessions) > 0
}

func (t *talk) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silence != nil {
		t.silence.Stop()
	}
}

// exchange reports once, and takes the answer.
func (t *talk) exchange(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, end := context.WithTimeout(ctx, answerWithin)
	defer end()
	select { // the report that follows has everything up to here
	case <-t.woken:
	default:
	}
	r := t.report()
	sent := time.Now()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-t.woken:
			t.wake()
			cancel(errWoken)
		case <-ctx.Done():
		}
	}()
	a, err := t.cfg.Coordinator.Exchange(ctx, r)
	cancel(nil)
	<-watched
	if err != nil {
		if errors.Is(context.Cause(ctx), errWoken) {
			return errWoken
		}
		return err
	}
	t.take(r, a, sent)
	return nil
}

func (t *talk) report() group.Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.number++
	r := group.Report{Group: t.group.Name, Gateway: t.cfg.Self, Boot: t.boot, Number: t.number, Seen: t.seen}
	for _, s := range t.sessions {
		r.Sessions = append(r.Sessions, s.report())
	}
	return r
}

// take takes an answer, and tells the sessions for which it is news.
func (t *talk) take(r group.Report, a group.Answer, sent time.Time) {
	t.mu.Lock()
	wasSilent := t.silent()
	t.seen = a.Digest
	t.holds = sent.Add(group.Lease - a.Age)
	for _, one := range r.Sessions {
		if one.Closed {
			delete(t.sessions, one.ID)
		}
	}
	var tell []*membership
	for _, h := range a.Sessions {
		if s := t.sessions[h.Session]; s != nil && (s.hear(h) || wasSilent) && !s.closed {
			tell = append(tell, s)
		}
	}
	if t.silence != nil {
		t.silence.Stop()
	}
	t.silence = time.AfterFunc(time.Until(t.holds), t.tellSilence)
	t.mu.Unlock()
	for _, s := range tell {
		s.changed()
	}
}

// tellSilence tells all sessions that the coordinator is silent, if it is.
func (t *talk) tellSilence() {
	t.mu.Lock()
	var tell []*membership
	if t.silent() {
		for _, s := range t.sessions {
			if !s.closed {
				tell = append(tell, s)
			}
		}
	}
	t.mu.Unlock()
	if len(tell) > 0 {
		t.cfg.Logger.Warn("a consumer group's coordinator is silent", "group", t.group.Name, "members", len(tell))
	}
	for _, s := range tell {
		s.changed()
	}
}

func (t *talk) stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{Group: t.group.Name}
	for _, one := range t.sessions {
		if one.closed || one.replaced {
			continue
		}
		s.Members++
		for _, tenure := range one.tenures {
			if tenure.First > 0 {
				s.Pending++
			}
		}
	}
	s.Silent = s.Members > 0 && t.silent()
	return s
}
