package stomp

import (
	"bytes"

	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
)

// transactions are the frames that wait for COMMIT. Then they are handled in their
// order, one after another: a transaction is not atomic, since its commands may be for
// several aggregates.
type transactions struct {
	frames map[string][]*Frame
	bytes  int // of all frames
}

// frameOverhead is what a held frame takes besides its texts, in bytes.
const frameOverhead = 128

// size returns the bytes that a held frame takes.
func size(f *Frame) int {
	n := frameOverhead + len(f.Body)
	for _, h := range f.Headers {
		n += len(h.Name) + len(h.Value) + 32
	}
	return n
}

// add holds a frame.
func (t *transactions) add(name string, f *Frame, most int) *command.Failure {
	held, ok := t.frames[name]
	if !ok {
		return command.BadRequest("transaction", "there is no transaction %s: send BEGIN first", command.Quote(name))
	}
	if t.bytes += size(f); t.bytes > most {
		return command.TooLarge("the frames of open transactions have more than %d bytes: commit smaller transactions", most)
	}
	f.Body = bytes.Clone(f.Body) // it may share the memory of the message
	t.frames[name] = append(held, f)
	return nil
}

// take ends a transaction, and returns its frames.
func (t *transactions) take(name string) (frames []*Frame, ok bool) {
	frames, ok = t.frames[name]
	for _, f := range frames {
		t.bytes -= size(f)
	}
	delete(t.frames, name)
	return frames, ok
}

// begin begins a transaction.
func (t *transactions) begin(name string) *command.Failure {
	_, isOpen := t.frames[name]
	switch {
	case isOpen:
		return command.BadRequest("transaction", "the transaction %s has begun: COMMIT or ABORT it first", command.Quote(name))
	case len(t.frames) == maxTransactions:
		return command.RateLimited(0, "a session has at most %d open transactions: COMMIT or ABORT one first", maxTransactions)
	case t.frames == nil:
		t.frames = make(map[string][]*Frame)
	}
	t.frames[name] = nil
	return nil
}

// transact handles BEGIN, COMMIT and ABORT.
func (w *Wire) transact(f *Frame, h wire.Handler) (more bool, failure *refusal) {
	receipt := get(f, "receipt")
	name, hasName := f.Get("transaction")
	var failed *command.Failure
	var frames []*Frame
	switch {
	case !hasName:
		failed = command.BadRequest("transaction", "%s has no header transaction: name the transaction", f.Command)
	case f.Command == "BEGIN":
		failed = w.held.begin(name)
	default:
		var ok bool
		if frames, ok = w.held.take(name); !ok {
			failed = command.BadRequest("transaction", "there is no transaction %s: send BEGIN first", command.Quote(name))
		}
	}
	if failed != nil {
		return false, &refusal{failure: failed, receipt: receipt}
	}
	if f.Command == "COMMIT" {
		for _, held := range frames {
			var more bool
			if held.Command == "SEND" {
				more, failure = w.send(held, h)
			} else {
				more, failure = w.acknowledge(held, h)
			}
			if !more {
				return false, failure
			}
		}
	}
	return w.confirm(h, pending{receipt: receipt})
}
