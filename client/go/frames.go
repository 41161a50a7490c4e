package ganglion

import (
	"cmp"
	"encoding/json"
	"time"
)

// subprotocol is the WebSocket subprotocol of these frames; docs/protocol.md
// says what they mean.
const subprotocol = "ganglion.v1"

type helloFrame struct {
	Op            string           `json:"op"`
	ID            string           `json:"id"`
	Token         string           `json:"token,omitempty"`
	Client        string           `json:"client,omitempty"`
	Log           string           `json:"log,omitempty"`
	Subscriptions []subscribeFrame `json:"subscriptions,omitempty"`
}

type commandFrame struct {
	Op        string  `json:"op"`
	ID        string  `json:"id"`
	Aggregate string  `json:"aggregate"`
	Command   string  `json:"command"`
	Data      any     `json:"data"`
	Key       string  `json:"key"`
	Expect    *uint64 `json:"expect,omitempty"`
	TimeoutMS int64   `json:"timeout_ms,omitempty"`
	Trace     string  `json:"trace,omitempty"`
}

type getFrame struct {
	Op        string `json:"op"`
	ID        string `json:"id"`
	Aggregate string `json:"aggregate"`
	AtLeast   uint64 `json:"at_least,omitempty"`
	Strong    bool   `json:"strong,omitempty"`
}

type subscribeFrame struct {
	Op string `json:"op"`
	ID string `json:"id"`
	topic
	start
}

// topic is what a subscription is to: one of the two.
type topic struct {
	Stream   string `json:"stream,omitempty"`
	Category string `json:"category,omitempty"`
}

// start is where a subscription begins: at most one of these, now with none.
type start struct {
	After  *uint64 `json:"after,omitempty"`
	Cursor string  `json:"cursor,omitempty"`
	Last   uint64  `json:"last,omitempty"`
	State  bool    `json:"state,omitempty"`
}

// smallFrame is an unsubscribe, an auth or a ping.
type smallFrame struct {
	Op    string `json:"op"`
	ID    string `json:"id"`
	Sub   string `json:"sub,omitempty"`
	Token string `json:"token,omitempty"`
}

// answer has the members of everything that a gateway sends.
type answer struct {
	Op  string `json:"op"`
	ID  string `json:"id"`
	Sub string `json:"sub"`
	item
	KnownVersion *uint64 `json:"version"`

	Key      string `json:"key"`
	Replayed bool   `json:"replayed"`

	Code    Code   `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Retry   Retry  `json:"retry"`
	AfterMS *int64 `json:"after_ms"`
	Field   string `json:"field"`

	Log         string `json:"log"`
	HeartbeatMS int64  `json:"heartbeat_ms"`
	Limits      limits `json:"limits"`

	Behind []struct {
		Sub    string `json:"sub"`
		Cursor string `json:"cursor"`
	} `json:"behind"`

	InMS          int64 `json:"in_ms"`
	ReconnectInMS int64 `json:"reconnect_in_ms"`
}

type limits struct {
	FrameBytes   int `json:"frame_bytes"`
	OpenRequests int `json:"open_requests"`
}

// item is what an application gets of an event, a state or a "live".
type item struct {
	kind     Kind
	Stream   string          `json:"stream"`
	Version  uint64          `json:"-"` // answer.KnownVersion
	Position uint64          `json:"position"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	Time     time.Time       `json:"time"`
	Cause    string          `json:"cause"`
	By       string          `json:"by"`
	Cursor   string          `json:"cursor"`
}

// failure is an error frame, or an "unsubscribed" that comes unasked, as an
// error.
func (a *answer) failure() *Error {
	return &Error{
		Code: cmp.Or(a.Code, CodeProtocol), Message: a.Message, Retry: cmp.Or(a.Retry, RetryNo), Reason: a.Reason,
		Key: a.Key, Field: a.Field, Version: a.Version, Replayed: a.Replayed,
	}
}

// after is how long a server asks to wait, and whether it does.
func (a *answer) after() (time.Duration, bool) {
	if a.AfterMS == nil {
		return 0, false
	}
	return time.Duration(*a.AfterMS) * time.Millisecond, true
}

func parse(line []byte) (*answer, error) {
	a := new(answer)
	if err := json.Unmarshal(line, a); err != nil {
		return nil, err
	}
	if a.KnownVersion != nil {
		a.Version = *a.KnownVersion
	}
	return a, nil
}

// encode writes a frame of the client's own, which always can be written.
func encode(frame any) []byte {
	text, err := json.Marshal(frame)
	if err != nil {
		panic(err) // frames are made of strings and numbers
	}
	return text
}
