package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// State says what a member may be asked to do.
type State uint8

const (
	// Starting members are reachable and own nothing yet.
	Starting State = iota
	// Ready members own aggregates, if they have the domain role.
	Ready
	// Draining members finish what they have and are about to leave.
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

// MarshalText makes a State readable in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Problem says what is wrong with a ready member. It is told to the other nodes
// and changes nothing about owners.
type Problem uint8

const (
	// NoProblem is also what programs say that know of no problems.
	NoProblem Problem = iota
	// LogWentBack: events that the member has seen are gone.
	LogWentBack
	// EventsLate: the member reads the events that it knows of too slowly.
	EventsLate
	// NothingHeard: neither the log nor all domain nodes are heard.
	NothingHeard
	// NoOwnerInSight: the member sees no ready domain node.
	NoOwnerInSight
	// RefusesSessions: the member's gateway takes no sessions for another
	// reason.
	RefusesSessions
	// StoreRefuses: the member's database does not answer or stores nothing.
	StoreRefuses
	// FilesBad: certificates, keys or revocations that the member reads again
	// are missing or not good.
	FilesBad
)

// Serves reports whether a member with this problem serves all the same; else
// its /readyz answers 503.
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

// MarshalText makes a Problem readable in JSON.
func (p Problem) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Member is a node as the cluster knows it.
type Member struct {
	// ID is the node's stable name: the same across restarts, and unique. The
	// ring is made of ids.
	ID string `json:"id"`
	// Boot tells one run of the node from another: the time it started, in
	// nanoseconds since 1970. Of two runs with one id, the newest counts.
	Boot uint64 `json:"boot"`
	// Domain nodes own aggregates, Gateway nodes serve clients.
	Domain  bool  `json:"domain"`
	Gateway bool  `json:"gateway"`
	State   State `json:"state"`
	// PeerAddr (host:port) is where other nodes reach it, HTTPAddr where
	// clients do; empty where there is no such listener.
	PeerAddr string `json:"peer_addr,omitempty"`
	HTTPAddr string `json:"http_addr,omitempty"`
	// Ring is the signature of the ring that the node last announced, 0
	// before the first.
	Ring uint64 `json:"ring"`
	// ClockMS is how far the node's clock is ahead of the database's, in
	// milliseconds, negative if it is behind; 0 while the node finds that the
	// two agree.
	ClockMS int64 `json:"clock_ms"`
	// Problem says what is wrong with the member although it is Ready.
	Problem Problem `json:"problem,omitempty"`
	// Version is the version of the member's program, in at most 64 printable
	// ASCII characters, which is cut where it does not fit into gossip; empty for
	// programs that do not tell theirs.
	Version string `json:"version,omitempty"`
}

// Lost is a member that went without taking leave.
type Lost struct {
	Member Member    // as it was last heard
	At     time.Time // when this node noticed, by this node's clock
}

// View is the cluster as this node sees it at one moment, this node included.
// It is immutable: nobody changes it or what it points to.
type View struct {
	Members []Member // sorted by ID, each id once
}

// Owners returns the sorted ids of the members that own aggregates: the ready
// ones with the domain role. The slice is the caller's own.
func (v *View) Owners() []string {
	var ids []string
	for _, m := range v.Members {
		if m.Domain && m.State == Ready {
			ids = append(ids, m.ID)
		}
	}
	return ids
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
