package group

import (
	"context"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// A Report is everything that a gateway tells the coordinator of a group. It replaces
// the gateway's earlier reports.
type Report struct {
	Group   string
	Gateway string // the node's id
	// Boot identifies the run of the gateway, and Number is raised with each of its
	// reports, so that the coordinator ignores reports that arrive late.
	Boot   string
	Number uint64
	// Sessions are the gateway's members.
	Sessions []Session
	// Seen is the Digest of the last answer. The coordinator holds the answer back for
	// a moment if it would have the same one.
	Seen uint64
}

// A Session is a session of a member, as its gateway reports it.
type Session struct {
	ID             string // unique
	Client, Member string
	// Known reports that a coordinator has answered for this session before, so that it
	// is no newer session of its member.
	Known bool
	// Closed reports that the session has ended. It is reported until an answer.
	Closed bool
	// Tenures are the segments that the session holds, of which there is something to
	// say.
	Tenures []Tenure
}

// A Tenure is what a gateway says about a segment that a session holds.
type Tenure struct {
	Segment string
	Epoch   uint64
	// First and Last are the first and the last event that are pending, 0 if none is.
	First, Last eventstore.Position
	// Released reports that the session gives the revoking segment back.
	Released bool
}

// An Answer is what a coordinator answers to a Report: everything that the gateway's
// sessions hold.
type Answer struct {
	// Age is how long ago the coordinator confirmed with the database that it is the
	// coordinator. The answer holds until Lease has passed since then.
	Age time.Duration
	// Digest names the content besides Age and the positions.
	Digest   uint64
	Sessions []Held
}

// Held is what a session holds.
type Held struct {
	Session  string
	Replaced bool // by a newer session of the member
	Holdings []Holding
}

const (
	// Lease is how long a gateway sends events after it has heard the coordinator, and
	// how long a coordinator that is new, or does not hear a gateway, waits before it
	// gives segments to others. So no event is sent to two members while the first
	// counts as alive. Durations only are compared, never the clocks of two machines.
	Lease = 2 * time.Second
	// Exchange is the longest time between two reports of a gateway, and how long a
	// coordinator holds back an answer that says nothing new.
	Exchange = 250 * time.Millisecond
)

// Fingerprint is what a member of the cluster announces that can coordinate a group, as
// it announces the projections that it can run.
func Fingerprint(name string) string { return "group " + name }

// ErrNotCoordinator reports that a node is not the coordinator of a group, or has not
// confirmed it for too long.
var ErrNotCoordinator = errors.New("group: this node does not coordinate the group")

// Coordinator answers reports. It is safe for concurrent use.
type Coordinator interface {
	// Exchange takes a report, and answers when the answer is another one than the
	// gateway has seen, or after [Exchange]. The error is ErrNotCoordinator or that of
	// ctx.
	Exchange(ctx context.Context, r Report) (Answer, error)
}
