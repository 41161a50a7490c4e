package live

import (
	"encoding/json"
	"hash/crc32"

	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// A change is a row that was read, decoded once for all questions.
type change struct {
	key      string
	segment  int
	position eventstore.Position
	gone     bool
	values   []any
	digest   uint32
	data     json.RawMessage // nil in the list of recent changes

	row   *row     // as the source has it, or nil
	ranks []string // by the number of the order; "" if not computed
	kept  []bool   // by the number of the order: the cache has it
}

// changeOf decodes a row. One that does not have the projection's form meets no
// condition.
func changeOf(model *projection.Definition, r rows.Row) (c change, err error) {
	c = change{key: r.Key, segment: r.Segment, position: r.Position, gone: r.Gone, data: r.Data}
	if c.gone {
		return c, nil
	}
	c.digest = digestOf(r.Data)
	if c.values, err = valuesOf(model, r.Data); err != nil {
		c.gone = true
	}
	return c, err
}

// digestOf is CRC-32C of a row's data.
func digestOf(data json.RawMessage) uint32 { return crc32.Checksum(data, cursorSum) }

func valuesOf(model *projection.Definition, data json.RawMessage) (values []any, err error) {
	defer func() {
		if recover() != nil {
			err = errDecode
		}
	}()
	decoded, err := model.DecodeRow(data)
	if err != nil {
		return nil, err
	}
	return model.Values(decoded)
}

// rank returns the row's rank in a question's order.
func (c *change) rank(q *question) string {
	for len(c.ranks) <= q.order {
		c.ranks = append(c.ranks, "")
	}
	if c.ranks[q.order] == "" {
		c.ranks[q.order] = query.Rank(q.asked.Order, c.key, c.values)
	}
	rank := c.ranks[q.order]
	if c.row != nil {
		rank = c.row.share(q.order, rank)
		c.ranks[q.order] = rank
	}
	return rank
}

// share returns the rank, as the same text that other questions have.
func (r *row) share(order int, rank string) string {
	for len(r.ranks) <= order {
		r.ranks = append(r.ranks, "")
	}
	if r.ranks[order] != rank {
		r.ranks[order] = rank
	}
	return r.ranks[order]
}

// rankIn returns the rank that was last computed in an order.
func (r *row) rankIn(order int) string {
	if order < len(r.ranks) {
		return r.ranks[order]
	}
	return ""
}
