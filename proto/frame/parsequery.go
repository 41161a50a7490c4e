package frame

import (
	"encoding/json"

	"github.com/ganglion-es/ganglion/eventstore"
)

// ParseData reads the body of a query over HTTP: the data of a query frame.
func ParseData(body []byte) (json.RawMessage, error) {
	if !valid(body) {
		return nil, ErrNotJSON
	}
	var p parts
	p.raw[mData] = body
	return p.data(), p.error()
}

// ParsePage reads the data of a Result that answers Query. The error is ErrNotJSON or
// an *Error.
func ParsePage(data []byte) (Page, error) {
	if !valid(data) {
		return Page{}, ErrNotJSON
	}
	var p parts
	p.split(data)
	if p.err != nil {
		return Page{}, p.error()
	}
	page := Page{Rows: p.list(), Next: p.text(mNext), Blocked: int(p.uint(mBlocked))}
	return page, p.error()
}

func (p *parts) query() Query {
	return Query{
		ID:        p.id,
		Query:     p.need(mQuery, "name the query, such as \"open_auctions\""),
		Data:      p.data(),
		AtLeast:   eventstore.Position(p.uint(mAtLeast)),
		TimeoutMS: p.timeout(),
		After:     p.ascii(mAfter, MaxCursorBytes),
	}
}

// cursor reads the cursor of a subscribe.
func (p *parts) cursor() string {
	if p.has(mQuery) {
		return p.ascii(mCursor, MaxCursorBytes)
	}
	return p.ascii(mCursor, 64)
}

// parameters reads the members of a subscribe that are for queries only.
func (p *parts) parameters(f *Subscribe) {
	if p.has(mQuery) {
		if f.Query == "" {
			p.missing(mQuery, "name the query, such as \"open_auctions\"")
		}
		f.Data, f.AtLeast = p.data(), eventstore.Position(p.uint(mAtLeast))
		return
	}
	for _, m := range []member{mData, mAtLeast} {
		if p.has(m) {
			p.fail(names[m], "%s is for queries only: leave it out, or name a query", names[m])
		}
	}
}

func (p *parts) live() Live {
	f := Live{Sub: p.text(mSub), Version: p.version(mVersion), Cursor: p.text(mCursor), Blocked: int(p.uint(mBlocked))}
	if p.has(mPosition) {
		at := eventstore.Position(p.uint(mPosition))
		f.Position = &at
	}
	return f
}

// rows reads a page of a query's state.
func (p *parts) rows() Rows {
	return Rows{Sub: p.text(mSub), Rows: p.list(), More: p.bool(mMore)}
}

// list reads the member rows.
func (p *parts) list() []Row {
	raw := p.raw[mRows]
	if raw == nil || raw[0] != '[' {
		p.fail("rows", "rows must be a list")
		return nil
	}
	list := []Row{}
	for element := range array(raw) {
		var r parts
		r.split(element)
		list = append(list, Row{
			Key: r.need(mKey, "the gateway must send it"), Rank: r.need(mRank, "the gateway must send it"),
			Position: eventstore.Position(r.uint(mPosition)), Data: r.raw[mData],
		})
		if r.err != nil {
			p.fail("rows", "rows: %s", r.err.Message)
		}
	}
	return list
}

// change reads a frame of a live query after its state.
func (p *parts) change(op string) Frame {
	sub, position := p.text(mSub), eventstore.Position(p.uint(mPosition))
	switch op {
	case "update":
		return Update{
			Sub: sub, Key: p.need(mKey, "the gateway must send it"), Rank: p.text(mRank), Position: position,
			Data: p.raw[mData], Gone: p.bool(mGone),
		}
	case "synced":
		return Synced{Sub: sub, Cursor: p.need(mCursor, "the gateway must send it"), Position: position, Blocked: int(p.uint(mBlocked))}
	case "reset":
		return Reset{Sub: sub, Reason: p.text(mReason)}
	}
	return p.keys(sub)
}

func (p *parts) keys(sub string) Keys {
	f := Keys{Sub: sub, Keys: []string{}}
	raw := p.raw[mKeys]
	if raw == nil || raw[0] != '[' {
		p.fail("keys", "keys must be a list")
		return f
	}
	for element := range array(raw) {
		key, err := unquote(element)
		if err != nil {
			p.fail("keys", "keys: a key %s", err)
		}
		f.Keys = append(f.Keys, key)
	}
	return f
}
