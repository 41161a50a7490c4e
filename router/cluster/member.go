package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// State is a member's stage of life.
type State uint8

const (
	// Starting members are reachable and own nothing yet.
	Starting State = iota
	// Ready members own aggregates, if they have the domain role.
	Ready
	// Draining members finish their work and will leave.
	Draining
)

// String returns "starting", "ready" or "draining".
func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Ready:
		return "ready"
	case Draining:
		return "draining"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// MarshalText returns String, for JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Problem is a fault of a ready member, as it announces it. Other nodes show it.
// The member still owns its aggregates.
type Problem uint8

const (
	// NoProblem is also the value for old programs that announce no problems.
	NoProblem Problem = iota
	// LogWentBack means that events that the member has seen are gone from the log.
	LogWentBack
	// EventsLate means that the member reads events too slowly.
	EventsLate
	// NothingHeard means that the member reads neither the log nor the streams of
	// all domain nodes.
	NothingHeard
	// NoOwnerInSight means that the member sees no ready domain node.
	NoOwnerInSight
	// RefusesSessions means that the member's gateway accepts no sessions for
	// another reason.
	RefusesSessions
	// StoreRefuses means that the member's database does not answer or stores
	// nothing.
	StoreRefuses
	// FilesBad means that certificates, keys or revocations, which the member
	// reads again, are missing or invalid.
	FilesBad
)

// Serves reports whether a member with this problem serves clients. If not, its
// /readyz answers 503.
func (p Problem) Serves() bool { return p == NoProblem || p == StoreRefuses || p == FilesBad }

// String returns a short phrase, and "" for NoProblem.
func (p Problem) String() string {
	switch p {
	case NoProblem:
		return ""
	case LogWentBack:
		return "the log went back"
	case EventsLate:
		return "events arrive late"
	case NothingHeard:
		return "neither the log nor all domain nodes are heard"
	case NoOwnerInSight:
		return "no ready domain node is in sight"
	case RefusesSessions:
		return "its gateway takes no sessions"
	case StoreRefuses:
		return "its database does not answer, or stores nothing; its log says why"
	case FilesBad:
		return "files of secrets are missing or not good, and a restart would fail; its log names them"
	}
	return fmt.Sprintf("problem %d, which a newer program knows", uint8(p))
}

// MarshalText returns String, for JSON.
func (p Problem) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Member is a node of the cluster.
type Member struct {
	// ID is the node's name: unique, and the same after a restart. The ring is
	// made of ids.
	ID string `json:"id"`
	// Boot is the start time of this run of the node, in nanoseconds since 1970. Of
	// two runs with one id, only the newer is in a View.
	Boot uint64 `json:"boot"`
	// Domain nodes own aggregates, Gateway nodes serve clients.
	Domain  bool `json:"domain"`
	Gateway bool `json:"gateway"`
	// System is set if the member passes on system commands, and refuses keys and
	// clients from others that begin with ~. Older programs do neither.
	System bool  `json:"system,omitempty"`
	State  State `json:"state"`
	// PeerAddr is the address (host:port) for other nodes, and HTTPAddr the address
	// for clients. Empty: the node has no such listener.
	PeerAddr string `json:"peer_addr,omitempty"`
	HTTPAddr string `json:"http_addr,omitempty"`
	// Ring is the signature of the node's ring, or 0 before its first.
	Ring uint64 `json:"ring"`
	// ClockMS is how far the node's clock is ahead of the database's, in
	// milliseconds; negative if it is behind, 0 if they agree.
	ClockMS int64 `json:"clock_ms"`
	// Problem is the fault that a Ready member announces.
	Problem Problem `json:"problem,omitempty"`
	// Version is the version of the member's program: at most 64 printable ASCII
	// characters, fewer if it does not fit into gossip. Empty: the program does
	// not announce one.
	Version string `json:"version,omitempty"`
	// Projections are the projections that the member can run; see
	// [ProjectionSet]. Empty: it runs none.
	Projections string `json:"projections,omitempty"`
}

// Lost is a member that vanished without an announcement.
type Lost struct {
	Member Member    // as last announced
	At     time.Time // when this node noticed, by this node's clock
}

// View is the cluster as this node sees it at one moment, including this node. It
// must not be changed.
type View struct {
	Members []Member // sorted by ID, without repetitions
}

// Owners returns the ids of the members that own aggregates, sorted: the ready
// members with the domain role. The caller owns the slice.
func (v *View) Owners() []string {
	var ids []string
	for _, m := range v.Members {
		if m.Domain && m.State == Ready {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// WithoutSystem returns the id of a member that does not pass on system commands, ""
// if all do.
func (v *View) WithoutSystem() string {
	for _, m := range v.Members {
		if !m.System {
			return m.ID
		}
	}
	return ""
}

// Member returns the member with an id.
func (v *View) Member(id string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(v.Members, id, func(m Member, id string) int {
		return strings.Compare(m.ID, id)
	})
	if !ok {
		return Member{}, false
	}
	return v.Members[i], true
}
