// Package planner turns a query and its caller into a question about rows, and
// the place where a page ended into a token and back.
package planner

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// Question returns a query's question in the terms of a rows.Store.
func Question(q query.Question) rows.Question {
	order := make([]rows.Order, len(q.Order))
	for i, o := range q.Order {
		order[i] = rows.Order(o)
	}
	return rows.Question{Filter: filter(q.Filter), Order: order, Limit: q.Limit}
}

func filter(f query.Filter) rows.Filter {
	g := rows.Filter{Or: f.Or}
	if f.Test != nil {
		g.Test = &rows.Test{Op: rows.Op(f.Test.Op), Column: f.Test.Column, Values: f.Test.Values}
	}
	for _, inner := range f.Filters {
		g.Filters = append(g.Filters, filter(inner))
	}
	return g
}

// Digest names a question: equal questions about one projection have equal
// digests.
func Digest(q query.Question) string {
	// JSON of these types is the same for the same question: values are sorted,
	// and floats are written exactly.
	raw, err := json.Marshal(struct {
		Filter query.Filter
		Order  []query.Order
	}{q.Filter, q.Order})
	if err != nil {
		panic(err) // the values are of basic types
	}
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// maxToken bounds a token: a row may be ordered by long texts.
const maxToken = 64 << 10

// A token is where a page ended.
type token struct {
	Build  int64    `json:"b"`
	Digest string   `json:"q"`
	Key    string   `json:"k"`
	Values []string `json:"v"` // of the order's columns; "" for an absent one
}

// ErrToken reports a token that no page of this question has had.
var ErrToken = errors.New("the page token is not one of this query with these parameters in its present build: ask without it")

// Token returns the token for the page after a row.
func Token(build int64, q query.Question, key string, values []any) string {
	t := token{Build: build, Digest: Digest(q), Key: key}
	for _, o := range q.Order {
		t.Values = append(t.Values, encode(values[o.Column]))
	}
	raw, err := json.Marshal(t)
	if err != nil {
		panic(err) // the members are of basic types
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// After returns the row after which a page begins. The error is ErrToken.
func After(text string, build int64, q query.Question, columns []projection.Column) (*rows.Row, error) {
	if len(text) > maxToken {
		return nil, ErrToken
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, ErrToken
	}
	var t token
	if err := json.Unmarshal(raw, &t); err != nil || t.Build != build || t.Digest != Digest(q) || len(t.Values) != len(q.Order) {
		return nil, ErrToken
	}
	row := &rows.Row{Key: t.Key, Values: make([]any, len(columns))}
	for i, o := range q.Order {
		if row.Values[o.Column], err = decode(t.Values[i], columns[o.Column]); err != nil {
			return nil, fmt.Errorf("%w (%v)", ErrToken, err)
		}
	}
	return row, nil
}

// encode writes a value with a letter before it, so that an absent value and an
// empty text differ.
func encode(v any) string {
	switch v := v.(type) {
	case bool:
		return "b" + strconv.FormatBool(v)
	case int64:
		return "i" + strconv.FormatInt(v, 10)
	case float64:
		return "f" + strconv.FormatUint(math.Float64bits(v), 16)
	case string:
		return "t" + v
	}
	return ""
}

func decode(text string, c projection.Column) (any, error) {
	if text == "" {
		if !c.Nullable {
			return nil, errors.New("a value is absent")
		}
		return nil, nil
	}
	kind, value := text[0], text[1:]
	switch {
	case kind == 'b' && c.Kind == projection.Bool:
		return strconv.ParseBool(value)
	case kind == 'i' && (c.Kind == projection.Int || c.Kind == projection.Time):
		return strconv.ParseInt(value, 10, 64)
	case kind == 'f' && c.Kind == projection.Float:
		bits, err := strconv.ParseUint(value, 16, 64)
		f := math.Float64frombits(bits)
		if err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			err = errors.New("a number is not finite")
		}
		return f, err
	case kind == 't' && c.Kind == projection.Text:
		return c.Value(value)
	}
	return nil, errors.New("a value is of another kind")
}
