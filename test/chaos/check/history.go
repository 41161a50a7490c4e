// Package check compares the observations of clients with the log of a cluster, and
// finds violations of the promises of docs/guarantees.md.
//
// It implements the rules of counter and auction, so it can compute the reply of
// each command in any order. For every promise, [Plants] has a fault that breaks
// it and that [Run] must find.
package check

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Outcome is the outcome of a command.
type Outcome uint8

const (
	// Unknown commands got no reply, or only "unknown". The log shows their outcome.
	Unknown Outcome = iota
	// Done commands were acknowledged.
	Done
	// Rejected commands were refused by a rule of the aggregate.
	Rejected
	// Conflict commands were refused because the stream was not at version Expect.
	Conflict
)

// Command is a command with all its attempts, as its client observed it.
type Command struct {
	Client, Stream, Key string
	Name                string // add, open, bid, close
	Amount              int64  // by, reserve, amount
	// ClosesAt is when an opened auction ends; zero after all runs.
	ClosesAt time.Time
	Expect   *uint64
	// Call is the time of the first attempt, Return that of the known outcome, in
	// nanoseconds since the start of the run.
	Call, Return int64
	Outcome      Outcome
	Reason       string // of Rejected
	Version      uint64 // of Done; of Conflict, that of the stream
	Position     uint64 // of Done
	Attempts     int
	// Lane numbers the commands of the client to this stream in the order of their
	// first attempts.
	Lane int
	// Burst is equal for commands that were pipelined together.
	Burst int64
}

// Read is a get with its reply.
type Read struct {
	Client, Stream string
	Strong         bool
	// AtLeast is the requested position, Known the version that the client knew at
	// this position.
	AtLeast, Known uint64
	Call, Return   int64
	Version        uint64
	Position       uint64
	State          State
}

// State is the public state of a counter or an auction.
type State struct {
	Value  int64 // the sum, or the top bid
	Seller string
	Bids   int
}

// Seen is a delivered event.
type Seen struct {
	Position, Version uint64
	Stream, Key       string
	Event             string
	Amount            int64
}

// Mark is a cursor up to which a gateway has delivered everything.
type Mark struct {
	After  int // number of events before it
	Cursor uint64
}

// Subscription is one subscription with all its reconnects.
type Subscription struct {
	Name string
	// One of Stream and Category is set.
	Stream, Category string
	// The subscription must deliver all events after position Begin or version
	// BeginVersion. With Last > 0, it must deliver the Last newest events up to
	// version Live, at which its history ended, and all events after it.
	Begin, BeginVersion uint64
	Last                int
	Live                uint64
	// State is the first item of a subscription with state.
	State        *State
	StateVersion uint64
	Seen         []Seen
	Marks        []Mark
	// Complete is set if it must deliver everything up to the head of the log.
	Complete bool
}

// History has all observations of a run.
type History struct {
	Log           []eventstore.Commit // in order of position
	Commands      []Command
	Reads         []Read
	Subscriptions []Subscription
	// Window is how many rows open_auctions answers with at most.
	Window  int
	Answers []Answer
	Lives   []Live
	Group   Group
	// StoredAt has the times of commits by the database's clock, by position. HasEnds is
	// set if all auctions that close must have ended, and receipts has told of all.
	StoredAt map[eventstore.Position]time.Time
	HasEnds  bool
	// Past is the last position before the process manager receipts began.
	Past eventstore.Position
}

// Anomaly is a broken promise.
type Anomaly struct {
	Promise string
	What    string
}

func (a Anomaly) String() string { return a.Promise + ": " + a.What }

// payload has the members of events on which the states of counters and auctions
// depend.
type payload struct {
	By      *int64 `json:"by"`
	Amount  *int64 `json:"amount"`
	Reserve *int64 `json:"reserve"`
	Seller  string `json:"seller"`
}

// ParseEvent returns the number in an event, and the seller if it opens an auction.
func ParseEvent(data json.RawMessage) (amount int64, seller string, err error) {
	var p payload
	if err := json.Unmarshal(data, &p); err != nil {
		return 0, "", err
	}
	for _, n := range []*int64{p.By, p.Amount, p.Reserve} {
		if n != nil {
			return *n, p.Seller, nil
		}
	}
	return 0, p.Seller, fmt.Errorf("the event has no number: %s", data)
}

// ParseState parses the public state of a counter or an auction.
func ParseState(data json.RawMessage) (State, error) {
	var s struct {
		Value  int64  `json:"value"`
		Seller string `json:"seller"`
		Bids   int    `json:"bids"`
		Top    *struct {
			Amount int64 `json:"amount"`
		} `json:"top"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, err
	}
	if s.Top != nil {
		s.Value = s.Top.Amount
	}
	return State{Value: s.Value, Seller: s.Seller, Bids: s.Bids}, nil
}

// apply returns the state after one more event.
func (s State) apply(event string, amount int64, seller string) State {
	switch event {
	case "added":
		s.Value += amount
	case "opened":
		s.Seller = seller
	case "bid_placed":
		s.Value, s.Bids = amount, s.Bids+1
	}
	return s
}

// decide returns the state after a command of the load, or the reason for its
// rejection. Reserves are 1, and auctions that close are not in the model, so the rules
// about them are missing.
func (s State) decide(c Command) (State, string) {
	switch c.Name {
	case "add":
		if c.Amount == 0 {
			return s, "zero"
		}
		return s.apply("added", c.Amount, ""), ""
	case "open":
		if s.Seller != "" {
			return s, "already_open"
		}
		return s.apply("opened", c.Amount, c.Client), ""
	case "bid":
		switch {
		case s.Seller == "":
			return s, "not_open"
		case s.Seller == c.Client:
			return s, "own_auction"
		case s.Bids > 0 && c.Amount <= s.Value:
			return s, "too_low"
		}
		return s.apply("bid_placed", c.Amount, ""), ""
	}
	return s, "unknown command " + c.Name
}

// event returns the name of a command's event.
func (c Command) event() string {
	return map[string]string{"add": "added", "open": "opened", "bid": "bid_placed", "close": "closed"}[c.Name]
}
