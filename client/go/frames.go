package ganglion

import (
	"cmp"
	"encoding/json"
	"time"
)

// subprotocol is the WebSocket subprotocol of these frames, which
// docs/protocol.md defines.
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

// subscribeFrame is a subscribe or a consume.
type subscribeFrame struct {
	Op string `json:"op"`
	ID string `json:"id"`
	topic
	start
	Query   string          `json:"query,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	AtLeast uint64          `json:"at_least,omitempty"`

	// Of consume.
	Group  string `json:"group,omitempty"`
	Member string `json:"member,omitempty"`
	Window int    `json:"window,omitempty"`
}

// segmentFrame is an ack or a park.
type segmentFrame struct {
	Op       string `json:"op"`
	ID       string `json:"id,omitempty"`
	Sub      string `json:"sub"`
	Segment  string `json:"segment"`
	Epoch    uint64 `json:"epoch"`
	Cursor   string `json:"cursor,omitempty"`
	Position uint64 `json:"position,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

type queryFrame struct {
	Op        string          `json:"op"`
	ID        string          `json:"id"`
	Query     string          `json:"query"`
	Data      json.RawMessage `json:"data"`
	AtLeast   uint64          `json:"at_least,omitempty"`
	TimeoutMS int64           `json:"timeout_ms,omitempty"`
	After     string          `json:"after,omitempty"`
}

// topic is the stream or the category of a subscription.
type topic struct {
	Stream   string `json:"stream,omitempty"`
	Category string `json:"category,omitempty"`
}

// start is where a subscription begins, and which states it sends. At most one of
// After, Cursor and Last is set; if none is, the subscription begins with the next
// event.
type start struct {
	After  *uint64 `json:"after,omitempty"`
	Cursor string  `json:"cursor,omitempty"`
	Last   uint64  `json:"last,omitempty"`

	State stateMode `json:"state,omitempty"`
}

// stateMode is which states of its aggregate a stream's subscription sends.
type stateMode string

const (
	stateFirst stateMode = "true" // then the events after it
	stateEach  stateMode = "each" // the newest after the events
	stateOnly  stateMode = "only" // the newest, without the events
)

// MarshalJSON returns true for stateFirst, and a string otherwise.
func (m stateMode) MarshalJSON() ([]byte, error) {
	if m == stateFirst {
		return []byte("true"), nil
	}
	return json.Marshal(string(m))
}

// isNow reports whether the subscription begins with the next event.
func (s start) isNow() bool {
	return s.After == nil && s.Cursor == "" && s.Last == 0 && s.State != stateFirst
}

// smallFrame is an unsubscribe, an auth or a ping.
type smallFrame struct {
	Op    string `json:"op"`
	ID    string `json:"id"`
	Sub   string `json:"sub,omitempty"`
	Token string `json:"token,omitempty"`
}

// gatewayFrame has the members of all frames that a gateway sends.
type gatewayFrame struct {
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

	Rows    []rowFrame `json:"rows"`
	Keys    []string   `json:"keys"`
	Rank    string     `json:"rank"`
	Gone    bool       `json:"gone"`
	Blocked int        `json:"blocked"`

	Segment     string `json:"segment"`
	Epoch       uint64 `json:"epoch"`
	Window      int    `json:"window"`
	AckWithinMS int64  `json:"ack_within_ms"`

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

// rowFrame is a row of a query.
type rowFrame struct {
	Key      string          `json:"key"`
	Rank     string          `json:"rank"`
	Position uint64          `json:"position"`
	Data     json.RawMessage `json:"data"`
}

// pageFrame is the data of the result of a query.
type pageFrame struct {
	Rows    []rowFrame `json:"rows"`
	Next    string     `json:"next"`
	Blocked int        `json:"blocked"`
}

type limits struct {
	FrameBytes   int `json:"frame_bytes"`
	OpenRequests int `json:"open_requests"`
}

// item is an event, a state or a live mark for the application.
type item struct {
	kind     Kind
	Stream   string          `json:"stream"`
	Version  uint64          `json:"-"` // gatewayFrame.KnownVersion
	Position uint64          `json:"position"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	Time     time.Time       `json:"time"`
	Cause    string          `json:"cause"`
	By       string          `json:"by"`
	Cursor   string          `json:"cursor"`
}

// failure returns the error of an error frame, or of an "unsubscribed" that the
// client did not request.
func (a *gatewayFrame) failure() *Error {
	return &Error{
		Code: cmp.Or(a.Code, CodeProtocol), Message: a.Message, Retry: cmp.Or(a.Retry, RetryNo), Reason: a.Reason,
		Key: a.Key, Field: a.Field, Version: a.Version, Replayed: a.Replayed,
	}
}

// after returns how long the server asks the client to wait, and false if it
// does not.
func (a *gatewayFrame) after() (time.Duration, bool) {
	if a.AfterMS == nil {
		return 0, false
	}
	return time.Duration(*a.AfterMS) * time.Millisecond, true
}

func parse(line []byte) (*gatewayFrame, error) {
	if a, ok := parseEvent(line); ok {
		return a, nil
	}
	return parseAny(line)
}

func parseAny(line []byte) (*gatewayFrame, error) {
	a := new(gatewayFrame)
	if err := json.Unmarshal(line, a); err != nil {
		return nil, err
	}
	if a.KnownVersion != nil {
		a.Version = *a.KnownVersion
	}
	return a, nil
}

// encode returns the JSON of a frame of this package.
func encode(frame any) []byte {
	text, err := json.Marshal(frame)
	if err != nil {
		panic(err) // impossible: frames have strings and numbers only
	}
	return text
}
