package groups

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/group"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

// ExchangerConfig configures an Exchanger. All fields but Local are required.
type ExchangerConfig struct {
	// Self is this node's id.
	Self string
	// Local coordinates the groups that this node owns; nil if it runs no processors.
	Local group.Coordinator
	// Owner returns the member that coordinates a group by the ring, "" if there is
	// none: (*placement.Placement).Coordinator.
	Owner func(group string) string
	// View returns the newest view of the cluster.
	View func() *cluster.View
	// Peer returns the calls to a peer's address: (*transport.Pool).Peer.
	Peer func(addr string) transport.Client
}

// Exchanger carries reports to the coordinators of groups. It asks the member that
// answered last until that one refuses, and else the owner by the ring. It is safe for
// concurrent use.
type Exchanger struct {
	cfg ExchangerConfig

	mu   sync.Mutex
	last map[string]string // the member that answered last, by group
}

// NewExchanger returns an Exchanger.
func NewExchanger(cfg ExchangerConfig) *Exchanger {
	return &Exchanger{cfg: cfg, last: map[string]string{}}
}

// Exchange implements group.Coordinator.
func (e *Exchanger) Exchange(ctx context.Context, r group.Report) (group.Answer, error) {
	to := e.coordinator(r.Group)
	if to == "" {
		return group.Answer{}, fmt.Errorf("groups: no reachable node coordinates the group %q", r.Group)
	}
	var a group.Answer
	var err error
	if to == e.cfg.Self && e.cfg.Local != nil {
		a, err = e.cfg.Local.Exchange(ctx, r)
	} else {
		a, err = e.remote(ctx, to, r)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err == nil:
		e.last[r.Group] = to
	case !errors.Is(context.Cause(ctx), errWoken):
		delete(e.last, r.Group)
	}
	return a, err
}

func (e *Exchanger) coordinator(name string) string {
	e.mu.Lock()
	last := e.last[name]
	e.mu.Unlock()
	if last != "" {
		return last
	}
	return e.cfg.Owner(name)
}

func (e *Exchanger) remote(ctx context.Context, to string, r group.Report) (group.Answer, error) {
	for _, m := range e.cfg.View().Members {
		if m.ID != to {
			continue
		}
		a, err := e.cfg.Peer(m.PeerAddr).Groups(ctx, reportToPeer(r))
		if err != nil {
			return group.Answer{}, err
		}
		return answerFromPeer(a), nil
	}
	return group.Answer{}, fmt.Errorf("groups: the coordinator %q has left", to)
}

// Serve answers a report of another node with a coordinator. The error is one of
// package transport.
func Serve(ctx context.Context, c group.Coordinator, req *peer.GroupReport) (*peer.GroupAnswer, error) {
	a, err := c.Exchange(ctx, reportFromPeer(req))
	switch {
	case errors.Is(err, group.ErrNotCoordinator):
		return nil, transport.Errorf(transport.FailedPrecondition, "%w", err)
	case err != nil:
		return nil, err
	}
	return answerToPeer(a), nil
}

func reportToPeer(r group.Report) *peer.GroupReport {
	p := &peer.GroupReport{Group: r.Group, Gateway: r.Gateway, Boot: r.Boot, Number: r.Number, Seen: r.Seen}
	for _, s := range r.Sessions {
		one := &peer.GroupSession{Id: s.ID, Client: s.Client, Member: s.Member, Closed: s.Closed, Known: s.Known}
		for _, t := range s.Tenures {
			one.Tenures = append(one.Tenures, &peer.GroupTenure{
				Segment: t.Segment, Epoch: t.Epoch, First: uint64(t.First), Last: uint64(t.Last), Released: t.Released,
			})
		}
		p.Sessions = append(p.Sessions, one)
	}
	return p
}

func reportFromPeer(p *peer.GroupReport) group.Report {
	r := group.Report{Group: p.Group, Gateway: p.Gateway, Boot: p.Boot, Number: p.Number, Seen: p.Seen}
	for _, s := range p.Sessions {
		one := group.Session{ID: s.Id, Client: s.Client, Member: s.Member, Closed: s.Closed, Known: s.Known}
		for _, t := range s.Tenures {
			one.Tenures = append(one.Tenures, group.Tenure{
				Segment: t.Segment, Epoch: t.Epoch, First: eventstore.Position(t.First), Last: eventstore.Position(t.Last), Released: t.Released,
			})
		}
		r.Sessions = append(r.Sessions, one)
	}
	return r
}

func answerToPeer(a group.Answer) *peer.GroupAnswer {
	p := &peer.GroupAnswer{AgeUs: a.Age.Microseconds() + 1, Digest: a.Digest}
	for _, s := range a.Sessions {
		one := &peer.GroupHeld{Session: s.Session, Replaced: s.Replaced}
		for _, h := range s.Holdings {
			one.Holdings = append(one.Holdings, &peer.GroupHolding{
				Segment: h.Segment, Epoch: h.Epoch, Segments: uint32(h.Segments), Position: uint64(h.Position), Log: h.Log,
				Window: uint32(h.Window), Revoking: h.Revoking, Halt: string(h.Halt), Sequence: h.Sequence,
			})
		}
		p.Sessions = append(p.Sessions, one)
	}
	return p
}

func answerFromPeer(p *peer.GroupAnswer) group.Answer {
	a := group.Answer{Age: time.Duration(p.AgeUs) * time.Microsecond, Digest: p.Digest}
	for _, s := range p.Sessions {
		one := group.Held{Session: s.Session, Replaced: s.Replaced}
		for _, h := range s.Holdings {
			one.Holdings = append(one.Holdings, group.Holding{
				Segment: h.Segment, Epoch: h.Epoch, Segments: int(h.Segments), Position: eventstore.Position(h.Position), Log: h.Log,
				Window: int(h.Window), Revoking: h.Revoking, Halt: group.Halt(h.Halt), Sequence: h.Sequence,
			})
		}
		a.Sessions = append(a.Sessions, one)
	}
	return a
}
