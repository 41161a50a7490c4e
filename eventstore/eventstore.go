// Package eventstore defines the contract of the log. The log holds every event
// of every aggregate once, in one order without holes.
//
// A log consists of commits. A commit holds the events of one command on one
// stream, which are stored together or not at all. Versions count the events of a
// stream, and positions those of the log: 1, 2, 3, … in commit order. After
// position p is visible, no event at or below p appears.
//
// A writer appends a unit: consecutive commands on one stream, decided on one
// state. The unit names the version of that state, and the store accepts one
// writer per stream version. If two nodes both act as the owner of an aggregate,
// one of them must retry, and no event is lost. Every command has a key. A
// command whose key the log knows gets the outcome of the key's first use,
// forever.
//
// The packages postgres and sqlite implement [Store]. Package storetest is the
// suite that both pass.
package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Position is the place of an event in the log: 1, 2, 3, … without a hole and in
// commit order. 0 is before the first event. The high bits are 0; they are
// reserved for the number of a log.
type Position uint64

// Version counts the events of a stream: 1, 2, 3, … without a hole. The version of
// an unused stream is 0.
type Version uint64

// Hash identifies the use of a key: a digest of the client id, the command's name
// and its decoded data.
type Hash [16]byte

// Event is an event in its stored form.
type Event struct {
	// Type is the stored name, which the aggregate's definition chooses.
	Type string
	// Form is the version of the stored form of Data; 1 is the first, and 0
	// means 1.
	Form int
	// Data is a JSON document.
	Data json.RawMessage
}

// Meta describes the command of a commit.
type Meta struct {
	// Client is the id of the client that sent the command.
	Client string `json:"client,omitempty"`
	// Trace is the W3C traceparent of the command.
	Trace string `json:"trace,omitempty"`
	// Depth is the number of commands of process managers that led to this one,
	// itself included: 0 for a command of a client, a wake-up or a schedule.
	Depth int `json:"depth,omitempty"`
	// Wake is when the aggregate is to be woken, as its state after the commit
	// says. It is zero if its type has no wake-ups.
	Wake Wake `json:"wake,omitzero"`
}

// A Wake is the time at which an aggregate asks for a command. Its JSON form is
// [Micros, Revision]; Known is true in every decoded one.
type Wake struct {
	Known bool
	// Micros is the time in microseconds since 1970, 0 for none.
	Micros int64
	// Revision is that of the type's definition which has computed the time.
	Revision int
}

// MarshalJSON implements [json.Marshaler].
func (w Wake) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d]", w.Micros, w.Revision), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (w *Wake) UnmarshalJSON(data []byte) error {
	var pair []int64
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if len(pair) != 2 || pair[1] < math.MinInt32 || pair[1] > math.MaxInt32 {
		return errors.New("a wake is [microseconds since 1970, revision]")
	}
	*w = Wake{Known: true, Micros: pair[0], Revision: int(pair[1])}
	return nil
}

// Commit has the events of one command. Their positions are
// Position-len(Events)+1 … Position, and their versions
// Version-len(Events)+1 … Version. A Commit that was read or announced is shared
// and must not be changed.
type Commit struct {
	Position Position // of the last event
	Stream   StreamID
	Version  Version // of the last event
	Key      string
	At       time.Time // UTC, microseconds
	Meta     Meta
	Events   []Event
}

// First returns the position of the commit's first event.
func (c *Commit) First() Position { return c.Position - Position(len(c.Events)) + 1 }

// FirstVersion returns the version of the commit's first event.
func (c *Commit) FirstVersion() Version { return c.Version - Version(len(c.Events)) + 1 }

// Command is a decided command to store.
type Command struct {
	// Key identifies the command within its stream, forever. Required.
	Key string
	// Hash is compared with the stored one if the log knows the key. If they
	// differ, the key was reused.
	Hash Hash
	// At is the time of the decision, stored in UTC with microseconds.
	At   time.Time
	Meta Meta
	// Events is empty if the command was refused or changed nothing. Such a
	// command is checked like any other, and stores no commit.
	Events []Event
	// Answer is the caller's record of the outcome of a command without events:
	// an opaque JSON document that is returned with the known key.
	Answer json.RawMessage
	// Keep makes the outcome of a command without events final for a day: it is
	// stored, and returned to callers that use the key again.
	Keep bool
}

// Unit is one or more consecutive commands on one stream, decided one after
// another from the state at Expected. It succeeds or fails as a whole.
type Unit struct {
	Stream   StreamID
	Expected Version
	Commands []Command
}

// Appended has the places of a unit's commands.
type Appended struct {
	// Commands has one element per command, in order. A command without events
	// has the version and position of the command before it. If the unit has no
	// earlier event, Position is 0.
	Commands []Place
}

// Stored reports whether the unit had events.
func (a Appended) Stored() bool {
	return slices.ContainsFunc(a.Commands, func(p Place) bool { return p.Position > 0 })
}

// Place is the version and the position of a command's last event.
type Place struct {
	Version  Version
	Position Position
}

// First is the first outcome of a known key.
type First struct {
	// Index is the index of the command in the refused unit.
	Index int
	// Reused reports that the first use had another Hash. The other fields are
	// then zero.
	Reused bool
	// Place is the place of the first use's events. If it had none, Place has
	// only the version at which it was decided.
	Place Place
	// Answer is the kept answer of a command without events.
	Answer json.RawMessage
}

// Snapshot is a state from which loading starts instead of the first event. It is a
// cache: it can be deleted at any time, and is not used after a change of
// Fingerprint.
type Snapshot struct {
	Stream StreamID
	// Version, Position and At are those of the last event in the state.
	Version  Version
	Position Position
	At       time.Time
	// Fingerprint names the schema of State.
	Fingerprint string
	State       json.RawMessage
}

// LoadBytes bounds the events in a page of Load. A page ends with the commit that
// reaches it.
const LoadBytes = 1 << 20

// LoadRequest selects a page for Load.
type LoadRequest struct {
	Stream StreamID
	// Fingerprint selects the snapshot to start from. Empty means none.
	Fingerprint string
	// After is the version after which Load reads if it finds no snapshot.
	After Version
	// Limit bounds the number of commits.
	Limit int
}

// Loaded is a page of a stream.
type Loaded struct {
	// Snapshot is the state before Commits. It is nil if none has the
	// fingerprint.
	Snapshot *Snapshot
	// Commits follow the snapshot, or LoadRequest.After. The first one may also
	// have events at or below that version.
	Commits []Commit
	// More reports whether the stream may have commits after these.
	More bool
}

// Head is the newest commit of a stream.
type Head struct {
	Version  Version // 0 for an unused stream
	Position Position
}

// Store is a log. It is safe for concurrent use.
//
// Every method returns ErrUnavailable if the database is not reachable and nothing
// was done, and ErrWentBack after the store has detected that the log lacks
// events which it has seen.
type Store interface {
	// Append stores a unit. After any error but ErrUnknown, nothing was stored:
	//
	//   - *KnownKeysError: the log has keys of the unit. Keys are checked before
	//     the version.
	//   - *ConflictError: the stream is not at Expected.
	//   - *InvalidError: the data cannot be stored.
	//   - ErrUnavailable: the database is not reachable.
	//   - ErrClosed: the store is closed.
	//   - ErrUnknown: the unit may or may not have been stored. Append returns
	//     this only after its deadline.
	//
	// Units of concurrent callers that arrive while a batch is in flight form the
	// next batch, which is stored with one flush of the disk. Cancelling the
	// context ends only the wait for a place in a batch, never an append in
	// flight.
	Append(ctx context.Context, u Unit) (Appended, error)

	// ReadStream returns at most limit commits of a stream that have events after
	// a version, oldest first. The first one may also have events at or below
	// that version.
	ReadStream(ctx context.Context, s StreamID, after Version, limit int) ([]Commit, error)

	// Read returns at most limit commits that have events after a position, in
	// order; none at the head. The first one may also have events at or below
	// the position. The error for a hole is a *DamagedError.
	Read(ctx context.Context, after Position, limit int) ([]Commit, error)

	// ReadType is Read for the streams of a type. It examines about scan
	// positions, and returns every matching commit from there up to upTo.
	ReadType(ctx context.Context, typ string, after Position, limit, scan int) (commits []Commit, upTo Position, err error)

	// Head returns the position of the newest event, 0 for an empty log.
	Head(ctx context.Context) (Position, error)

	// StreamHead returns the newest version of a stream, and its position.
	StreamHead(ctx context.Context, s StreamID) (Head, error)

	// Load returns a page of a stream, with the snapshot that has the request's
	// fingerprint. Both are read at one moment, in one call to the database. A
	// page has at most Limit commits and about LoadBytes.
	Load(ctx context.Context, r LoadRequest) (Loaded, error)
	// SaveSnapshot stores a snapshot, unless the store has a newer one with the
	// same fingerprint. The store keeps two snapshots of a stream: this one, and
	// the last one of all other fingerprints. Therefore two versions of a program
	// do not delete each other's snapshots.
	SaveSnapshot(ctx context.Context, s Snapshot) error

	// LogID returns the log's incarnation. It changes only when an operator
	// accepts that a restored log lost its newest events.
	LogID() string
	// Witness reports a commit that the node has seen elsewhere, in the
	// incarnation named log. From then on the store's log must have it.
	Witness(log string, c *Commit)
	// Check compares the log with the newest commit that this store has seen. It
	// returns ErrWentBack if the log lacks that commit. From then on every method
	// returns it, until Resume.
	Check(ctx context.Context) error
	// Resume accepts a log that went back, and returns its head. It returns
	// ErrWentBack until an operator has accepted the loss, which changes LogID,
	// or the lost events are back. The caller must first drop everything that it
	// knows of the lost history: sessions, states, commands in flight. Whichever
	// method detected the loss, no method reads the new history or appends to it
	// before Resume.
	Resume(ctx context.Context) (Position, error)

	// Close waits for the batch in flight and releases the database. Units that
	// were not yet sent get ErrClosed.
	Close() error
}

// Busy is a Store that reports how many appends wait for their outcome, so that other work
// on the database can give way to them. The two implementations of Store do.
type Busy interface {
	// Appending returns the number of units that wait for their outcome.
	Appending() int
}

// Committed is called with the commits that the store itself has stored in the
// incarnation named log. A batch is in order and has no hole. The call precedes
// the results of Append for the batch. It must not block.
type Committed func(log string, batch []Commit)
