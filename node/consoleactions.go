package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

const (
	// memberTime bounds the answer of one member to an action.
	memberTime = 10 * time.Second
	// maxMoved bounds the sessions of one action: a gateway moves 200 a second.
	maxMoved = 2000
	// drainActionTime is how long the action drain waits until the member has left. The
	// member continues to drain after that.
	drainActionTime = 30 * time.Second
	// verifyTime bounds the check of the whole log. Longer logs need ganglion verify.
	verifyTime = time.Hour
)

// whyNoActions returns why the console cannot record the actions of its users, so it has
// none; "" if it can.
func (n *node) whyNoActions() string {
	if n.cfg.Catalog.HasType(console.OpsType) {
		return fmt.Sprintf("the console has no actions: the application has an aggregate %q, which is the name of the console's record of actions", console.OpsType)
	}
	if err := eventstore.ValidateID(n.cfg.Cluster); err != nil {
		return fmt.Sprintf("the console has no actions: it would record them under the cluster's name, which is %q: %v", n.cfg.Cluster, err)
	}
	return ""
}

// actionArgs are the arguments of all actions.
type actionArgs struct {
	Member  string `json:"member"`
	Session string `json:"session"`
	Client  string `json:"client"`
	Count   int    `json:"count"`
	Level   string `json:"level"`
}

// consoleActions returns what operators can do on the console.
func (n *node) consoleActions() map[string]console.Action {
	with := func(within time.Duration, do func(context.Context, actionArgs) (string, error)) console.Action {
		return console.Action{Within: within, Do: func(ctx context.Context, _ console.User, args json.RawMessage) (string, error) {
			var a actionArgs
			if err := json.Unmarshal(args, &a); len(args) > 0 && err != nil {
				return "", errors.New("the arguments are not the expected JSON object")
			}
			return do(ctx, a)
		}}
	}
	actions := map[string]console.Action{
		"kick_session":  with(2*memberTime, n.kickSession),
		"kick_client":   with(2*memberTime, n.kickClient),
		"move_sessions": with(maxMoved/200*time.Second+memberTime, n.moveSessions),
		"log_level":     with(memberTime, n.changeLogLevel),
		"drain":         with(drainActionTime+memberTime, n.drainMember),

		console.VerifyAction: with(verifyTime, n.verifyLog),
	}
	if _, ok := n.clientRevoker(); ok {
		actions["revoke_client"] = with(2*memberTime, n.revokeClient)
	}
	n.addReadActions(actions)
	return actions
}

// clientRevoker is an authenticator that can revoke the tokens of a client, such as a
// *token.Authenticator with a file of revocations.
type clientRevoker interface {
	RevokesClients() bool
	RevokeClient(client string) error
}

func (n *node) clientRevoker() (clientRevoker, bool) {
	r, ok := n.cfg.Auth.(clientRevoker)
	return r, ok && r.RevokesClients()
}

func (n *node) revokeClient(ctx context.Context, a actionArgs) (string, error) {
	if a.Client == "" {
		return "", errors.New("the argument client is missing")
	}
	revoked, err := n.onGateways(ctx, &peer.SessionsRequest{RevokeClient: a.Client}, func(r *peer.SessionsReply) (int, error) {
		if !r.Revoked {
			return 0, errors.New("it is too old for this: upgrade it")
		}
		return 1, nil
	})
	if err != nil {
		return "", fmt.Errorf("revoked the tokens on %s, and not on all: %w", counted(revoked, "gateway"), err)
	}
	return "revoked the tokens issued until now on " + counted(revoked, "gateway") + "; sessions that use one are closed within a few seconds", nil
}

func (n *node) kickSession(ctx context.Context, a actionArgs) (string, error) {
	if a.Session == "" {
		return "", errors.New("the argument session is missing")
	}
	closed, err := n.onGateways(ctx, &peer.SessionsRequest{KickSession: a.Session}, askedSessions)
	switch {
	case closed > 0:
		return "closed the session with 4004", nil
	case err != nil:
		return "", fmt.Errorf("no gateway that answered has the session: %w", err)
	}
	return "", errors.New("no gateway has the session: it has ended")
}

func (n *node) kickClient(ctx context.Context, a actionArgs) (string, error) {
	if a.Client == "" {
		return "", errors.New("the argument client is missing")
	}
	closed, err := n.onGateways(ctx, &peer.SessionsRequest{KickClient: a.Client}, askedSessions)
	switch {
	case err != nil:
		return "", fmt.Errorf("closed %s; the others may still be open: %w", counted(closed, "session"), err)
	case closed == 0:
		return "", errors.New("no gateway has a session of this client")
	}
	return "closed " + counted(closed, "session") + " with 4004", nil
}

func counted(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

func askedSessions(r *peer.SessionsReply) (int, error) { return int(r.Asked), nil }

// onGateways sends a request to all gateways, and returns the sum of what count returns
// for their replies. The error names the gateways that did not answer or that have an
// error.
func (n *node) onGateways(ctx context.Context, req *peer.SessionsRequest, count func(*peer.SessionsReply) (int, error)) (sum int, err error) {
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
		errs   []string
	)
	for _, m := range n.consoleState().Members {
		if !slices.Contains(m.Roles, "gateway") {
			continue
		}
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, memberTime)
			defer cancel()
			reply, err := n.sessionsOf(ctx, m, req)
			counted := 0
			if err == nil {
				counted, err = count(reply)
			}
			mu.Lock()
			defer mu.Unlock()
			sum += counted
			if err != nil {
				errs = append(errs, m.ID+": "+err.Error())
			}
		})
	}
	asking.Wait()
	if len(errs) > 0 {
		slices.Sort(errs)
		err = errors.New(strings.Join(errs, "; "))
	}
	return sum, err
}

// sessionsOf makes a gateway close, move or count sessions.
func (n *node) sessionsOf(ctx context.Context, m console.Member, req *peer.SessionsRequest) (reply *peer.SessionsReply, err error) {
	err = n.ask(ctx, m, func(s transport.Peer) (err error) {
		reply, err = s.Sessions(ctx, req)
		return err
	}, func(c transport.Client) (err error) {
		reply, err = c.Sessions(ctx, req)
		return err
	})
	return reply, err
}

// ask calls a member over its link, or this node itself without one. The error is
// written for operators.
func (n *node) ask(ctx context.Context, m console.Member, own func(transport.Peer) error, other func(transport.Client) error) error {
	var err error
	if m.ID == n.cfg.Name {
		err = own(n.peerServer())
	} else {
		err = other(n.pool.Peer(m.Peer))
	}
	if err != nil {
		return whySilent(ctx, err)
	}
	return nil
}

// member returns a member of the cluster.
func (n *node) member(id string) (console.Member, []console.Member, error) {
	members := n.consoleState().Members
	for _, m := range members {
		if m.ID == id {
			return m, members, nil
		}
	}
	return console.Member{}, nil, fmt.Errorf("%.80q is not a member of the cluster", id)
}

func (n *node) moveSessions(ctx context.Context, a actionArgs) (string, error) {
	if a.Count < 1 || a.Count > maxMoved {
		return "", fmt.Errorf("the argument count must be from 1 to %d", maxMoved)
	}
	m, members, err := n.member(a.Member)
	if err != nil {
		return "", err
	}
	if !anotherReady(members, m.ID, "gateway") {
		return "", fmt.Errorf("%s is the only ready gateway, so its sessions have no other place", m.ID)
	}
	reply, err := n.sessionsOf(ctx, m, &peer.SessionsRequest{Move: uint32(a.Count)})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("asked %s of %s to connect elsewhere", counted(int(reply.Asked), "session"), m.ID), nil
}

func (n *node) changeLogLevel(ctx context.Context, a actionArgs) (string, error) {
	m, _, err := n.member(a.Member)
	if err != nil {
		return "", err
	}
	req := &peer.LogLevelRequest{Level: a.Level}
	var reply *peer.LogLevelReply
	err = n.ask(ctx, m, func(s transport.Peer) (err error) {
		reply, err = s.LogLevel(ctx, req)
		return err
	}, func(c transport.Client) (err error) {
		reply, err = c.LogLevel(ctx, req)
		return err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("the level of %s's log is %s; it was %s", m.ID, a.Level, reply.Before), nil
}

// anotherReady reports whether a member other than id is ready and has a role.
func anotherReady(members []console.Member, id, role string) bool {
	return slices.ContainsFunc(members, func(m console.Member) bool {
		return m.ID != id && m.State == "ready" && slices.Contains(m.Roles, role)
	})
}

// drainMember makes a member leave the cluster, as ganglion drain does.
func (n *node) drainMember(ctx context.Context, a actionArgs) (string, error) {
	m, members, err := n.member(a.Member)
	if err != nil {
		return "", err
	}
	for _, role := range m.Roles {
		if !anotherReady(members, m.ID, role) {
			return "", fmt.Errorf("%s is the last ready member with the role %s: start another one first", m.ID, role)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, drainActionTime)
	defer cancel()
	var last *peer.DrainProgress
	err = n.ask(ctx, m, func(transport.Peer) error {
		n.log.Info("an operator drains this node", "shutdown", false)
		n.leaving.begin()
		select {
		case <-n.leaving.left:
			last = &peer.DrainProgress{Left: true}
			return nil
		case <-ctx.Done():
			last = &peer.DrainProgress{Sessions: uint32(n.vitals().Sessions)}
			return ctx.Err()
		}
	}, func(c transport.Client) error {
		reports, err := c.Drain(ctx, &peer.DrainRequest{})
		for err == nil {
			var report *peer.DrainProgress
			if report, err = reports.Recv(); err == nil {
				last = report
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err == nil && !(last != nil && last.Left) {
			err = transport.Errorf(transport.Aborted, "it stopped before it had left")
		}
		return err
	})
	switch {
	case (last != nil && last.Left):
		return m.ID + " has left; stop its process, or restart it to bring the member back", nil
	case last != nil && ctx.Err() != nil:
		return fmt.Sprintf("%s drains, and %s are still open", m.ID, counted(int(last.Sessions), "session")), nil
	}
	return "", err
}

// verifyLog checks the whole log as ganglion verify does, with connections of its own.
// It ends when the node has left the cluster.
func (n *node) verifyLog(ctx context.Context, _ actionArgs) (string, error) {
	if !n.verifying.TryLock() {
		return "", errors.New("this node checks the log already: wait for that outcome")
	}
	defer n.verifying.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-n.leaving.left:
			cancel()
		case <-ctx.Done():
		}
	}()
	store, err := OpenStore(ctx, StoreConfig{URL: n.cfg.Store, Password: n.cfg.StorePassword, ReadConns: 1, ReadOnly: true, Logger: n.log})
	if err != nil {
		return "", err
	}
	defer store.Close()
	report, err := verify.Log(ctx, store)
	switch {
	case n.leaving.hasLeft():
		return "", errors.New("the node stopped before the whole log was read")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", fmt.Errorf("the log was not read within %v: use ganglion verify", verifyTime)
	case err != nil:
		return "", err
	}
	read := fmt.Sprintf("%s in %s of %s, up to position %d", counted(int(report.Events), "event"), counted(int(report.Commits), "commit"), counted(int(report.Streams), "stream"), report.Head)
	if len(report.Faults) == 0 {
		return "no faults found: " + read, nil
	}
	var faults []string
	for _, f := range report.Faults {
		faults = append(faults, f.String())
	}
	return "", fmt.Errorf("the log is damaged: %s: %s", strings.Join(faults, "; "), read)
}
