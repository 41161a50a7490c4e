package waker

import (
	"encoding/json"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Name is the name of the built-in command that asks the owner of a stream whether it
// must be woken. It is also the command's client and key. No aggregate can have it.
const Name = "~wake"

// A Question is the command's data.
type Question struct {
	// Now is the clock of the sender's database, in microseconds since 1970.
	Now int64 `json:"now"`
	// Version is that of the stream, as far as the sender knows.
	Version eventstore.Version `json:"version"`
}

// An Answer is the data of the command's result, whose version is that of the state
// which answers.
type Answer struct {
	// Due is when the stream asks to be woken next, in microseconds since 1970; 0 for
	// never.
	Due int64 `json:"due,omitempty"`
	// Woken reports that events were stored. Refused reports that the command for
	// which the state asks had no events, and Reason why.
	Woken   bool   `json:"woken,omitempty"`
	Refused bool   `json:"refused,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// Encode returns the answer as JSON.
func (a Answer) Encode() json.RawMessage {
	raw, err := json.Marshal(a)
	if err != nil {
		panic(err) // numbers, booleans and a string always encode
	}
	return raw
}
