package command

import "sync/atomic"

// Ticket is the place of a command in a series: the commands of one lane that an
// executor has at the same time. They keep their order: if one is refused and
// will be sent again, the executor must not begin commands with later tickets.
//
// The router makes tickets, and calls Refuse before it acts on the answer to a
// refused command. An executor calls Refusal right before it begins a command.
// A Ticket is safe for concurrent use, and a nil Ticket is never refused.
type Ticket struct {
	first *atomic.Pointer[refusal] // earliest refusal, shared by all tickets of the series
	place uint64
}

type refusal struct {
	place   uint64
	failure *Failure
}

// NewTicket returns the first ticket of a series.
func NewTicket() *Ticket { return &Ticket{first: new(atomic.Pointer[refusal])} }

// Next returns the ticket after this one.
func (t *Ticket) Next() *Ticket { return &Ticket{first: t.first, place: t.place + 1} }

// Refuse records that the command with this ticket was refused. Executors must
// answer commands with later tickets with f.
func (t *Ticket) Refuse(f *Failure) {
	if t == nil {
		return
	}
	mine := &refusal{place: t.place, failure: f}
	for {
		first := t.first.Load()
		if first != nil && first.place <= t.place || t.first.CompareAndSwap(first, mine) {
			return
		}
	}
}

// Refused reports whether a command with any ticket of the series was refused.
func (t *Ticket) Refused() bool { return t != nil && t.first.Load() != nil }

// Refusal returns the failure to answer the command with, or nil if the
// executor may begin it.
func (t *Ticket) Refusal() *Failure {
	if t == nil {
		return nil
	}
	if first := t.first.Load(); first != nil && first.place < t.place {
		return first.failure
	}
	return nil
}
