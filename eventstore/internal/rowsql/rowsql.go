// Package rowsql writes the SQL by which stores read rows. PostgreSQL and SQLite
// get the same statements, but for the spelling of a [Dialect]: so both answer a
// question alike.
package rowsql

import (
	"strconv"
	"strings"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// A Dialect is how a database spells things.
type Dialect struct {
	// Parameter begins a numbered parameter: "$" or "?".
	Parameter string
	// Prefix reports whether a text column begins with a parameter. An index on
	// the column must serve it.
	Prefix func(column, parameter string) string
	// Bool is a boolean as the database's driver takes it.
	Bool func(bool) any
	// NullsFirst follows a column in an index that sorts absent values first.
	NullsFirst string
}

// A Table is where a build's rows are.
type Table struct {
	Name    string // as SQL writes it, quoted if need be
	Columns []rows.Column
}

// Column returns the SQL name of the column with an index; -1 is the row's key.
func (t Table) Column(i int) string {
	if i < 0 {
		return "key"
	}
	return `"c_` + t.Columns[i].Name + `"`
}

// A Statement is SQL with its arguments.
type Statement struct {
	SQL  string
	Args []any
}

type builder struct {
	dialect Dialect
	table   Table
	strings.Builder
	args []any
}

func (d Dialect) build(t Table) *builder { return &builder{dialect: d, table: t} }

func (b *builder) statement() Statement { return Statement{b.String(), b.args} }

// parameter adds an argument and returns its place in the SQL.
func (b *builder) parameter(v any) string {
	if value, ok := v.(bool); ok {
		v = b.dialect.Bool(value)
	}
	b.args = append(b.args, v)
	return b.dialect.Parameter + strconv.Itoa(len(b.args))
}

// Ask returns the statement that reads key, segment, position and data of the
// rows that answer a question.
func (d Dialect) Ask(t Table, q rows.Question) Statement {
	b := d.build(t)
	b.WriteString("select key, seg, pos, data from " + t.Name + " where not gone and ")
	b.filter(q.Filter)
	if q.After != nil {
		b.WriteString(" and ")
		b.after(q.Order, q.After)
	}
	b.WriteString(" order by ")
	for _, o := range q.Order {
		b.WriteString(t.Column(o.Column))
		b.WriteString(direction(o, t.Columns[o.Column].Nullable))
	}
	b.WriteString("key limit " + b.parameter(int64(q.Limit)))
	return b.statement()
}

// direction spells an order as the index has it, forwards or backwards.
func direction(o rows.Order, nullable bool) string {
	switch {
	case o.Descending && nullable:
		return " desc nulls last, "
	case o.Descending:
		return " desc, "
	case nullable:
		return " asc nulls first, "
	}
	return " asc, "
}

// filter writes a condition that is true or false, never null.
func (b *builder) filter(f rows.Filter) {
	switch {
	case f.Test != nil:
		b.test(*f.Test)
	case len(f.Filters) == 0 && f.Or:
		b.WriteString("1 = 0")
	case len(f.Filters) == 0:
		b.WriteString("1 = 1")
	default:
		b.WriteByte('(')
		for i, g := range f.Filters {
			if i > 0 && f.Or {
				b.WriteString(" or ")
			} else if i > 0 {
				b.WriteString(" and ")
			}
			b.filter(g)
		}
		b.WriteByte(')')
	}
}

func (b *builder) test(t rows.Test) {
	column := b.table.Column(t.Column)
	switch t.Op {
	case rows.IsAbsent:
		b.WriteString(column + " is null")
	case rows.OneOf:
		b.oneOf(column, t.Values)
	case rows.GreaterEq:
		b.WriteString(column + " >= " + b.parameter(t.Values[0]))
	case rows.LessEq:
		b.WriteString(column + " <= " + b.parameter(t.Values[0]))
	case rows.BeginsWith:
		b.WriteString(b.dialect.Prefix(column, b.parameter(t.Values[0])))
	}
}

func (b *builder) oneOf(column string, values []any) {
	switch len(values) {
	case 0:
		b.WriteString("1 = 0")
		return
	case 1:
		b.WriteString(column + " = " + b.parameter(values[0]))
		return
	}
	b.WriteString(column + " in (")
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(b.parameter(v))
	}
	b.WriteByte(')')
}

// after writes the condition for rows that come after a row in an order: they
// are equal in the first columns and later in the next, for one number of columns.
func (b *builder) after(order []rows.Order, last *rows.Row) {
	b.WriteByte('(')
	equal := ""
	for _, o := range order {
		column, value := b.table.Column(o.Column), last.Values[o.Column]
		if later := b.later(o, column, value); later != "" {
			b.WriteString(equal + later + " or ")
		}
		if value == nil {
			equal += column + " is null and "
		} else {
			equal += column + " = " + b.parameter(value) + " and "
		}
	}
	b.WriteString(equal + "key > " + b.parameter(last.Key) + ")")
}

// later returns the condition for a column's value to come after another one; ""
// if none does.
func (b *builder) later(o rows.Order, column string, value any) string {
	switch {
	case value == nil && o.Descending:
		return ""
	case value == nil:
		return column + " is not null"
	case !o.Descending:
		return column + " > " + b.parameter(value)
	case b.table.Columns[o.Column].Nullable:
		return "(" + column + " < " + b.parameter(value) + " or " + column + " is null)"
	}
	return column + " < " + b.parameter(value)
}

// Changes returns the statement that reads key, segment, position, gone and data
// of the rows that changed after the positions, one for each segment.
func (d Dialect) Changes(t Table, after []eventstore.Position, next rows.Edge, limit int) Statement {
	b := d.build(t)
	b.WriteString("select key, seg, pos, gone, data from " + t.Name + " where ")
	lowest := next.Position
	if len(after) > 0 {
		first := after[0]
		for _, p := range after {
			first = min(first, p)
		}
		lowest = max(lowest, first)
	}
	b.WriteString("pos >= " + b.parameter(int64(lowest)) + " and (")
	for seg, p := range after {
		if seg > 0 {
			b.WriteString(" or ")
		}
		b.WriteString("seg = " + strconv.Itoa(seg) + " and pos > " + b.parameter(int64(p)))
	}
	b.WriteString(")")
	if next != (rows.Edge{}) {
		b.WriteString(" and (pos, key) > (" + b.parameter(int64(next.Position)) + ", " + b.parameter(next.Key) + ")")
	}
	b.WriteString(" order by pos, key limit " + b.parameter(int64(limit)))
	return b.statement()
}

// Index returns the statement that makes the n-th index of a table.
func (d Dialect) Index(t Table, n int, columns []int) string {
	var b strings.Builder
	b.WriteString("create index if not exists " + t.related("i"+strconv.Itoa(n)) + " on " + t.Name + " (")
	for _, c := range columns {
		b.WriteString(t.Column(c))
		if t.Columns[c].Nullable {
			b.WriteString(d.NullsFirst)
		}
		b.WriteString(", ")
	}
	b.WriteString("key) where not gone")
	return b.String()
}

// related returns the quoted name of something that belongs to the table.
func (t Table) related(suffix string) string {
	return `"` + strings.Trim(t.Name, `"`) + "_" + suffix + `"`
}

// TableOf returns the table of a build.
func TableOf(projection string, build int64, columns []rows.Column) Table {
	const most = 40 // PostgreSQL cuts names at 63 bytes
	return Table{Name: `"r_` + projection[:min(len(projection), most)] + "_" + strconv.FormatInt(build, 10) + `"`, Columns: columns}
}

// PositionIndex returns the statement that makes the index for changes.
func (t Table) PositionIndex() string {
	return "create index if not exists " + t.related("pos") + " on " + t.Name + " (pos, key)"
}

// TombstoneIndex returns the statement that makes the index by which tombstones
// are purged.
func (t Table) TombstoneIndex() string {
	return "create index if not exists " + t.related("gone") + " on " + t.Name + " (pos) where gone"
}

// DueIndex returns the statement that makes the index by which due rows of a process
// manager are found.
func (t Table) DueIndex() string {
	due := t.Column(0)
	return "create index if not exists " + t.related("due") + " on " + t.Name + " (seg, " + due + ", key) where " + due + " is not null"
}
