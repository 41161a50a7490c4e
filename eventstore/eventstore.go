// Package eventstore is the contract of the log: every event of every
// aggregate, once, in one dense order.
//
// A log holds commits. A commit is what one command did to one stream: one or
// more events, stored together or not at all. Versions count a stream's events
// 1, 2, 3, … and positions count the log's, both without a hole and in commit
// order, so that a reader who has seen position p knows that nothing at or
// below p will ever appear.
//
// Writers hand in units (consecutive commands on one stream, decided on one
// state). A unit names the version it was decided at; the store accepts one
// writer per stream version, so two nodes that both believe they own an
// aggregate cost a retry and never an event. Every command carries a key, and
// a key's first answer is its answer for ever.
//
// The packages postgres and sqlite implement Store; storetest is the suite
// that both pass.
package eventstore

import (
	"context"
	"encoding/json"
	"slices"
	"time"
)

// Position is an event's place in the log: 1, 2, 3, … dense and in commit
// order. 0 lies before the first event. The high bits are kept free for the
// number of a log, should there one day be several; today they are 0.
type Position uint64

// Version counts the events of one stream: 1, 2, 3, … without a hole. An
// unused stream is at 0.
type Version uint64

// Hash identifies what a key was first used for: a digest of the client id,
// the command's name and its decoded data.
type Hash [16]byte

// Event is one event in its stored form.
type Event struct {
	// Type is the stored name, chosen in the aggregate's definition.
	Type string
	// Form is the version of the stored form of Data; 1 is the first, and 0
	// means 1.
	Form int
	// Data is a JSON document.
	Data json.RawMessage
}

// Meta is what a commit remembers about its command besides its effect.
type Meta struct {
	// Client is the id of the client that sent the command.
	Client string `json:"client,omitempty"`
	// Trace is the W3C traceparent that came with it.
	Trace string `json:"trace,omitempty"`
}

// Commit is what one command did: Events hold the positions
// Position-len(Events)+1 … Position and the versions
// Version-len(Events)+1 … Version. A Commit that was read or announced is
// shared: nobody changes it.
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

// Command is one decided command on its way into the log.
type Command struct {
	// Key identifies the command within its stream, for ever. Required.
	Key string
	// Hash is compared when the key is known: a different one is a reused key.
	Hash Hash
	// At is when the command was decided; stored in UTC at microseconds.
	At   time.Time
	Meta Meta
	// Events is what the command did. Empty means that it was refused or
	// changed nothing; such a command is checked like any other and leaves
	// no commit.
	Events []Event
	// Answer, for a command without events, is the caller's own record of its
	// outcome: an opaque JSON document that is given back with the key.
	Answer json.RawMessage
	// Keep makes the outcome of a command without events final for a day: it
	// is stored, and given back to whoever sends the key again.
	Keep bool
}

// Unit is one or more consecutive commands on one stream, decided one after
// another from the state at Expected. It succeeds or fails whole.
type Unit struct {
	Stream   StreamID
	Expected Version
	Commands []Command
}

// Appended tells where a unit's commands went.
type Appended struct {
	// Commands has one element per command of the unit, in order. A command
	// without events stands at the version and position of what came before
	// it; when nothing came before it in this unit, Position is 0.
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

// First is the first answer of a key that the log already knew.
type First struct {
	// Index is the command's place in the unit that was refused.
	Index int
	// Reused says that the key was first used with another Hash; the other
	// fields are then zero.
	Reused bool
	// Place is where the first use's events are; for an outcome without
	// events, the version that it was decided at.
	Place Place
	// Answer is the kept answer of an outcome without events, else nil.
	Answer json.RawMessage
}

// Snapshot is a state that a host may start from instead of a stream's first
// event. It is a cache: always safe to delete, never trusted across a change
// of Fingerprint.
type Snapshot struct {
	Stream StreamID
	// Version and Position are those of the last event in the state, At is
	// its time.
	Version  Version
	Position Position
	At       time.Time
	// Fingerprint names the schema of State.
	Fingerprint string
	State       json.RawMessage
}

// LoadBytes bounds the events in one page that Load returns. A page ends with
// the commit that reaches it.
const LoadBytes = 1 << 20

// LoadRequest is what Load reads.
type LoadRequest struct {
	Stream StreamID
	// Fingerprint names the snapshot to start from; empty means none.
	Fingerprint string
	// After is the version to read after if Load finds no snapshot.
	After Version
	// Limit bounds the number of commits.
	Limit int
}

// Loaded is one page of a stream, as Load returns it.
type Loaded struct {
	// Snapshot is the state before Commits; nil if there is none with the
	// fingerprint.
	Snapshot *Snapshot
	// Commits follow the snapshot, or LoadRequest.After. The first may also
	// hold events at or below that version.
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
// Every method reports ErrUnavailable when the database can't be reached and
// nothing was done, and ErrWentBack once the log was found to be older than
// what this store has seen of it.
type Store interface {
	// Append stores a unit, or says why not:
	//
	//   - *KnownKeysError: keys of the unit are known; nothing was stored.
	//     This is checked before the version.
	//   - *ConflictError: the stream is not at Expected; nothing was stored.
	//   - *InvalidError: the database refuses the data; nothing was stored.
	//   - ErrUnavailable: nothing was stored.
	//   - ErrUnknown: the unit may or may not have been stored. Append says
	//     so only after it has tried to find out until its deadline.
	//   - ErrClosed: the store is closed; nothing was stored.
	//
	// Append gathers what all callers hand in while the previous batch is in
	// flight, and stores each batch with one flush of the disk. The context
	// ends only the wait for a place in a batch (nothing was stored), never
	// an append under way.
	Append(ctx context.Context, u Unit) (Appended, error)

	// ReadStream returns commits of a stream that hold events after a
	// version, oldest first, at most limit commits. The first may also hold
	// events at or below after.
	ReadStream(ctx context.Context, s StreamID, after Version, limit int) ([]Commit, error)

	// Read returns commits that hold events after a position, in order, at
	// most limit commits; none at the head. The first may also hold events
	// at or below after. A hole is a damaged log: *DamagedError.
	Read(ctx context.Context, after Position, limit int) ([]Commit, error)

	// ReadType reads like Read, but returns only commits whose stream is of a
	// type. It looks at no more than scan positions and returns how far it
	// looked: every matching commit at or below upTo has been returned.
	ReadType(ctx context.Context, typ string, after Position, limit, scan int) (commits []Commit, upTo Position, err error)

	// Head returns the position of the newest event, 0 for an empty log.
	Head(ctx context.Context) (Position, error)

	// StreamHead returns the newest version of a stream, and its position.
	StreamHead(ctx context.Context, s StreamID) (Head, error)

	// Load returns a page of a stream, with the snapshot that has the
	// request's fingerprint: both as of one moment, and in one call to the
	// database. A page holds at most Limit commits and about LoadBytes.
	Load(ctx context.Context, r LoadRequest) (Loaded, error)
	// SaveSnapshot keeps a snapshot, unless a newer one with its fingerprint
	// is there. Of each stream the store keeps two: this one, and of those
	// with other fingerprints the one that was saved last. So two versions of
	// a program leave each other's snapshots alone.
	SaveSnapshot(ctx context.Context, s Snapshot) error

	// LogID returns the log's incarnation: one history of it. It changes only
	// when an operator accepts that a restored log lost its newest events.
	LogID() string
	// Witness tells the store of a commit of the incarnation log that the node
	// has seen elsewhere than here: the log must never again be without it.
	Witness(log string, c *Commit)
	// Check compares the log with the newest commit that this store has seen,
	// and returns ErrWentBack if that is gone. From then on every method does,
	// until Resume.
	Check(ctx context.Context) error
	// Resume begins again with a log that went back, once an operator has
	// accepted the loss or the lost events are back, and returns its head and
	// takes its LogID; until then it returns ErrWentBack. The caller first lets
	// go of everything that it knows of the lost history: sessions, states, what
	// is on its way. Nothing of the new history is read or appended before
	// Resume, whichever method has noticed the loss.
	Resume(ctx context.Context) (Position, error)

	// Close ends what is under way and releases the database. Commands that
	// were not yet sent get ErrClosed.
	Close() error
}

// Committed is told of every batch that a store itself has stored in the
// incarnation log: dense, in order, before any caller of Append in that batch
// has its answer. It must not block.
type Committed func(log string, batch []Commit)
