// Package stored defines the form in which both stores keep a log: the JSON texts
// of a commit's events and meta data, and the rows of a unit. [Prepare] makes all
// checks and encodings that need no database, in the goroutine of the caller. The
// single goroutine that talks to the database then only has to send.
//
// All functions are pure and safe for concurrent use.
package stored

import (
	"fmt"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Bounds of a unit. A host sends far less, 256 commands of at most 192 KiB. The
// bounds keep one caller from filling all batches.
const (
	MaxUnitCommands = 1_000
	MaxUnitBytes    = 64 << 20
	MaxCommitEvents = 10_000
	MaxCommitBytes  = 16 << 20
	MaxKeyBytes     = 200
	MaxNameBytes    = 200

	// MaxDepth bounds the nesting of a JSON document. SQLite's functions read
	// 1,000 levels, and one deeper event would break every query of the view
	// "event".
	MaxDepth = 500
)

// Unit is a checked and encoded unit.
type Unit struct {
	eventstore.Unit
	// Rows has one element per command.
	Rows []Row
	// Bytes is the approximate size in memory and on the wire.
	Bytes int
	// Events is the number of events of all commands.
	Events int
}

// Row is a command as a row of a table.
type Row struct {
	Key     string
	Hash    eventstore.Hash
	Version eventstore.Version // of the last event; without events, that of the decision
	N       int                // number of events; 0 for an outcome
	At      time.Time          // UTC, whole microseconds
	Meta    []byte
	Events  []byte
	Answer  []byte // of an outcome; may be nil
	Keep    bool   // the outcome is stored
}

// Leaves reports whether storing the command leaves a row.
func (r *Row) Leaves() bool { return r.N > 0 || r.Keep }

// Prepare checks and encodes a unit. The error is an *eventstore.InvalidError for
// the first violation.
func Prepare(u eventstore.Unit) (*Unit, error) {
	invalid := func(format string, args ...any) (*Unit, error) {
		return nil, &eventstore.InvalidError{Stream: u.Stream, Reason: fmt.Sprintf(format, args...)}
	}
	if err := u.Stream.Validate(); err != nil {
		return invalid("%v", err)
	}
	if n := len(u.Commands); n == 0 || n > MaxUnitCommands {
		return invalid("the unit has %d commands: 1 to %d are allowed", n, MaxUnitCommands)
	}
	if u.Expected > 1<<62 {
		return invalid("the expected version %d is out of range", u.Expected)
	}
	p := &Unit{Unit: u, Rows: make([]Row, len(u.Commands))}
	version := u.Expected
	for i := range u.Commands {
		row, err := prepareRow(&u.Commands[i], i)
		if err != nil {
			return invalid("%v", err)
		}
		version += eventstore.Version(row.N)
		row.Version = version
		p.Rows[i] = row
		p.Events += row.N
		p.Bytes += 200 + len(row.Key) + len(row.Events) + len(row.Meta) + len(row.Answer) + len(u.Stream.ID)
	}
	if p.Bytes > MaxUnitBytes {
		return invalid("the unit has %d bytes, at most %d are allowed", p.Bytes, MaxUnitBytes)
	}
	if i, j, twice := sameKey(u.Commands); twice {
		return invalid("commands %d and %d have the same key: reply to the second with the outcome of the first", i, j)
	}
	return p, nil
}

// prepareRow checks and encodes command i. The caller sets the row's version.
func prepareRow(c *eventstore.Command, i int) (row Row, err error) {
	if err := checkText(c.Key, MaxKeyBytes); err != nil {
		return row, fmt.Errorf("the key of command %d %w", i, err)
	}
	row = Row{Key: c.Key, Hash: c.Hash, N: len(c.Events), At: Micros(c.At)}
	if y := row.At.Year(); y < 1 || y > 9999 {
		return row, fmt.Errorf("the time of command %d is in the year %d: 1 to 9999 are allowed", i, y)
	}
	switch {
	case row.N > MaxCommitEvents:
		return row, fmt.Errorf("command %d has %d events, at most %d are allowed", i, row.N, MaxCommitEvents)
	case row.N > 0:
		if row.Events, err = encodeEvents(c.Events); err != nil {
			return row, fmt.Errorf("command %d: %w", i, err)
		}
		if len(row.Events) > MaxCommitBytes {
			return row, fmt.Errorf("the events of command %d have %d bytes, at most %d are allowed", i, len(row.Events), MaxCommitBytes)
		}
		if row.Meta, err = encodeMeta(c.Meta); err != nil {
			return row, fmt.Errorf("the meta data of command %d %w", i, err)
		}
	case c.Keep:
		row.Keep, row.Answer = true, c.Answer
		if len(c.Answer) > MaxCommitBytes {
			return row, fmt.Errorf("the answer of command %d has %d bytes, at most %d are allowed", i, len(c.Answer), MaxCommitBytes)
		}
		if c.Answer != nil {
			if err := checkJSON(c.Answer); err != nil {
				return row, fmt.Errorf("the answer of command %d %w", i, err)
			}
		}
	}
	return row, nil
}

// sameKey finds two commands with one key. The host that decides a unit sees both,
// and must reply to the second itself.
func sameKey(commands []eventstore.Command) (int, int, bool) {
	if len(commands) == 1 {
		return 0, 0, false
	}
	at := make(map[string]int, len(commands))
	for j := range commands {
		if i, ok := at[commands[j].Key]; ok {
			return i, j, true
		}
		at[commands[j].Key] = j
	}
	return 0, 0, false
}

// Micros truncates a time to the precision of the stores, in UTC.
func Micros(t time.Time) time.Time { return FromMicros(t.UnixMicro()) }

// FromMicros returns the time of microseconds since 1970, in UTC.
func FromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// Appended returns the places of the commands if the unit's first event follows
// the position base.
func (u *Unit) Appended(base eventstore.Position) eventstore.Appended {
	a := eventstore.Appended{Commands: make([]eventstore.Place, len(u.Rows))}
	var last eventstore.Position
	for i := range u.Rows {
		if n := u.Rows[i].N; n > 0 {
			base += eventstore.Position(n)
			last = base
		}
		a.Commands[i] = eventstore.Place{Version: u.Rows[i].Version, Position: last}
	}
	return a
}

// Commits appends the commits of a stored unit to list.
func (u *Unit) Commits(list []eventstore.Commit, a eventstore.Appended) []eventstore.Commit {
	for i := range u.Rows {
		r := &u.Rows[i]
		if r.N == 0 {
			continue
		}
		list = append(list, eventstore.Commit{
			Position: a.Commands[i].Position,
			Stream:   u.Stream,
			Version:  r.Version,
			Key:      r.Key,
			At:       r.At,
			Meta:     u.Commands[i].Meta,
			Events:   u.Commands[i].Events,
		})
	}
	return list
}

// maxNote bounds a text that Clean returns, in bytes.
const maxNote = 1 << 10

// Clean returns a text that both stores can keep: valid UTF-8 without U+0000, of at
// most 1 KiB.
func Clean(s string) string {
	if len(s) > maxNote {
		s = s[:maxNote]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
