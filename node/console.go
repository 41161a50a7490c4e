package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/router/transport"
	"github.com/ganglion-es/ganglion/web"
)

const (
	// consolePath is where the console is served.
	consolePath = "/_ganglion/"
	// roleClaim is the claim of a token that has the role of a user of the console.
	roleClaim = "ganglion_role"
)

// makeConsole makes the console, if the node serves one.
func (n *node) makeConsole() error {
	if n.consolePort == nil && !n.cfg.devConsole {
		return nil
	}
	actions, why := n.consoleActions(), n.whyNoActions()
	if why != "" {
		n.log.Warn(why)
		actions = nil
	}
	n.console = console.New(console.Config{
		Node: n.cfg.Name, Cluster: n.cfg.Cluster, Identify: n.identifyUser, State: n.consoleState, Ring: n.consoleRing, Vitals: n.vitalsOf, Steps: n.steps, Sessions: n.findSessions, Profile: n.profileOf,
		Size: n.store.Size, Audit: n.store, Actions: actions, NoActions: why, Now: n.cfg.Now,
		Log: n.store, Owner: n.ownerOf, Folds: folds{n.cfg.Catalog}, Views: n.consoleViews(), Pages: web.Console(), Logger: n.log,
	})
	return nil
}

// serveConsole serves the console on its own port.
func (n *node) serveConsole(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle(consolePath, n.consoleHandler())
	mux.Handle("GET /{$}", http.RedirectHandler(strings.TrimPrefix(consolePath, "/"), http.StatusFound))
	var handler http.Handler = mux
	if n.trustsUsers() { // also without the gateway role
		handler = n.cfg.onlyKnownHosts(mux, n.log)
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: adminHeaderTimeout, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	serve, scheme := func() error { return server.Serve(n.consolePort) }, "http"
	if !n.consoleIsLocal() {
		server.TLSConfig = n.tls.Users()
		serve, scheme = func() error { return server.ServeTLS(n.consolePort, "", "") }, "https"
	}
	n.log.Info("the console is served", "url", scheme+"://"+urlHost(n.consolePort.Addr())+consolePath)
	return serveUntil(ctx, serve, func() { server.Close() })
}

// consoleIsLocal reports whether only users on this machine reach the console's own port.
func (n *node) consoleIsLocal() bool {
	return n.consolePort == nil || isLoopback(n.consolePort.Addr().String())
}

// consoleHandler serves the console, and the clients' paths below it: the page to try
// commands is a client, which has its own access rules.
func (n *node) consoleHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", http.NewCrossOriginProtection().Handler(n.console.Handler()))
	if n.gateway != nil {
		mux.Handle("/v1/", n.unlessLeft(n.gateway.Handler()))
	} else {
		mux.HandleFunc("/v1/", refuseClient)
	}
	return http.StripPrefix(strings.TrimSuffix(consolePath, "/"), mux)
}

// knowsTokens reports whether the node verifies tokens.
func (n *node) knowsTokens() bool { return n.cfg.Auth != gateway.Development() }

// trustsUsers reports whether users of the console need no token.
func (n *node) trustsUsers() bool { return !n.knowsTokens() && n.consoleIsLocal() }

// identifyUser returns the user of the console who sent a request. In development mode
// and on a node without tokens, everybody on this machine is an operator, unless a
// development token says otherwise.
func (n *node) identifyUser(r *http.Request) (console.User, error) {
	token, has := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	trusts := n.trustsUsers()
	switch {
	case has && (trusts || n.knowsTokens()):
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		cert := r.TLS.PeerCertificates[0]
		return console.User{Name: cert.Subject.CommonName, Role: console.Operator, Expires: cert.NotAfter}, nil
	case trusts:
		return console.User{Name: "developer", Role: console.Operator}, nil
	case n.knowsTokens():
		return console.User{}, errors.New("the console needs a token: send Authorization: Bearer and a token with the claim " + roleClaim)
	default:
		return console.User{}, errors.New("this node verifies no tokens: present a certificate of the cluster's authority, or use the console of a gateway with Auth (--auth)")
	}
	id, err := n.cfg.Auth.Token(r.Context(), token)
	if err != nil {
		return console.User{}, err
	}
	user := console.User{Name: id.Client, Expires: id.Expires}
	user.Role = roleOf(id.Claims)
	if _, claims := id.Claims[roleClaim]; trusts && !claims {
		user.Role = console.Operator
	}
	if user.Role == "" {
		return user, fmt.Errorf("%w: the token of %q needs the claim %s with viewer, reader or operator", console.ErrForbidden, id.Client, roleClaim)
	}
	return user, nil
}

// roleOf returns the most powerful role in the claims of a token, "" without one. The
// claim is a role or a list of roles.
func roleOf(claims map[string]any) (role console.Role) {
	var names []any
	switch claim := claims[roleClaim].(type) {
	case string:
		names = []any{claim}
	case []any:
		names = claim
	}
	for _, r := range []console.Role{console.Viewer, console.Reader, console.Operator} {
		if slices.Contains(names, any(string(r))) {
			role = r
		}
	}
	return role
}

// consoleState returns the cluster as this node sees it, without asking other nodes.
func (n *node) consoleState() console.State {
	owners, view := n.router.Ring(), n.cluster.View()
	counts := owners.Counts()
	s := console.State{
		State: stateOf(n.status.Load().state, n.problem()), Log: n.store.LogID(), Head: uint64(n.feed.Stats().Watermark),
		Ring: RingSignature(owners), Partitions: ring.Partitions, Owners: len(owners.Members()), Members: []console.Member{}, Lost: []console.Lost{},
	}
	if err := n.status.Load().problem(); err != nil {
		s.Problem = err.Error()
	}
	for _, m := range view.Members {
		s.Members = append(s.Members, console.Member{
			ID: m.ID, State: stateOf(m.State, m.Problem), Problem: m.Problem.String(), Roles: roles(m), Version: m.Version,
			AgeSeconds: wholeSeconds(n.cfg.Now().Sub(time.Unix(0, int64(m.Boot)))), Peer: m.PeerAddr, HTTP: m.HTTPAddr,
			Partitions: counts[m.ID], ClockMS: m.ClockMS, Ring: signature(m.Ring),
		})
	}
	for _, l := range n.cluster.Lost() {
		s.Lost = append(s.Lost, console.Lost{ID: l.Member.ID, Seconds: wholeSeconds(time.Since(l.At))})
	}
	return s
}

// whySilent says why a member has not answered.
func whySilent(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil || transport.CodeOf(err) == transport.Canceled:
		return errors.New("no answer in time")
	case transport.CodeOf(err) == transport.Unimplemented:
		return errors.New("it is too old for this: upgrade it")
	}
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
