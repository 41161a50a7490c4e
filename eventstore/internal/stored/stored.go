// Package stored is the form in which both stores keep what they are given:
// the JSON texts of a commit's events and meta data, and the rows that a unit
// becomes. Prepare does all the checking and encoding that needs no database,
// in the goroutine of whoever appends, so that the one goroutine that talks
// to the database has nothing left to do but send.
//
// Everything here is pure and safe for concurrent use.
package stored

import (
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Bounds of what one unit may hold. They are far above what a host sends (256
// commands of at most 192 KiB) and keep one caller from filling a batch for
// good.
const (
	MaxUnitCommands = 1_000
	MaxUnitBytes    = 64 << 20
	MaxCommitEvents = 10_000
	MaxCommitBytes  = 16 << 20
	MaxKeyBytes     = 200
	MaxNameBytes    = 200

	// MaxDepth is how deep a JSON document may be nested. SQLite's functions read
	// 1,000 levels, and one event past that would break every query of the
	// view "event".
	MaxDepth = 500
)

// Unit is a unit that was checked and encoded.
type Unit struct {
	eventstore.Unit
	// Rows has one element per command.
	Rows []Row
	// Bytes is about what the unit weighs in memory and on the wire.
	Bytes int
	// Events counts the events of all commands.
	Events int
}

// Row is one command on its way into a table.
type Row struct {
	Key     string
	Hash    eventstore.Hash
	Version eventstore.Version // of the command's last event; without events, the version it was decided at
	N       int                // events; 0 for an outcome without events
	At      time.Time          // UTC, whole microseconds
	Meta    []byte
	Events  []byte
	Answer  []byte // of an outcome without events, nil for none
	Keep    bool
}

// Leaves reports whether the command leaves something in the database when
// its unit is stored.
func (r *Row) Leaves() bool { return r.N > 0 || r.Keep }

// Prepare checks and encodes a unit. The error is an *eventstore.InvalidError
// that names the first thing that is wrong.
func Prepare(u eventstore.Unit) (*Unit, error) {
	invalid := func(format string, args ...any) (*Unit, error) {
		return nil, &eventstore.InvalidError{Stream: u.Stream, Reason: fmt.Sprintf(format, args...)}
	}
	if err := u.Stream.Validate(); err != nil {
		return invalid("%v", err)
	}
	if n := len(u.Commands); n == 0 || n > MaxUnitCommands {
		return invalid("the unit has %d commands: it has 1 to %d", n, MaxUnitCommands)
	}
	if u.Expected > 1<<62 {
		return invalid("the expected version %d is out of range", u.Expected)
	}
	p := &Unit{Unit: u, Rows: make([]Row, len(u.Commands))}
	version := u.Expected
	for i := range u.Commands {
		c := &u.Commands[i]
		if err := checkText(c.Key, MaxKeyBytes); err != nil {
			return invalid("the key of command %d %v", i, err)
		}
		version += eventstore.Version(len(c.Events))
		row := Row{Key: c.Key, Hash: c.Hash, Version: version, N: len(c.Events), At: Micros(c.At)}
		if y := row.At.Year(); y < 1 || y > 9999 {
			return invalid("the time of command %d is in the year %d: use 1 to 9999", i, y)
		}
		var err error
		switch {
		case len(c.Events) > MaxCommitEvents:
			return invalid("command %d has %d events, at most %d are allowed", i, len(c.Events), MaxCommitEvents)
		case len(c.Events) > 0:
			if row.Events, err = encodeEvents(c.Events); err != nil {
				return invalid("command %d: %v", i, err)
			}
			if len(row.Events) > MaxCommitBytes {
				return invalid("the events of command %d have %d bytes, at most %d are allowed", i, len(row.Events), MaxCommitBytes)
			}
			if row.Meta, err = encodeMeta(c.Meta); err != nil {
				return invalid("the meta data of command %d %v", i, err)
			}
		case c.Keep:
			row.Keep = true
			if len(c.Answer) > MaxCommitBytes {
				return invalid("the answer of command %d has %d bytes, at most %d are allowed", i, len(c.Answer), MaxCommitBytes)
			}
			if c.Answer != nil {
				if err := checkJSON(c.Answer); err != nil {
					return invalid("the answer of command %d %v", i, err)
				}
				row.Answer = c.Answer
			}
		}
		p.Rows[i] = row
		p.Events += row.N
		p.Bytes += 200 + len(row.Key) + len(row.Events) + len(row.Meta) + len(row.Answer) + len(u.Stream.ID)
	}
	if p.Bytes > MaxUnitBytes {
		return invalid("the unit has %d bytes, at most %d are allowed", p.Bytes, MaxUnitBytes)
	}
	if i, j, twice := sameKey(u.Commands); twice {
		return invalid("commands %d and %d have the same key: answer the second with the outcome of the first", i, j)
	}
	return p, nil
}

// sameKey finds two commands with one key. A unit is decided by one host,
// which sees both and answers the second itself.
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

// Micros returns a time as the stores keep it.
func Micros(t time.Time) time.Time { return FromMicros(t.UnixMicro()) }

// FromMicros returns the time at so many microseconds since 1970.
func FromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// Appended says where the unit's commands are when the unit's first event
// follows the position base, or, if the unit has no events, that they are
// nowhere.
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

// Commits appends the commits that the unit became to list.
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
