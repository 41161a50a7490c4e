package check

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ganglion-es/ganglion/eventstore"
)

// The names of the promises about the process manager receipts in anomalies.
const (
	ReceiptOnce    = "an event causes one command, by one build"
	ReceiptNotPast = "a process manager sends nothing for the past"
	ReceiptAll     = "each event since the first command causes one"
)

// Receipts is the name of the process manager that the later releases of the nodes'
// program have. It tells Office of each opened auction. Each release has a build of its
// own, and an office of its own.
const Receipts = "receipts"

// Office returns the id of the client that a release tells.
func Office(release int) string { return fmt.Sprint(Receipts, "-", release) }

// isReceipt reports whether a commit's command is that of receipts.
func isReceipt(c *eventstore.Commit) bool {
	return c.Stream.Type == "client" && strings.HasPrefix(c.Key, "~"+Receipts+":")
}

// openings returns the auctions that were opened, by the position of the event.
func openings(log []eventstore.Commit) map[eventstore.Position]string {
	all := map[eventstore.Position]string{}
	for i := range log {
		for j, e := range log[i].Events {
			if log[i].Stream.Type == "auction" && e.Type == "opened" {
				all[log[i].First()+eventstore.Position(j)] = log[i].Stream.ID
			}
		}
	}
	return all
}

// causeOf returns the position of the event that caused a command of receipts.
func causeOf(c *eventstore.Commit) (cause eventstore.Position) {
	_, _ = fmt.Sscanf(strings.TrimPrefix(c.Key, "~"+Receipts+":"), "%d.", &cause) // 0 is no position
	return cause
}

// missingReceipts returns the openings since the first one with a receipt that have none.
func missingReceipts(log []eventstore.Commit) map[eventstore.Position]string {
	due := openings(log)
	first := eventstore.Position(0)
	for i := range log {
		if c := &log[i]; isReceipt(c) {
			cause := causeOf(c)
			delete(due, cause)
			if first == 0 || cause < first {
				first = cause
			}
		}
	}
	for p := range due {
		if p < first || first == 0 {
			delete(due, p)
		}
	}
	return due
}

// Unreceipted returns how many auctions receipts has not told yet.
func Unreceipted(log []eventstore.Commit) int { return len(missingReceipts(log)) }

// receipts checks what the process manager receipts has told.
func (c *checker) receipts() {
	opened, told := openings(c.history.Log), map[eventstore.Position]*eventstore.Commit{}
	for i := range c.history.Log {
		commit := &c.history.Log[i]
		if !isReceipt(commit) {
			continue
		}
		c.h.Receipts++
		cause := causeOf(commit)
		id, ok := opened[cause]
		var notified struct{ From, Text string }
		if len(commit.Events) != 1 || json.Unmarshal(commit.Events[0].Data, &notified) != nil || !ok || notified.Text != id ||
			notified.From != "~"+Receipts || commit.Key != fmt.Sprintf("~%s:%d.0:0", Receipts, cause) {
			c.found(ReceiptOnce, "%v: no event caused the command at position %d with key %s", commit.Stream, commit.Position, commit.Key)
			continue
		}
		if other := told[cause]; other != nil {
			c.found(ReceiptOnce, "the event at position %d caused commands to %v and to %v", cause, other.Stream, commit.Stream)
		}
		told[cause] = commit
		if cause <= c.history.Past {
			c.found(ReceiptNotPast, "%v was told of the event at position %d, although receipts began after position %d", commit.Stream, cause, c.history.Past)
		}
	}
	if !c.history.HasEnds {
		return
	}
	for p, id := range missingReceipts(c.history.Log) {
		c.found(ReceiptAll, "receipts did not tell of auction %s, which was opened at position %d", id, p)
	}
}
