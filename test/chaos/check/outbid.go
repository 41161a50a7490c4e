package check

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ganglion-es/ganglion/eventstore"
)

// The names of the promises about the process manager outbid in anomalies.
const (
	Told        = "each bidder who was outbid is told once"
	ToldInOrder = "a bidder is told in the order of the bids"
)

// A notice is what outbid must tell a bidder.
type notice struct {
	stream, key, text string
	cause             eventstore.Position
}

// notices returns what outbid must have told for a log, by stream and key. Auctions
// of the load end in 2099, or have one bidder, so it reminds no bidder.
func notices(log []eventstore.Commit) map[string]notice {
	due, top := map[string]notice{}, map[string]string{}
	for i := range log {
		commit := &log[i]
		for j, e := range commit.Events {
			if commit.Stream.Type != "auction" || e.Type != "bid_placed" {
				continue
			}
			var bid struct {
				Bidder string `json:"bidder"`
			}
			if json.Unmarshal(e.Data, &bid) != nil {
				continue // ParseEvent reports it
			}
			id, before := commit.Stream.ID, top[commit.Stream.ID]
			if top[id] = bid.Bidder; before == "" || before == bid.Bidder {
				continue
			}
			n := notice{stream: "client/" + before, text: "you were outbid in auction " + id, cause: commit.First() + eventstore.Position(j)}
			n.key = fmt.Sprintf("~outbid:%d.0:0", n.cause)
			due[n.id()] = n
		}
	}
	return due
}

func (n notice) id() string { return id(n.stream, n.key) }

// isOfSystem reports whether no client has sent a commit's command.
func isOfSystem(c *eventstore.Commit) bool { return strings.HasPrefix(c.Key, "~") }

// isNotice reports whether a commit's command is that of the system, but neither of a
// wake-up nor of receipts: then it must be that of outbid.
func isNotice(c *eventstore.Commit) bool { return isOfSystem(c) && !isWakeUp(c) && !isReceipt(c) }

// Untold returns how many bidders were outbid and have not been told yet.
func Untold(log []eventstore.Commit) int {
	due := notices(log)
	for i := range log {
		delete(due, id(log[i].Stream.String(), log[i].Key))
	}
	return len(due)
}

// outbids checks what the process manager outbid has told.
func (c *checker) outbids() {
	due := notices(c.history.Log)
	last := map[string]notice{} // by stream
	for i := range c.history.Log {
		commit := &c.history.Log[i]
		if !isNotice(commit) {
			continue
		}
		n, ok := due[id(commit.Stream.String(), commit.Key)]
		if !ok {
			c.found(Ours, "%v: no event caused the command at position %d with key %s", commit.Stream, commit.Position, commit.Key)
			continue
		}
		delete(due, n.id())
		var told struct{ From, Text string }
		if len(commit.Events) != 1 || json.Unmarshal(commit.Events[0].Data, &told) != nil || told.From != "~outbid" || told.Text != n.text {
			c.found(Told, "%s: %s should say %q, but is stored as %v", n.stream, n.key, n.text, commit.Events)
		}
		if before := last[n.stream]; before.cause > n.cause {
			c.found(ToldInOrder, "%s was told of the bid at %d before the one at %d", n.stream, before.cause, n.cause)
		}
		last[n.stream] = n
	}
	for _, n := range due {
		c.found(Told, "%s was not told %q, with the key %s", n.stream, n.text, n.key)
	}
}
