package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

// reports records earlier log lines, so that the host does not repeat them.
type reports struct {
	panics  sync.Map     // of *rate.Sometimes, by place
	forms   sync.Map     // of formKey
	codes   sync.Map     // of *rate.Sometimes, by aggregate type
	outage  atomic.Int64 // when the store last refused a unit, in Unix nanoseconds; 0 while it accepts units
	clockAt atomic.Int64 // when clockDue last returned true, in Unix nanoseconds
}

// clockDue reports whether to log a wrong clock now. It returns true once every
// maxAhead.
func (r *reports) clockDue() bool {
	last := r.clockAt.Load()
	return time.Since(time.Unix(0, last)) > maxAhead && r.clockAt.CompareAndSwap(last, time.Now().UnixNano())
}

// outageEnd is the time without a refused unit after which an outage is over. A
// disk that is almost full accepts a unit now and then.
const outageEnd = 5 * time.Second

// reportOutage logs once that the store accepts no commands, and once that it
// stores events again. The failures that clients see do not contain the error.
func (h *Host) reportOutage(appended eventstore.Appended, err error) {
	switch {
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrUnknown):
		if h.reports.outage.Swap(time.Now().UnixNano()) == 0 {
			h.log.Warn("the store accepts no commands; sending them to other nodes", "err", err)
		}
	case err == nil && appended.Stored():
		last := h.reports.outage.Load()
		if last != 0 && time.Now().UnixNano()-last >= int64(outageEnd) && h.reports.outage.CompareAndSwap(last, 0) {
			h.log.Info("the store accepts commands again")
		}
	}
}

// formKey is a stored form of an event that differs from the program's
// declaration.
type formKey struct {
	typ, event string
	form       int
	misread    bool
}

// reportForm logs a stored form that differs from the program's declaration,
// once for each form.
func (h *Host) reportForm(s eventstore.StreamID, e *eventstore.Event, version eventstore.Version, wrong *aggregate.FormError) {
	if _, logged := h.reports.forms.LoadOrStore(formKey{s.Type, e.Type, e.Form, wrong.Misread()}, true); logged {
		return
	}
	level, message := slog.LevelWarn, "a stored event has members that this program ignores"
	if wrong.Misread() {
		level, message = slog.LevelError, "this program would misread a stored event; leaving the aggregate to other nodes"
	}
	h.log.Log(context.Background(), level, message, "stream", s, "version", version,
		"event", e.Type, "form", wrong.Form, "unknown", wrong.Unknown, "missing", wrong.Missing, "err", wrong)
}

// reportRejection logs a rejection whose code the type does not declare: ten for each
// type, and then one a minute.
func (h *Host) reportRejection(s eventstore.StreamID, rejection *aggregate.Rejection, j *job) {
	sometimes, ok := h.reports.codes.Load(s.Type)
	if !ok {
		sometimes, _ = h.reports.codes.LoadOrStore(s.Type, &rate.Sometimes{First: 10, Interval: time.Minute})
	}
	sometimes.(*rate.Sometimes).Do(func() {
		h.log.Warn("a rejection has a code that its aggregate type does not declare; add it to its Rejections",
			"stream", s, "reason", rejection.Code, "key", j.Key, "command", j.Name)
	})
}

// reportFault logs a fault of the program. A client can cause the same panic
// with each command that it sends, so for each place the first ten panics are
// logged, and then one a second.
func (h *Host) reportFault(s eventstore.StreamID, doing string, err error, jobs []*job) {
	log := h.log.With("stream", s)
	switch len(jobs) {
	case 0:
	case 1:
		log = log.With("key", jobs[0].Key, "command", jobs[0].Name, "client", jobs[0].Client)
	default:
		log = log.With("keys", keysOf(jobs))
	}
	var p *panicError
	if !errors.As(err, &p) {
		log.Error(doing+" failed", "err", err)
		return
	}
	place := doing + " of " + s.Type
	if len(jobs) == 1 {
		place += " " + jobs[0].Name
	}
	sometimes, ok := h.reports.panics.Load(place)
	if !ok {
		sometimes, _ = h.reports.panics.LoadOrStore(place, &rate.Sometimes{First: 10, Interval: time.Second})
	}
	sometimes.(*rate.Sometimes).Do(func() {
		log.Error(doing+": application code panicked", "panic", p.value, "stack", string(p.stack))
	})
}

// keysOf returns the keys of the first 16 jobs, which is enough to find them.
func keysOf(jobs []*job) []string {
	const most = 16
	keys := make([]string, 0, min(len(jobs), most))
	for _, j := range jobs[:min(len(jobs), most)] {
		keys = append(keys, j.Key)
	}
	return keys
}
