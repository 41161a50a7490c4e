package command

import "sync/atomic"

// Lane joins the commands of one session to one aggregate that were sent
// without waiting for each other's answers. Such commands keep their order:
// once one of them was refused unexecuted, because its owner is busy or
// leaves, those behind it must not be executed either.
//
// The router makes lanes, and calls Refuse before the answer to a refused
// command returns. Whoever executes commands asks Refusal right before it
// begins one. A nil Lane is one that nothing was refused on. A Lane is safe
// for concurrent use.
type Lane struct {
	refusal atomic.Pointer[Failure]
}

// Refuse marks the lane; the first refusal stays.
func (l *Lane) Refuse(f *Failure) {
	if l != nil {
		l.refusal.CompareAndSwap(nil, f)
	}
}

// Refusal returns the failure to answer a command of the lane with, or nil if
// it may be executed.
func (l *Lane) Refusal() *Failure {
	if l == nil {
		return nil
	}
	return l.refusal.Load()
}
