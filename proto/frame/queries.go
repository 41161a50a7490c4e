package frame

import (
	"encoding/json"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// This file has the frames of queries. A query's subscription gets Rows until Live,
// and then batches of Update and Keys that end with Synced. Reset begins again with
// Rows. Rows has the op "state", as State has.

// Query asks a query once.
type Query struct {
	ID        string
	Query     string
	Data      json.RawMessage
	AtLeast   eventstore.Position // that the rows must show; 0 for any
	TimeoutMS int64               // 0 for DefaultTimeout
	After     string              // Page.Next of the page before; "" for the first page
}

// Timeout returns how long the client waits for the answer.
func (q Query) Timeout() time.Duration { return timeout(q.TimeoutMS) }

// Row is a row of a query.
type Row struct {
	Key string
	// Rank sorts the rows bytewise.
	Rank     string
	Position eventstore.Position // of the last event that changed it
	Data     json.RawMessage
}

// Page is the data of a Result that answers Query.
type Page struct {
	Rows    []Row
	Next    string // asks for the next page; "" on the last one
	Blocked int    // rows of the projection that wait for an operator
}

// Rows is a page of the state of a query's subscription. Its op is "state".
type Rows struct {
	Sub  string
	Rows []Row
	More bool // further pages follow
}

// Update is the newest form of a row, or, if Gone is set, reports that the row has
// left the result. Intermediate forms may have been skipped.
type Update struct {
	Sub      string
	Key      string
	Rank     string
	Position eventstore.Position
	Data     json.RawMessage
	Gone     bool
}

// Keys has the keys of all rows that are in the result. The client drops the others.
type Keys struct {
	Sub  string
	Keys []string
}

// Synced ends a batch of updates. The client applies the batch as a whole, and can
// resume from Cursor. The rows show the log up to Position.
type Synced struct {
	Sub      string
	Cursor   string
	Position eventstore.Position
	Blocked  int // rows of the projection that wait for an operator
}

// Reset reports that the rows follow again from the start, as Rows until Live.
type Reset struct {
	Sub    string
	Reason string
}

// The reasons of Reset.
const (
	ResetRebuilt = "rebuilt" // the rows have another shape
	ResetExpired = "expired" // the cursor is too old, or of another query
	ResetLog     = "log"     // the cursor is of another log
	ResetMended  = "mended"  // an operator has mended rows below the cursor
	ResetAccess  = "access"  // the client may see other rows: it drops the shown ones immediately
)

// Op returns the member op of the frame, here "query".
func (Query) Op() string  { return "query" }
func (Rows) Op() string   { return "state" }
func (Update) Op() string { return "update" }
func (Keys) Op() string   { return "keys" }
func (Synced) Op() string { return "synced" }
func (Reset) Op() string  { return "reset" }

// RequestID returns the frame's id.
func (q Query) RequestID() string { return q.ID }

// Append appends the frame.
func (q Query) Append(dst []byte) []byte {
	o := open(dst, q.Op())
	o.str("id", q.ID)
	o.str("query", q.Query)
	o.name("data")
	o.b = appendRaw(o.b, q.Data)
	o.optUint("at_least", uint64(q.AtLeast))
	o.optInt("timeout_ms", q.TimeoutMS)
	o.optStr("after", q.After)
	return o.close()
}

// Append appends the page as a JSON object.
func (p Page) Append(dst []byte) []byte {
	o := object{append(dst, `{"rows":`...)}
	o.b = appendRows(o.b, p.Rows)
	o.optStr("next", p.Next)
	o.optInt("blocked", int64(p.Blocked))
	return o.close()
}

func appendRows(dst []byte, rows []Row) []byte {
	dst = append(dst, '[')
	for i, r := range rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		o := object{append(dst, `{"key":`...)}
		o.b = AppendString(o.b, r.Key)
		o.str("rank", r.Rank)
		o.uint("position", uint64(r.Position))
		o.name("data")
		o.b = appendRaw(o.b, r.Data)
		dst = o.close()
	}
	return append(dst, ']')
}

// Append appends the frame.
func (f Rows) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("sub", f.Sub)
	o.name("rows")
	o.b = appendRows(o.b, f.Rows)
	o.optTrue("more", f.More)
	return o.close()
}

// Append appends the frame.
func (f Update) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("sub", f.Sub)
	o.str("key", f.Key)
	if f.Gone {
		o.optTrue("gone", true)
		return o.close()
	}
	o.str("rank", f.Rank)
	o.uint("position", uint64(f.Position))
	o.name("data")
	o.b = appendRaw(o.b, f.Data)
	return o.close()
}

// Append appends the frame.
func (f Keys) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("sub", f.Sub)
	o.name("keys")
	o.b = append(o.b, '[')
	for i, key := range f.Keys {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		o.b = AppendString(o.b, key)
	}
	o.b = append(o.b, ']')
	return o.close()
}

// Append appends the frame.
func (f Synced) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("sub", f.Sub)
	o.str("cursor", f.Cursor)
	o.uint("position", uint64(f.Position))
	o.optInt("blocked", int64(f.Blocked))
	return o.close()
}

// Append appends the frame.
func (f Reset) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("sub", f.Sub)
	o.str("reason", f.Reason)
	return o.close()
}
