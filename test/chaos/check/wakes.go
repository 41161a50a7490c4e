package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// The names of the promises about wake-ups in anomalies.
const (
	EndOnce  = "an auction ends once, as its state says"
	EndInDue = "an auction does not end by itself before its closing time, by the database's clock"
	EndAll   = "an auction ends once its closing time has passed"
)

// wakeClient is the client of wake-ups, and with a colon the beginning of their keys.
const wakeClient = "~wake"

// openUntil is the least closing time of auctions that the load does not let end.
var openUntil = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC)

// isWakeUp reports whether a commit's command is that of a wake-up of an auction.
func isWakeUp(c *eventstore.Commit) bool {
	return c.Stream.Type == "auction" && strings.HasPrefix(c.Key, wakeClient+":")
}

// An auction is one that ends during the run, folded from the log.
type auction struct {
	closes time.Time
	top    closing
	ended  bool
}

// closing has the members of events that concern the end of an auction. Each event has
// some of them.
type closing struct {
	ClosesAt time.Time `json:"closes_at"`
	Bidder   string    `json:"bidder"`
	Winner   string    `json:"winner"`
	Amount   int64     `json:"amount"`
}

// closingTimes returns when the auctions of a log close, without the ones that outlive the
// run.
func closingTimes(log []eventstore.Commit) map[eventstore.StreamID]time.Time {
	all := map[eventstore.StreamID]time.Time{}
	for i := range log {
		c := &log[i]
		for _, e := range c.Events {
			var data closing
			if c.Stream.Type == "auction" && e.Type == "opened" && json.Unmarshal(e.Data, &data) == nil && data.ClosesAt.Before(openUntil) {
				all[c.Stream] = data.ClosesAt
			}
		}
	}
	return all
}

// Open returns how many auctions of a log are to end and have not.
func Open(log []eventstore.Commit) int {
	open := closingTimes(log)
	for i := range log {
		if slices.ContainsFunc(log[i].Events, func(e eventstore.Event) bool { return e.Type == "closed" }) {
			delete(open, log[i].Stream)
		}
	}
	return len(open)
}

// ends checks how auctions end.
func (c *checker) ends() {
	auctions := map[eventstore.StreamID]*auction{}
	for i := range c.history.Log {
		commit := &c.history.Log[i]
		if commit.Stream.Type != "auction" {
			continue
		}
		for j, e := range commit.Events {
			var data closing
			if json.Unmarshal(e.Data, &data) != nil {
				continue // ParseEvent reports it
			}
			a := auctions[commit.Stream]
			if e.Type == "opened" {
				a = &auction{closes: data.ClosesAt}
				auctions[commit.Stream] = a
			}
			switch {
			case a == nil:
			case e.Type == "bid_placed":
				a.top = data
			case e.Type == "closed":
				c.end(commit, commit.FirstVersion()+eventstore.Version(j), a, data)
				a.ended = true
			}
		}
	}
	for stream, a := range auctions {
		if a.closes.Before(openUntil) {
			c.streamsThatEnd[stream.String()] = true
			if c.h.Ends++; c.history.HasEnds && !a.ended {
				c.found(EndAll, "%v, which closes at %v, has not ended", stream, a.closes)
			}
		}
	}
}

// end checks one end of an auction.
func (c *checker) end(commit *eventstore.Commit, version eventstore.Version, a *auction, data closing) {
	if a.ended {
		c.found(EndOnce, "%v ended again at position %d, with the key %s", commit.Stream, commit.Position, commit.Key)
	}
	if data.Winner != a.top.Bidder || data.Amount != a.top.Amount {
		c.found(EndOnce, "%v ended with the winner %q for %d, want %q for %d", commit.Stream, data.Winner, data.Amount, a.top.Bidder, a.top.Amount)
	}
	if !isWakeUp(commit) {
		return // by its seller
	}
	c.h.WokenUp++
	if want := fmt.Sprint(wakeClient, ":", version-1); commit.Key != want || commit.Meta.Client != wakeClient {
		c.found(EndOnce, "%v was woken at version %d by %q with the key %s, want %s", commit.Stream, version, commit.Meta.Client, commit.Key, want)
	}
	if commit.At.Before(a.closes) {
		c.found(EndInDue, "%v, which closes at %v, ended at %v", commit.Stream, a.closes, commit.At)
	}
	stored, ok := c.history.StoredAt[commit.Position]
	if !ok {
		return
	}
	if stored.Before(a.closes) {
		c.found(EndInDue, "%v, which closes at %v, ended when the database's clock was %v", commit.Stream, a.closes, stored)
	}
	c.h.LatestEnd = max(c.h.LatestEnd, stored.Sub(a.closes))
}
