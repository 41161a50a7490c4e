package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// question asks the log for the commits after a position.
type question struct {
	epoch   uint64
	started bool // if false, only the head is wanted
	after   eventstore.Position
	upTo    eventstore.Position // how far the log is known to reach; if not past after, ask for the head first
	patient bool                // only the head is wanted: pushes of the commits up to it may be in transit
}

// answer is the log's answer.
type answer struct {
	question
	log     string              // the incarnation that was asked
	commits []eventstore.Commit // dense from after+1; at most a page
	end     eventstore.Position // the log's head, if ended is set
	ended   bool
	err     error
}

// askQuestions asks the log, one question at a time, until the loop's context
// ends.
func (l *loop) askQuestions() {
	for {
		select {
		case q := <-l.questions:
			a := l.askLog(q)
			select {
			case l.answers <- a:
			case <-l.ctx.Done():
				return
			}
		case <-l.ctx.Done():
			return
		}
	}
}

func (l *loop) askLog(q question) (a answer) {
	a.question, a.log = q, l.cfg.Store.LogID()
	ctx, cancel := context.WithTimeout(l.ctx, askTimeout)
	defer cancel()
	if q.upTo <= q.after {
		a.end, a.err = l.cfg.Store.Head(ctx)
		if a.err != nil {
			return a
		}
		a.ended = true
		if !q.started {
			return a
		}
		if a.end < q.after {
			a.err = l.wentBack(ctx, q.after, a.end)
			return a
		}
		if a.end == q.after || q.patient {
			return a
		}
	}
	a.commits, a.err = l.cfg.Store.Read(ctx, q.after, pageCommits)
	if a.err != nil {
		return a
	}
	if len(a.commits) == 0 {
		a.end, a.ended = q.after, true
		return a
	}
	a.err = dense(q.after, a.commits)
	return a
}

// wentBack makes the store check the log, which ends before w. Even if the store
// finds no fault, the result is an error, and nothing is delivered until Reset.
func (l *loop) wentBack(ctx context.Context, w, head eventstore.Position) error {
	if err := l.cfg.Store.Check(ctx); err != nil {
		return err
	}
	return fmt.Errorf("feed: position %d was delivered and the log ends at %d: %w", w, head, eventstore.ErrWentBack)
}

// dense checks that a page of the log begins after a position and has no hole.
func dense(after eventstore.Position, page []eventstore.Commit) error {
	next := after + 1
	for i := range page {
		if first := page[i].First(); first != next || len(page[i].Events) == 0 {
			return fmt.Errorf("feed: %w", &eventstore.DamagedError{
				Position: next,
				Reason:   fmt.Sprintf("the next commit holds positions %d to %d", first, page[i].Position),
			})
		}
		next = page[i].Position + 1
	}
	return nil
}

// handleAnswer processes an answer of the log. An error ends the feed.
func (l *loop) handleAnswer(a answer) error {
	l.asking = false
	if a.epoch != l.epoch {
		return nil // asked before a Reset
	}
	switch {
	case a.err == nil:
	case errors.Is(a.err, eventstore.ErrWentBack):
		l.cfg.Logger.Debug("the log went back; nothing is delivered until the loss is accepted", "err", a.err)
		l.lost = a.err
		l.Subscriber.lost.Store(&a.err)
		return nil
	case errors.Is(a.err, eventstore.ErrDamaged), errors.Is(a.err, eventstore.ErrClosed):
		return a.err
	default:
		if !l.failing {
			l.cfg.Logger.Warn("the log cannot be read; retrying", "err", a.err)
			l.failing, l.wait = true, 0
		}
		asked, _ := l.Answered()
		l.Subscriber.answered.Store(&logAnswer{asked: asked, err: a.err})
		l.wait = min(max(retryMin, 2*l.wait), retryMax)
		l.retryAt = time.Now().Add(l.wait)
		return nil
	}
	if l.failing {
		l.cfg.Logger.Info("the log can be read again")
		l.failing = false
	}
	l.Subscriber.answered.Store(&logAnswer{asked: l.lastAsk})
	if !l.started {
		l.begin(a.log, a.end)
		return nil
	}
	if a.ended {
		for _, src := range l.seq.endsAt(a.end) {
			if src != nil {
				l.reject(src, "the log does not have the positions that it claimed")
			}
		}
		if !a.patient {
			l.seq.readUpTo(a.end)
		}
	}
	l.short = len(a.commits) < pageCommits && !a.ended
	if len(a.commits) > 0 {
		last := a.commits[len(a.commits)-1]
		l.seq.offer(run{
			from: a.commits[0].First(), to: last.Position, commits: a.commits,
			events: int(last.Position - a.commits[0].First() + 1),
		})
		l.advance()
	}
	return nil
}
