package router

import (
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// warnEvery is the shortest time between two warnings that commands are
	// answered unavailable.
	warnEvery = 10 * time.Second
	// outageOver is the time after the last unavailable answer until an outage
	// counts as over.
	outageOver = 5 * time.Second
)

// outage logs the first of this node's sessions' commands that is answered
// unavailable, and the first one after it that is executed.
type outage struct {
	warnedAt  atomic.Int64 // time of the last warning, in Unix nanoseconds; 0 once the end was logged
	refusedAt atomic.Int64 // time of the last unavailable answer, in Unix nanoseconds
}

// note records an answer right before it is delivered.
func (o *outage) note(r *Router, out command.Outcome) {
	switch f := out.Failure; {
	case f == nil && out.Result.Position > 0 && !out.Result.Replayed:
		o.noteExecuted(r)
	case f != nil && f.Code == command.CodeUnavailable:
		o.noteUnavailable(r, f)
	}
}

func (o *outage) noteUnavailable(r *Router, f *command.Failure) {
	now, last := time.Now().UnixNano(), o.warnedAt.Load()
	o.refusedAt.Store(now)
	if r.closed.Load() || last != 0 && now-last < int64(warnEvery) || !o.warnedAt.CompareAndSwap(last, now) {
		return
	}
	facts := []any{"reason", f.Message, "retry", string(f.Retry), "so_far", r.count.unavailable.Load()}
	if f.Cause != "" {
		facts = append(facts, "err", f.Cause)
	}
	r.cfg.Logger.Warn("commands are answered unavailable", facts...)
}

func (o *outage) noteExecuted(r *Router) {
	warned := o.warnedAt.Load()
	if warned == 0 || time.Now().UnixNano()-o.refusedAt.Load() < int64(outageOver) || !o.warnedAt.CompareAndSwap(warned, 0) {
		return
	}
	r.cfg.Logger.Info("commands are answered again", "so_far", r.count.unavailable.Load())
}
