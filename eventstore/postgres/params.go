package postgres

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/postgres/internal/driver"
)

// command is a command of a batch. unit counts from 1. end is the position of
// its last event, counted from the first event of the batch.
type command struct {
	*stored.Row
	of   *stored.Unit
	unit int
	end  int64
}

// column is an array parameter of the function append: its name, the type of its
// elements, and a function that appends the element of a command.
type column struct {
	name string
	oid  uint32
	add  func(*driver.Array, *command)
}

// These are the array parameters of the function append, in its order: units,
// commands with events, and commands without.
var (
	unitColumns = []column{
		{"u_type", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.of.Stream.Type) }},
		{"u_id", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.of.Stream.ID) }},
		{"u_version", pgtype.Int8OID, func(a *driver.Array, c *command) { a.Int8(int64(c.of.Expected)) }},
	}
	commitColumns = []column{
		{"c_unit", pgtype.Int4OID, func(a *driver.Array, c *command) { a.Int4(c.unit) }},
		{"c_type", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.of.Stream.Type) }},
		{"c_id", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.of.Stream.ID) }},
		{"c_key", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.Key) }},
		{"c_hash", pgtype.ByteaOID, func(a *driver.Array, c *command) { a.Bytes(c.Hash[:]) }},
		{"c_n", pgtype.Int4OID, func(a *driver.Array, c *command) { a.Int4(c.N) }},
		{"c_off", pgtype.Int8OID, func(a *driver.Array, c *command) { a.Int8(c.end) }},
		{"c_version", pgtype.Int8OID, func(a *driver.Array, c *command) { a.Int8(int64(c.Version)) }},
		{"c_at", pgtype.TimestamptzOID, func(a *driver.Array, c *command) { a.Time(c.At) }},
		{"c_meta", pgtype.JSONOID, func(a *driver.Array, c *command) { a.Bytes(c.Meta) }},
		{"c_events", pgtype.JSONOID, func(a *driver.Array, c *command) { a.Bytes(c.Row.Events) }},
	}
	outcomeColumns = []column{
		{"o_unit", pgtype.Int4OID, func(a *driver.Array, c *command) { a.Int4(c.unit) }},
		{"o_type", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.of.Stream.Type) }},
		{"o_id", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.of.Stream.ID) }},
		{"o_key", pgtype.TextOID, func(a *driver.Array, c *command) { a.Text(c.Key) }},
		{"o_hash", pgtype.ByteaOID, func(a *driver.Array, c *command) { a.Bytes(c.Hash[:]) }},
		{"o_version", pgtype.Int8OID, func(a *driver.Array, c *command) { a.Int8(int64(c.Version)) }},
		{"o_at", pgtype.TimestamptzOID, func(a *driver.Array, c *command) { a.Time(c.At) }},
		{"o_answer", pgtype.JSONOID, func(a *driver.Array, c *command) { a.Bytes(c.Answer) }},
		{"o_keep", pgtype.BoolOID, func(a *driver.Array, c *command) { a.Bool(c.Keep) }},
	}
)

// paramNames are the parameters of the function append, in its order.
var paramNames = func() []string {
	names := []string{"w_log", "w_pos", "w_type", "w_id", "w_version", "w_key", "w_at", "again", "careful"}
	for _, c := range slices.Concat(unitColumns, commitColumns, outcomeColumns) {
		names = append(names, c.name)
	}
	return names
}()

// appendSQL calls the function append.
var appendSQL = func() string {
	var values []string
	for i := range paramNames {
		values = append(values, fmt.Sprintf("$%d", i+1))
	}
	return `select base, moved_unit, moved_version, known_unit from append(` + strings.Join(values, ", ") + `)`
}()

// table is a list of columns with their arrays.
type table struct {
	columns []column
	arrays  []driver.Array
}

func newTable(columns []column) table { return table{columns, make([]driver.Array, len(columns))} }

func (t *table) reset() {
	for i := range t.columns {
		t.arrays[i].Reset(t.columns[i].oid)
	}
}

func (t *table) add(c *command) {
	for i := range t.columns {
		t.columns[i].add(&t.arrays[i], c)
	}
}

func (t *table) appendValues(values [][]byte) [][]byte {
	for i := range t.arrays {
		values = append(values, t.arrays[i].Value())
	}
	return values
}

// params are the parameters of the function append. The buffers are reused for
// the next batch.
type params struct {
	scalars                  [9][]byte
	units, commits, outcomes table
	values                   [][]byte
}

func newParams() *params {
	return &params{units: newTable(unitColumns), commits: newTable(commitColumns), outcomes: newTable(outcomeColumns)}
}

// encode returns the parameters for a batch. They are valid until the next
// call. If careful is set, the function looks keys up before it stores anything.
func (p *params) encode(mark guard.Mark, mayBeStored, careful bool, units []*stored.Unit) [][]byte {
	for _, t := range []*table{&p.units, &p.commits, &p.outcomes} {
		t.reset()
	}
	var c command
	for i, u := range units {
		c.of, c.unit = u, i+1
		p.units.add(&c)
		for j := range u.Rows {
			c.Row = &u.Rows[j]
			if c.N == 0 {
				p.outcomes.add(&c)
				continue
			}
			c.end += int64(c.N)
			p.commits.add(&c)
		}
	}
	log, _ := uuid.Parse(mark.LogID) // a log without an id went back
	newest := &mark.Newest
	s := &p.scalars
	s[0] = append(s[0][:0], log[:]...)
	s[1] = binary.BigEndian.AppendUint64(s[1][:0], uint64(newest.Position))
	s[2] = append(s[2][:0], newest.Stream.Type...)
	s[3] = append(s[3][:0], newest.Stream.ID...)
	s[4] = binary.BigEndian.AppendUint64(s[4][:0], uint64(newest.Version))
	s[5] = append(s[5][:0], newest.Key...)
	s[6] = driver.AppendMicros(s[6][:0], newest.Micros)
	s[7] = driver.AppendBool(s[7][:0], mayBeStored)
	s[8] = driver.AppendBool(s[8][:0], careful)
	p.values = append(p.values[:0], s[:]...)
	p.values = p.units.appendValues(p.values)
	p.values = p.commits.appendValues(p.values)
	p.values = p.outcomes.appendValues(p.values)
	return p.values
}
