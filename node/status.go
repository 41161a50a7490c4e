package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/ring"
)

// ClusterStatus is the body of GET /v1/cluster: the cluster as one node sees it, and
// that node's counters.
type ClusterStatus struct {
	Node    string         `json:"node"`
	Version string         `json:"version"`
	State   string         `json:"state"`
	Problem string         `json:"problem,omitempty"`
	Log     string         `json:"log"`
	Members []MemberStatus `json:"members"`
	// Lost are members that disappeared in the last hour without an announcement, and
	// that are not back.
	Lost []LostMember `json:"lost"`
	// GossipKeys names the keys that this node accepts, the one that it encrypts with
	// first. An empty list means unencrypted gossip.
	GossipKeys []string   `json:"gossip_keys"`
	Ring       RingStatus `json:"ring"`
	// Owner is the owner of the aggregate in ?aggregate=type/id.
	Owner *OwnerStatus `json:"owner,omitempty"`
	// Commands counts commands and gets of this node.
	Commands router.Stats `json:"commands"`
	// Links are this node's links to domain nodes.
	Links []router.LinkStatus `json:"links"`
	// Feed describes how this node receives events.
	Feed feed.Stats `json:"feed"`
	// Sessions counts the sessions on this node.
	Sessions int `json:"sessions"`
}

// MemberStatus is a member of the cluster.
type MemberStatus struct {
	ID string `json:"id"`
	// State is "starting", "ready", "not-ready" or "draining". Only a "ready" member
	// answers /readyz with 200; a "not-ready" one still owns aggregates.
	State string `json:"state"`
	// Problem is why a member is "not-ready", or what is wrong with a "ready" one.
	Problem string   `json:"problem,omitempty"`
	Roles   []string `json:"roles"`
	// Version is the version of its program; empty if it is too old to announce one.
	Version string `json:"version"`
	// AgeSeconds is the time since its start. The start is by the member's clock, the
	// present by this node's.
	AgeSeconds int64  `json:"age_seconds"`
	Peer       string `json:"peer"`
	HTTP       string `json:"http"`
	Partitions int    `json:"partitions"`
	// Sessions counts the sessions of a gateway. It is missing if the member is not a
	// gateway or did not answer within 0.3 s.
	Sessions *int `json:"sessions,omitempty"`
	// ClockMS is how far the member's clock is ahead of the database's, in
	// milliseconds; 0 while the two agree to 2 s.
	ClockMS int64 `json:"clock_ms"`
	// Ring is the signature of the ring that the member announced. While it differs
	// from this node's, the two disagree about owners.
	Ring string `json:"ring"`
	// Projections is what the member works on for projections, relays and intakes, at
	// most a second ago, with ?projections=true. It is missing otherwise, and if the member is too old or
	// did not answer within 0.3 s.
	Projections *ProjectionWork `json:"projections,omitempty"`
}

// NotReady is the state of a member that runs but does not serve.
const NotReady = "not-ready"

// LostMember is a member that disappeared without an announcement: it was killed, or
// its machine or the network to the asked node failed.
type LostMember struct {
	ID      string   `json:"id"`
	Roles   []string `json:"roles"`
	Version string   `json:"version"`
	Peer    string   `json:"peer"`
	HTTP    string   `json:"http"`
	// LostSeconds is the time since the asked node noticed the loss.
	LostSeconds int64 `json:"lost_seconds"`
}

// RingStatus describes the ring.
type RingStatus struct {
	Signature  string `json:"signature"`
	Partitions int    `json:"partitions"`
	Owners     int    `json:"owners"`
}

// OwnerStatus is the owner of an aggregate.
type OwnerStatus struct {
	Aggregate string `json:"aggregate"`
	Partition int    `json:"partition"`
	Member    string `json:"member"` // empty: no domain node is ready
}

func (n *node) handler() http.Handler {
	mux := http.NewServeMux()
	if n.gateway != nil {
		mux.Handle("/v1/", n.unlessLeft(n.gateway.Handler()))
	} else {
		mux.HandleFunc("/v1/", refuseClient)
	}
	if n.cfg.Handler != nil {
		mux.Handle("/", n.cfg.Handler)
	}
	if n.cfg.devConsole {
		mux.Handle(consolePath, n.consoleHandler())
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.ready(); err != nil {
			writeText(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		writeText(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", n.unlessStranger(n.metrics()))
	mux.Handle("GET /v1/cluster", n.unlessStranger(http.HandlerFunc(n.serveCluster)))
	return mux
}

// refuseClient answers a client at a node without the gateway role.
func refuseClient(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write(frame.Fault{ // an error means that the client is gone
		Code: command.CodeNotFound, Retry: command.RetryNo,
		Message: "this node has no gateway role: use a node that has (GET /v1/cluster lists the members)",
	}.Append(nil))
}

// unlessLeft rejects requests once the node has left the cluster.
func (n *node) unlessLeft(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.leaving.hasLeft() {
			writeText(w, http.StatusServiceUnavailable, errDrained.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// drainedState is the state of a node that has left the cluster and still runs.
const drainedState = "drained"

// stateName returns the node's state, which is drainedState once it has left.
func (n *node) stateName() string {
	if n.leaving.hasLeft() {
		return drainedState
	}
	return n.status.Load().state.String()
}

func (n *node) serveCluster(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(query["aggregate"]) > 1 {
		writeText(w, http.StatusBadRequest, "the query string is invalid: write aggregate=type/id once, percent-encoded")
		return
	}
	status := n.clusterStatus(r.Context())
	if query.Get("projections") == "true" {
		n.addWork(r.Context(), status.Members)
	}
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
	_ = enc.Encode(status) // an error means that the client is gone
}

func (n *node) clusterStatus(ctx context.Context) ClusterStatus {
	now, owners, view := n.status.Load(), n.router.Ring(), n.cluster.View()
	counts := owners.Counts()
	s := ClusterStatus{
		Node: n.cfg.Name, Version: Version(), State: stateOf(now.state, n.problem()), Log: n.store.LogID(),
		Ring:     RingStatus{Signature: RingSignature(owners), Partitions: ring.Partitions, Owners: len(owners.Members())},
		Commands: n.router.Stats(), Links: n.router.Links(), Feed: n.feed.Stats(),
		GossipKeys: n.gossip.Names(), Lost: []LostMember{},
	}
	if err := now.problem(); err != nil {
		s.Problem = err.Error()
	}
	if n.gateway != nil {
		s.Sessions = n.gateway.Stats().Sessions
	}
	counted := n.sessions.of(ctx, view.Members)
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

// stateOf returns the state of a member as operators see it.
func stateOf(s cluster.State, p cluster.Problem) string {
	if s == cluster.Ready && !p.Serves() {
		return NotReady
	}
	return s.String()
}

// wholeSeconds returns a duration in whole seconds, 0 if it is negative.
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

// RingSignature returns the signature of a ring in the form of RingStatus.Signature.
func RingSignature(r *ring.Ring) string { return signature(r.Signature()) }

func signature(s uint64) string { return fmt.Sprintf("%016x", s) }

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, text)
}
