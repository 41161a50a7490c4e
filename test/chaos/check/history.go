// Package check decides whether what clients saw of a cluster, and what stands
// in its log afterwards, keep the promises of docs/guarantees.md.
//
// It knows the rules of the counter and the auction, so that it can say for
// any order of commands what each must have answered. Every promise has a
// planted fault (Plants) that breaks it and that Run must find.
package check

import (
	"encoding/json"
	"fmt"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Outcome is what became of a command.
type Outcome uint8

const (
	// Unknown commands were never answered, or only "unknown". The log says
	// what became of them.
	Unknown Outcome = iota
	// Done commands were acknowledged.
	Done
	// Rejected commands got a business "no".
	Rejected
	// Conflict commands were refused since the stream was not at Expect.
	Conflict
)

// Command is one command as its client saw it, all its attempts together.
type Command struct {
	Client, Stream, Key string
	Name                string // add, open, bid
	Amount              int64  // by, reserve, amount
	Expect              *uint64
	// Call and Return are when it was first sent and when its outcome was
	// known, in nanoseconds since the run began.
	Call, Return int64
	Outcome      Outcome
	Reason       string // of Rejected
	Version      uint64 // of Done, and of Conflict what the stream was at
	Position     uint64 // of Done
	Attempts     int
	// Lane counts the client's commands to this stream, in the order in which
	// they were sent for the first time.
	Lane int
	// Burst is the same for commands that were pipelined together.
	Burst int64
}

// Read is one answered get.
type Read struct {
	Client, Stream string
	Strong         bool
	// AtLeast is the position that the client asked for, Known the version
	// that it knew to be there.
	AtLeast, Known uint64
	Call, Return   int64
	Version        uint64
	Position       uint64
	State          State
}

// State is what a counter or an auction shows.
type State struct {
	Value  int64 // the sum, or the top bid
	Seller string
	Bids   int
}

// Seen is an event as a subscription delivered it.
type Seen struct {
	Position, Version uint64
	Stream, Key       string
	Event             string
	Amount            int64
}

// Mark is a cursor with which a gateway said that it had delivered everything
// up to there.
type Mark struct {
	After  int // so many events had come
	Cursor uint64
}

// Subscription is one subscription with all its reconnects.
type Subscription struct {
	Name string
	// Stream or Category is what it follows.
	Stream, Category string
	// Begin is the position behind which it is owed everything, BeginVersion
	// the version, if it named that. Last > 0 asks for so many newest events
	// instead, and Live is then the version at which history ended.
	Begin, BeginVersion uint64
	Last                int
	Live                uint64
	// State is what a subscription with state got first.
	State        *State
	StateVersion uint64
	Seen         []Seen
	Marks        []Mark
	// Complete says that it is owed everything up to the head of the log.
	Complete bool
}

// History is everything that a run left behind.
type History struct {
	Log           []eventstore.Commit // in order of position
	Commands      []Command
	Reads         []Read
	Subscriptions []Subscription
}

// Anomaly is a broken promise.
type Anomaly struct {
	Promise string // which one
	What    string
}

func (a Anomaly) String() string { return a.Promise + ": " + a.What }

// payload is what the events of counters and auctions hold, as far as their
// states depend on it.
type payload struct {
	By      *int64 `json:"by"`
	Amount  *int64 `json:"amount"`
	Reserve *int64 `json:"reserve"`
	Seller  string `json:"seller"`
}

// ParseEvent reads the number that an event carries, and the seller that an
// opening names.
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
	return 0, p.Seller, fmt.Errorf("an event without a number: %s", data)
}

// ParseState reads what a counter or an auction shows.
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

// apply is a state after one more event.
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

// decide says what a command of the load must answer in a state: the state
// after it, or the reason of its rejection. Reserves are 1 and auctions never
// close, so that those rules have no say.
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

// event is the stored name of what a command does.
func (c Command) event() string {
	return map[string]string{"add": "added", "open": "opened", "bid": "bid_placed"}[c.Name]
}
