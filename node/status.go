package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/ring"
)

// ClusterStatus is the body of GET /v1/cluster: the cluster as one node sees
// it, and what that node has done.
type ClusterStatus struct {
	Node    string         `json:"node"`
	Version string         `json:"version"`
	State   string         `json:"state"`
	Problem string         `json:"problem,omitempty"`
	Log     string         `json:"log"`
	Members []MemberStatus `json:"members"`
	// Lost are members that went without taking leave in the last hour and have
	// not come back, as this node saw it.
	Lost []LostMember `json:"lost"`
	// GossipKeys name the keys that this node understands, the one that it
	// uses first. None means that gossip is open.
	GossipKeys []string   `json:"gossip_keys"`
	Ring       RingStatus `json:"ring"`
	// Owner is the owner of the aggregate asked for with ?aggregate=type/id.
	Owner *OwnerStatus `json:"owner,omitempty"`
	// Commands counts what this node did with commands and gets.
	Commands router.Stats `json:"commands"`
	// Links are this node's links to domain nodes.
	Links []router.LinkStatus `json:"links"`
	// Feed is how this node hears of events.
	Feed feed.Stats `json:"feed"`
	// Sessions counts the sessions on this node.
	Sessions int `json:"sessions"`
}

// MemberStatus is a member of the cluster.
type MemberStatus struct {
	ID string `json:"id"`
	// State is "starting", "ready", "not-ready" or "draining". Only a "ready"
	// one answers /readyz with 200; one that is "not-ready" still owns aggregates.
	State string `json:"state"`
	// Problem says why a member is "not-ready", or what is wrong with one that
	// is "ready".
	Problem string   `json:"problem,omitempty"`
	Roles   []string `json:"roles"`
	// Version is the version of its program; empty if that is too old to tell.
	Version string `json:"version"`
	// AgeSeconds is how long ago it was started, by its clock and this node's.
	AgeSeconds int64  `json:"age_seconds"`
	Peer       string `json:"peer"`
	HTTP       string `json:"http"`
	Partitions int    `json:"partitions"`
	// Sessions counts the sessions of a gateway. It is missing when the member
	// is none, or did not answer at once.
	Sessions *int `json:"sessions,omitempty"`
	// ClockMS is how far the member's clock is ahead of the database's, in
	// milliseconds; 0 while the two agree to 2 s.
	ClockMS int64 `json:"clock_ms"`
	// Ring is the signature of the ring that the member announced; when it
	// differs from this node's, the two disagree about owners for the moment.
	Ring string `json:"ring"`
}

// NotReady is the state of a member that is up and does not serve.
const NotReady = "not-ready"

// LostMember is a member that went without taking leave: it was killed, its
// machine went down, or the network between it and the asked node.
type LostMember struct {
	ID      string   `json:"id"`
	Roles   []string `json:"roles"`
	Version string   `json:"version"`
	Peer    string   `json:"peer"`
	HTTP    string   `json:"http"`
	// LostSeconds is how long ago the asked node noticed.
	LostSeconds int64 `json:"lost_seconds"`
}

// RingStatus is which member owns how much.
type RingStatus struct {
	Signature  string `json:"signature"`
	Partitions int    `json:"partitions"`
	Owners     int    `json:"owners"`
}

// OwnerStatus is where an aggregate lives.
type OwnerStatus struct {
	Aggregate string `json:"aggregate"`
	Partition int    `json:"partition"`
	Member    string `json:"member"` // empty: no domain node is ready
}

func (n *node) handler() http.Handler {
	mux := http.NewServeMux()
	if n.gateway != nil {
		mux.Handle("/v1/", n.unlessLeft(n.gateway.Handler()))
	}
	if n.cfg.Handler != nil {
		mux.Handle("/", n.cfg.Handler)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.ready(); err != nil {
			writeText(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		writeText(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", n.metrics())
	mux.HandleFunc("GET /v1/cluster", n.serveCluster)
	return mux
}

// unlessLeft refuses what only a member can serve.
func (n *node) unlessLeft(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.leaving.done() {
			writeText(w, http.StatusServiceUnavailable, errDrained.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// drainedState is the state of a node that has left and waits to be stopped.
const drainedState = "drained"

// stateName is the node's state, or that it has left.
func (n *node) stateName() string {
	if n.leaving.done() {
		return drainedState
	}
	return n.status.Load().state.String()
}

func (n *node) serveCluster(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(query["aggregate"]) > 1 {
		writeText(w, http.StatusBadRequest, "the query string can't be read: give aggregate=type/id once, percent-encoded")
		return
	}
	status := n.clusterStatus(r.Context())
	if name := query.Get("aggregate"); name != "" {
		s, err := eventstore.ParseStreamID(name)
		if err != nil {
			writeText(w, http.StatusBadRequest, err.Error())
			return
		}
		owners := n.router.Ring()
		owner, _ := owners.Owner(s)
		status.Owner = &OwnerStatus{Aggregate: name, Partition: owners.Partition(s), Member: owner}
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(status) // the client has gone
}

func (n *node) clusterStatus(ctx context.Context) ClusterStatus {
	now, owners, view := n.status.Load(), n.router.Ring(), n.cluster.View()
	counts := owners.Counts()
	s := ClusterStatus{
		Node: n.cfg.Name, Version: Version(), State: stateOf(now.state, n.problem()), Log: n.store.LogID(),
		Ring:     RingStatus{Signature: RingSignature(owners), Partitions: ring.Partitions, Owners: len(owners.Members())},
		Commands: n.router.Stats(), Links: n.router.Links(), Feed: n.feed.Stats(),
		GossipKeys: []string{}, Lost: []LostMember{},
	}
	if err := now.problem(); err != nil {
		s.Problem = err.Error()
	}
	if n.gossip != nil {
		s.GossipKeys = keyNames(*n.gossip.current.Load())
	}
	if n.gateway != nil {
		s.Sessions = n.gateway.Stats().Sessions
	}
	counted := n.census.count(ctx, view.Members)
	for _, m := range view.Members {
		sessions := counted[m.ID]
		if n.gateway != nil && m.ID == s.Node {
			sessions = &s.Sessions
		}
		s.Members = append(s.Members, MemberStatus{
			ID: m.ID, State: stateOf(m.State, m.Problem), Problem: m.Problem.String(), Roles: roles(m),
			Version: m.Version, AgeSeconds: wholeSeconds(n.cfg.Now().Sub(time.Unix(0, int64(m.Boot)))), Peer: m.PeerAddr, HTTP: m.HTTPAddr,
			Partitions: counts[m.ID], Sessions: sessions, ClockMS: m.ClockMS, Ring: signature(m.Ring),
		})
	}
	for _, l := range n.cluster.Lost() {
		s.Lost = append(s.Lost, LostMember{
			ID: l.Member.ID, Roles: roles(l.Member), Version: l.Member.Version, Peer: l.Member.PeerAddr, HTTP: l.Member.HTTPAddr,
			LostSeconds: wholeSeconds(time.Since(l.At)),
		})
	}
	return s
}

// stateOf is a member's state as an operator sees it.
func stateOf(s cluster.State, p cluster.Problem) string {
	if s == cluster.Ready && !p.Serves() {
		return NotReady
	}
	return s.String()
}

// wholeSeconds is a duration in whole seconds, 0 if it is negative.
func wholeSeconds(d time.Duration) int64 { return int64(max(0, d).Seconds()) }

func roles(m cluster.Member) []string {
	r := []string{}
	if m.Domain {
		r = append(r, "domain")
	}
	if m.Gateway {
		r = append(r, "gateway")
	}
	return r
}

// RingSignature is a ring's signature as RingStatus has it.
func RingSignature(r *ring.Ring) string { return signature(r.Signature()) }

func signature(s uint64) string { return fmt.Sprintf("%016x", s) }

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, text)
}
