package command

import "sync/atomic"

// Lane is a command's place among those of one session to one aggregate that
// were sent without waiting for each other's answers. Such commands keep their
// order: once one of them was refused, so that it will be sent again, those
// behind it must not be executed before that.
//
// The router makes lanes, and calls Refuse before the answer to a refused
// command returns. Whoever executes commands asks Refusal right before it
// begins one. A nil Lane is one that nothing was refused on. A Lane is safe
// for concurrent use.
type Lane struct {
	first *atomic.Pointer[refusal] // shared by the lane
	place uint64
}

type refusal struct {
	place   uint64
	failure *Failure
}

// NewLane returns the first place of a lane.
func NewLane() *Lane { return &Lane{first: new(atomic.Pointer[refusal])} }

// Next returns the place behind this one.
func (l *Lane) Next() *Lane { return &Lane{first: l.first, place: l.place + 1} }

// Refuse says that the command at this place was refused; the failure is what
// those behind it are to be answered with.
func (l *Lane) Refuse(f *Failure) {
	if l == nil {
		return
	}
	mine := &refusal{place: l.place, failure: f}
	for {
		first := l.first.Load()
		if first != nil && first.place <= l.place || l.first.CompareAndSwap(first, mine) {
			return
		}
	}
}

// Refused tells whether a command at any place of the lane was refused.
func (l *Lane) Refused() bool { return l != nil && l.first.Load() != nil }

// Refusal returns the failure to answer the command at this place with, or nil
// if it may be executed.
func (l *Lane) Refusal() *Failure {
	if l == nil {
		return nil
	}
	if first := l.first.Load(); first != nil && first.place < l.place {
		return first.failure
	}
	return nil
}
